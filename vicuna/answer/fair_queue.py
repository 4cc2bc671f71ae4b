"""A queue in which those who ask take turns, and where there is no room for all, those give who have most.

Turns go by shares: a login or an address, which a client can not make more of by names that it invents. Within a share
they go by the names that its clients give themselves.
"""

from collections import OrderedDict, deque
from collections.abc import Callable
from typing import Generic, NamedTuple, TypeVar

from vicuna.errors import UserError
from vicuna.sentences import Sentence

Item = TypeVar("Item")


class Client(NamedTuple):
    """Who asks: whose share it is, and which of those that have it."""

    share: str
    name: str = ""


class QueueFull(UserError):
    """As many wait as may.

    Attributes:
        retry_s: whole seconds after which a place is likely to be free, at least 1.
    """

    def __init__(self, message: str, retry_s: int = 1):
        super().__init__(message)
        self.retry_s = retry_s


class FairQueue(Generic[Item]):
    """Round-robin between shares, and within one between its clients, first in first out within one of these.

    Args:
        most: items that may wait.
    """

    def __init__(self, most: int):
        self.most = most
        self._shares: OrderedDict[str, OrderedDict[str, deque[Item]]] = OrderedDict()  # whose turn it is first

    def __len__(self) -> int:
        return sum(map(self._count, self._shares))

    def _count(self, share: str) -> int:
        return sum(map(len, self._shares.get(share, {}).values()))

    def add(self, item: Item, client: Client) -> Item | None:
        """Have an item wait; returns the one that lost its place to it, the latest of the share with most.

        Raises:
            QueueFull: the queue is full, and no share has more than this one would.
        """
        lost = None
        if len(self) >= self.most:
            largest = max(reversed(self._shares), key=self._count)
            if self._count(largest) <= self._count(client.share) + 1:
                raise QueueFull(Sentence("queue_full", waiting=self.most))
            lost = self._pop_latest(largest)
        self._shares.setdefault(client.share, OrderedDict()).setdefault(client.name, deque()).append(item)
        return lost

    def _pop_latest(self, share: str) -> Item:
        clients = self._shares[share]
        name = max(reversed(clients), key=lambda name: len(clients[name]))
        item = clients[name].pop()
        self._drop_empty(Client(share, name))
        return item

    def remove(self, item: Item, client: Client) -> bool:
        """Take an item back; False if it does not wait."""
        items = self._shares.get(client.share, {}).get(client.name, ())
        if item not in items:
            return False
        items.remove(item)
        self._drop_empty(client)
        return True

    def _drop_empty(self, client: Client) -> None:
        clients = self._shares[client.share]
        if not clients[client.name]:
            del clients[client.name]
        if not clients:
            del self._shares[client.share]

    def take(self, served: Client | None = None, may: Callable[[str], bool] = lambda share: True) -> Item | None:
        """The item whose turn it is, which does not wait any more; None for none.

        Args:
            served: whose item has just ended: those come first that came meanwhile.
            may: whether it can be a share's turn.
        """
        if served:
            self._to_end(served)
        share = next(filter(may, self._shares), None)
        if share is None:
            return None
        name = next(iter(self._shares[share]))
        item = self._shares[share][name].popleft()
        self._to_end(Client(share, name))
        self._drop_empty(Client(share, name))
        return item

    def _to_end(self, client: Client) -> None:
        if clients := self._shares.get(client.share):
            self._shares.move_to_end(client.share)
            if client.name in clients:
                clients.move_to_end(client.name)

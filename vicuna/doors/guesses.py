"""Guessing of passwords and keys, slowed by address.

After a few wrong ones an address has to wait before the next is looked at, each time twice as long. A wrong one that
is sent again and again, as by a client with an old key, is one guess. What is remembered and what is logged is bounded,
however many addresses there are.
"""

import hashlib
import secrets
import time
from collections import OrderedDict, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from ipaddress import ip_address, ip_network
from math import ceil

from vicuna.log import log

FREE = 5  # wrong ones that cost no waiting
LONGEST_S = 60
FORGOTTEN_S = 15 * 60  # after the last wrong one
MOST_ADDRESSES = 4096
SAME_KEPT = 8
LINES = 20  # of the log, a minute


@dataclass
class _Wrong:
    count: int = 0
    last: float = 0.0
    seen: deque[bytes] = field(default_factory=lambda: deque(maxlen=SAME_KEPT))


class Guesses:
    """Wrong passwords and keys, by address.

    Args:
        clock: seconds that only grow.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic):
        self._clock = clock
        self._wrong: OrderedDict[str, _Wrong] = OrderedDict()  # the latest last
        self._salt = secrets.token_bytes(16)
        self._minute, self._lines, self._unsaid = float("-inf"), 0, 0

    def __len__(self) -> int:
        return len(self._wrong)

    def wait_s(self, address: str) -> int:
        """Seconds that an address has to wait before another guess is looked at; 0 for none."""
        known = self._wrong.get(_network(address))
        if known is None or known.count < FREE:
            return 0
        wait = min(LONGEST_S, 2 ** min(known.count - FREE, 10))
        return max(0, ceil(known.last + wait - self._clock()))

    def was_wrong(self, address: str, kind: str, guess: str) -> None:
        """Count a wrong one, and say so in the log.

        Args:
            kind: what the log calls it.
        """
        network, now = _network(address), self._clock()
        while self._wrong and now - next(iter(self._wrong.values())).last > FORGOTTEN_S:
            self._wrong.popitem(last=False)
        known = self._wrong.setdefault(network, _Wrong())
        digest = hashlib.blake2b(f"{kind}\0{guess}".encode(errors="replace"), key=self._salt, digest_size=16).digest()
        if digest in known.seen:
            return
        known.seen.append(digest)
        known.count, known.last = known.count + 1, now
        self._wrong.move_to_end(network)
        while len(self._wrong) > MOST_ADDRESSES:
            self._wrong.popitem(last=False)
        self._say(f"a wrong {kind} from {network}, number {known.count} of late", self.wait_s(address))

    def _say(self, what: str, wait: int) -> None:
        now = self._clock()
        if now - self._minute >= 60:
            if self._unsaid:
                log.warning("WARNING %d more wrong passwords or keys were not told one by one.", self._unsaid)
            self._minute, self._lines, self._unsaid = now, 0, 0
        if self._lines == LINES:
            self._unsaid += 1
            return
        self._lines += 1
        log.warning("WARNING %s; %s.", what, f"the next is looked at in {wait} s" if wait else "it may try again")


def _network(address: str) -> str:
    """What counts as one address: of IPv6 the part that a household is given."""
    try:
        ip = ip_address(address)
    except ValueError:
        return "an unknown address"
    if ip.version == 4:
        return str(ip)
    if ip.ipv4_mapped:
        return str(ip.ipv4_mapped)
    return str(ip_network((int(ip), 64), strict=False))

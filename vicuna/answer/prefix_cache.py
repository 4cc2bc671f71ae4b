"""Keys and values of what earlier prompts and answers begin with: what a prompt shares with them is not computed again.

One radix tree for everybody: a node holds some ids with their keys and values, its children what has followed them.
What several conversations begin with is there once, and none of them can cut off another's.
"""

from collections.abc import Iterator
from itertools import count

import torch

from vicuna.answer.kv_cache import PreallocatedCache, PreallocatedLayer

Tensors = list[tuple[torch.Tensor, torch.Tensor]]  # of each layer: keys and values, (1, heads, n, size of a head)


class Node:
    """Ids that followed the parent's, their keys and values, and what has followed them, by its first id."""

    def __init__(self, ids: list[int], tensors: Tensors, parent: "Node | None", used: int = 0):
        self.ids, self.tensors, self.parent, self.used = ids, tensors, parent, used
        self.children: dict[int, Node] = {}

    @property
    def bytes(self) -> int:
        """What its tensors take."""
        return sum(keys.nbytes + values.nbytes for keys, values in self.tensors)


class PrefixCache:
    """The least recently used leaves go first when there is no room for what is new.

    Not thread-safe: it belongs to the one thread that calls the model.

    Args:
        limit: most bytes of keys and values; 0 keeps nothing.

    Attributes:
        bytes: those kept.
    """

    def __init__(self, limit: int):
        self.limit, self.bytes = limit, 0
        self._roots: dict[str, Node] = {}  # by adapter: what one computes is wrong for another
        self._clock = count(1)

    def fill(self, cache: PreallocatedCache, adapter: str, ids: list[int]) -> int:
        """Put what is known of `ids` into an empty cache; returns how many of them, from the first on."""
        if not self._fits(cache):
            return 0
        path = list(self._path(adapter, ids))
        if not path:
            return 0
        for number, layer in enumerate(cache.layers):
            layer.reserve(*path[0][0].tensors[number], len(ids))
            for node, n in path:
                layer.update(*(tensor[..., :n, :] for tensor in node.tensors[number]))
        return sum(n for _, n in path)

    def keep(self, adapter: str, ids: list[int], cache: PreallocatedCache, row: int = 0) -> None:
        """Take what `cache` holds of `ids` in one row; the cache itself is left as it is.

        Args:
            ids: the row's, from the first on. Those it holds no keys and values of, in every layer, are left out.
        """
        if not self._fits(cache):
            return
        known = min(layer.get_seq_length() for layer in cache.layers)
        size = sum(layer.keys[:1, :, :1].nbytes + layer.values[:1, :, :1].nbytes for layer in cache.layers if known)
        ids = ids[: min(known, self.limit // size)] if size else []
        path = list(self._path(adapter, ids))
        begin = sum(n for _, n in path)
        if begin == len(ids):
            return
        new = [
            tuple(t[row : row + 1, :, begin : len(ids)].clone() for t in (layer.keys, layer.values))
            for layer in cache.layers
        ]
        parent = self._split(*path[-1]) if path else self._roots.setdefault(adapter, Node([], [], None))
        node = parent.children[ids[begin]] = Node(ids[begin:], new, parent, next(self._clock))
        self.bytes += node.bytes
        while self.bytes > self.limit:
            self._forget(min((node for node in self._nodes() if not node.children), key=lambda node: node.used))

    def clear(self) -> bool:
        """Forget everything; False if there was nothing."""
        had = self.bytes > 0
        self._roots, self.bytes = {}, 0
        return had

    def _fits(self, cache: PreallocatedCache) -> bool:
        """Only keys and values of every position can be cut at any of them."""
        return self.limit > 0 and bool(cache.layers) and all(type(layer) is PreallocatedLayer for layer in cache.layers)

    def _path(self, adapter: str, ids: list[int]) -> Iterator[tuple[Node, int]]:
        """The nodes that `ids` begin with, and how many ids of each; they count as used now."""
        node, at, now = self._roots.get(adapter), 0, next(self._clock)
        while node is not None and at < len(ids) and (node := node.children.get(ids[at])):
            node.used = now
            n = common_prefix_length(node.ids, ids[at : at + len(node.ids)])
            yield node, n
            at += n
            if n < len(node.ids):
                return

    def _split(self, node: Node, n: int) -> Node:
        """A node of the first `n` ids of `node`, which has the rest after it."""
        if n == len(node.ids):
            return node
        first = Node(node.ids[:n], _part(node.tensors, slice(None, n)), node.parent, node.used)
        node.parent.children[node.ids[0]] = first
        first.children[node.ids[n]] = node
        node.ids, node.tensors, node.parent = node.ids[n:], _part(node.tensors, slice(n, None)), first
        return first

    def _forget(self, leaf: Node) -> None:
        self.bytes -= leaf.bytes
        del leaf.parent.children[leaf.ids[0]]

    def _nodes(self) -> Iterator[Node]:
        waiting = [child for root in self._roots.values() for child in root.children.values()]
        while waiting:
            yield (node := waiting.pop())
            waiting.extend(node.children.values())


def _part(tensors: Tensors, positions: slice) -> Tensors:
    """Copies of some positions, so that the others' memory can be given back."""
    return [(keys[..., positions, :].clone(), values[..., positions, :].clone()) for keys, values in tensors]


def common_prefix_length(one: list[int], other: list[int]) -> int:
    """How many ids both begin with."""
    return next((n for n, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))

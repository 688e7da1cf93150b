"""Graphs with shortcuts as chains, for readers that run one node after the other.

Spikes that a later layer needs are sent on, layer by layer, by neurons of their own (relays): each has one input of
weight 1 and fires when a spike comes. The populations of one stage lie side by side as the channels of one node.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from transpike.errors import ExportError, UnsupportedOperator
from transpike.interop.lower_layers import INPUT, Node
from transpike.interop.targets import NirTarget

_ABOVE = 2**-10
"""How far a relay that fires only above its threshold is driven beyond it; what remains adds up over the steps."""


class _NoChainError(Exception):
    """A shortcut cannot become relays; the message says why."""


@dataclass(frozen=True, eq=False)
class _Piece:
    """A convolution from one population to another, as ``[out, in, kh, kw]``."""

    source: str
    weight: Tensor
    bias: Tensor
    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int] = (0, 0)
    dilation: tuple[int, int] = (1, 1)

    @property
    def kernel(self) -> tuple[int, int]:
        return (self.weight.shape[2], self.weight.shape[3])

    @property
    def picks(self) -> bool:
        """Whether it looks at single pixels."""
        return self.kernel == (1, 1) and self.padding == (0, 0)


def as_chain(nodes: Sequence[Node], target: NirTarget) -> list[Node]:
    """The same network with one node behind the other.

    Args:
        nodes: in order of execution.
        target: who reads it.

    Raises:
        ExportError: a shortcut has a form that relays cannot carry.
    """
    users: dict[str, int] = {}
    for node in nodes:
        for name in node.inputs:
            users[name] = users.get(name, 0) + 1
    if all(len(node.inputs) <= 1 for node in nodes) and all(number == 1 for number in users.values()):
        return list(nodes)
    try:
        return _Chain(nodes, target).run()
    except _NoChainError as problem:
        fix = "export for a target that runs any graph, such as spikingjelly or plain"
        where = [UnsupportedOperator("", "shortcut", "(the graph)", str(problem), fix)]
        raise ExportError(where, target.name) from problem


class _Chain:
    def __init__(self, nodes: Sequence[Node], target: NirTarget) -> None:
        self.target = target
        self.by_name = {node.name: node for node in nodes}
        self.stages = [node for node in nodes if node.kind == "IF"]
        self.last = nodes[-1]
        self.done: list[Node] = []
        self.needed = {node.name: self._populations(node) for node in (*self.stages, self.last)}

    def run(self) -> list[Node]:
        """Stage by stage; ``stack`` says which channels of the last node are whose."""
        first = self.by_name[INPUT]
        self.done = [first]
        here, stack, shapes = first, {INPUT: (0, first.shape[0])}, {INPUT: first.shape}
        picked: dict[str, tuple[int, int]] = {}
        for number, node in enumerate((*self.stages, self.last)):
            later = set().union(*(self.needed[other.name] for other in (*self.stages, self.last)[number + 1 :]))
            relayed = [name for name in stack if name in later]
            if not relayed and len(stack) == 1 and self._is_line(node):
                here = self._copied(node, here)
            else:
                if node is self.last:
                    raise _NoChainError("several branches lead to the answers")
                here, stack = self._stage(node, here, stack, relayed, shapes, picked)
                continue
            stack, shapes = {node.name: (0, node.shape[0])}, {**shapes, node.name: node.shape}
        return self.done

    def _populations(self, node: Node) -> set[str]:
        """The populations that a node's drive comes from."""
        found: set[str] = set()
        for name in node.inputs:
            source = self.by_name[name]
            found |= {name} if source.kind in ("IF", "Input") else self._populations(source)
        return found

    def _is_line(self, node: Node) -> bool:
        """Whether a node's drive comes on one way."""
        while len(node.inputs) == 1:
            node = self.by_name[node.inputs[0]]
            if node.kind in ("IF", "Input"):
                return True
        return False

    def _copied(self, node: Node, here: Node) -> Node:
        """A node and what lies between it and the population before."""
        line = [node]
        while self.by_name[line[-1].inputs[0]].kind not in ("IF", "Input"):
            line.append(self.by_name[line[-1].inputs[0]])
        for each in reversed(line):
            here = replace(each, inputs=(here.name,))
            self.done.append(here)
        return here

    def _stage(
        self,
        node: Node,
        here: Node,
        stack: dict[str, tuple[int, int]],
        relayed: list[str],
        shapes: dict[str, tuple[int, ...]],
        picked: dict[str, tuple[int, int]],
    ) -> tuple[Node, dict[str, tuple[int, int]]]:
        """A population beside the relays of others: one convolution, one node of neurons."""
        if len(node.shape) != 3 or len(here.shape) != 3:
            raise _NoChainError("a shortcut goes past a layer that has no image")
        pieces = [(self._piece(name, picked), (0, node.shape[0])) for name in node.inputs]
        channels = node.shape[0]
        after = {node.name: (0, channels)}
        for name in relayed:
            count = stack[name][1] - stack[name][0]
            pieces.append((self._relay(name, count, shapes[name], node.shape, picked), (channels, channels + count)))
            after[name] = (channels, channels + count)
            shapes[name] = (count, *node.shape[1:])
            channels += count
        shapes[node.name] = node.shape
        convolution = self._joined(node, here, [(piece, rows, stack[piece.source]) for piece, rows in pieces], channels)
        self.done.append(convolution)
        relays = torch.ones(channels - node.shape[0], *node.shape[1:], dtype=torch.float64)
        arrays = {"v_threshold": torch.cat([node.arrays["v_threshold"], relays])}
        new = replace(node, inputs=(convolution.name,), shape=(channels, *node.shape[1:]), arrays=arrays)
        self.done.append(new)
        return new, after

    def _piece(self, name: str, picked: dict[str, tuple[int, int]]) -> _Piece:
        source = self.by_name[name]
        if source.kind == "IF":
            eye = torch.eye(source.shape[0], dtype=torch.float64)[:, :, None, None]
            return _Piece(name, eye, torch.zeros(source.shape[0], dtype=torch.float64))
        before = source.inputs[0] if source.inputs else ""
        if source.kind != "Conv2d" or self.by_name[before].kind not in ("IF", "Input"):
            raise _NoChainError(f"a shortcut leads through more than one convolution (node {name})")
        numbers = source.settings
        piece = _Piece(
            before,
            source.arrays["weight"],
            source.arrays["bias"],
            tuple(numbers["stride"]),
            tuple(numbers["padding"]),
            tuple(numbers["dilation"]),
        )
        if before in picked:  # its relays hold every n-th pixel already
            if not piece.picks or piece.stride != picked[before]:
                raise _NoChainError(f"the spikes of {before} are needed at several sizes")
            piece = replace(piece, stride=(1, 1))
        return piece

    def _relay(
        self,
        name: str,
        count: int,
        shape: tuple[int, ...],
        wanted: tuple[int, ...],
        picked: dict[str, tuple[int, int]],
    ) -> _Piece:
        stride = (1, 1)
        if shape[1:] != wanted[1:]:
            stride = (-(-shape[1] // wanted[1]), -(-shape[2] // wanted[2]))
            if name in picked or tuple((shape[i] - 1) // stride[i - 1] + 1 for i in (1, 2)) != wanted[1:]:
                raise _NoChainError(f"the spikes of {name} go past layers of several sizes")
            picked[name] = stride
        weight = 1 + (_ABOVE if self.target.rule.strict else 0.0)
        eye = weight * torch.eye(count, dtype=torch.float64)[:, :, None, None]
        return _Piece(name, eye, torch.zeros(count, dtype=torch.float64), stride)

    def _joined(
        self, node: Node, here: Node, pieces: list[tuple[_Piece, tuple[int, int], tuple[int, int]]], channels: int
    ) -> Node:
        """All pieces as one convolution; those that look at single pixels are its taps in the centre."""
        main = max((piece for piece, _, _ in pieces), key=lambda piece: piece.kernel[0] * piece.kernel[1])
        weight = torch.zeros(channels, here.shape[0], *main.kernel, dtype=torch.float64)
        bias = torch.zeros(channels, dtype=torch.float64)
        for piece, (top, bottom), (left, right) in pieces:
            if piece.stride != main.stride:
                raise _NoChainError(f"branches that meet at {node.name} have different strides")
            bias[top:bottom] += piece.bias
            same = (piece.kernel, piece.padding, piece.dilation) == (main.kernel, main.padding, main.dilation)
            if same:
                weight[top:bottom, left:right] += piece.weight
                continue
            taps = [divmod(p, d) for p, d in zip(main.padding, main.dilation, strict=True)]
            if not piece.picks or any(rest for _, rest in taps) or not _inside(taps, main.kernel):
                raise _NoChainError(f"branches that meet at {node.name} look at different windows")
            weight[top:bottom, left:right, taps[0][0], taps[1][0]] += piece.weight[:, :, 0, 0]
        settings = {"stride": main.stride, "padding": main.padding, "dilation": main.dilation, "groups": 1}
        number, _, rest = node.name.partition("_")
        name = f"n{int(number[1:]) - 1:04d}_{rest}_drive"  # in front of the neurons in the alphabet
        arrays = {"weight": weight, "bias": bias}
        return Node(name, "Conv2d", (here.name,), (channels, *node.shape[1:]), arrays, settings)


def _inside(taps: Sequence[tuple[int, int]], kernel: tuple[int, int]) -> bool:
    return all(tap < size for (tap, _), size in zip(taps, kernel, strict=True))

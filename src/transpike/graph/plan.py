"""The plan: what each value of the graph is in time, the sites in order, and what cannot be converted."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum

from torch import Tensor, fx, nn

from transpike.errors import UnsupportedOperator, count
from transpike.graph.capture import source_of
from transpike.graph.example_run import batch_violations, examples_of, layouts_of, tensor_shape
from transpike.graph.function_site import SiteKind, kind_of
from transpike.graph.linear_operators import Change
from transpike.graph.normalize import ActivationCall, modules_of
from transpike.graph.operators import (
    MaxPooling,
    Role,
    advice,
    change_of,
    is_left,
    leave_name,
    names_of,
    operator_name,
    role_of,
    takes_batch_statistics,
)
from transpike.graph.sizes import Grows, SymbolicSizes, contains
from transpike.graph.walk import site_of

KEEP_BATCH = "keep the batch as the first dimension, for example x.flatten(1)"


class Kind(Enum):
    """What a value is in time.

    ``CONSTANT`` does not depend on the input; ``SIZE`` is a Python number or shape; ``STATIC`` is the same at every
    step; ``SEQUENCE`` differs from step to step; ``MEAN`` lies behind the readout: a running mean per step.
    """

    CONSTANT = "constant"
    SIZE = "size"
    STATIC = "static"
    SEQUENCE = "sequence"
    MEAN = "mean"


Layout = tuple[int, int]
"""Which dimension of a value holds the batch, and how many rows of it each sample has."""

FIRST: Layout = (0, 1)
"""``[N, *]``."""

_IN_TIME = (Kind.SEQUENCE, Kind.MEAN)
_BATCHED = (Kind.STATIC, *_IN_TIME)


@dataclass(frozen=True)
class SitePlan:
    """One population of neurons.

    Attributes:
        name: the site's name, also the path of its module.
        node: name of its node in the graph.
        shape: shape of one sample's population, from the example inputs.
        constant_drive: whether its drive is the same at every step.
        operator: what the source model called.
        source: ``file:line: code``.
        kind: what its neurons compute.
    """

    name: str
    node: str
    shape: tuple[int, ...]
    constant_drive: bool
    operator: str
    source: str
    kind: SiteKind = SiteKind.IF

    @property
    def neurons(self) -> int:
        """Number of neurons."""
        count = 1
        for size in self.shape:
            count *= size
        return count


@dataclass(frozen=True)
class Plan:
    """A frozen index over the graph, by node name.

    Attributes:
        kinds: what each value is in time.
        sites: the populations in execution order.
        readouts: values that are averaged over time: the answers, or what feeds operators kept behind them.
        pools: max-pooling nodes that act on sequences.
        analogue: operators that are not linear in time and stay as they are: in front of the first neurons, where no
            spikes arrive, and behind the last ones, where they act on the running mean.
        grows: numbers and shapes that are multiples of the batch size, or which of their entries are.
        read: values that do not change in time and need a size of one that does.
        layouts: where the batch is, of values that are not ``[N, *]``.
    """

    kinds: Mapping[str, Kind]
    sites: tuple[SitePlan, ...]
    readouts: tuple[str, ...]
    pools: tuple[str, ...]
    analogue: tuple[str, ...]
    grows: Mapping[str, Grows]
    read: frozenset[str]
    layouts: Mapping[str, Layout]

    @property
    def functions(self) -> tuple[SitePlan, ...]:
        """The sites that are no ReLU."""
        return tuple(site for site in self.sites if site.kind is not SiteKind.IF)

    def in_time(self, node: str) -> bool:
        """Whether a value is computed with the sequences, and not before them."""
        return self.kinds[node] in _IN_TIME or node in self.read


def kinds_of_sites(plan: Plan) -> str:
    """The number of sites, and of each kind where not all are ReLUs: ``9 sites (2 if, 4 pointwise, 3 group)``."""
    kinds = {kind: sum(site.kind is kind for site in plan.sites) for kind in SiteKind}
    listed = ", ".join(f"{number} {kind.value}" for kind, number in kinds.items() if number)
    return count(len(plan.sites), "site") + (f" ({listed})" if plan.functions else "")


@dataclass(frozen=True)
class Planning:
    """A plan, and the operators that do not convert; only without any it is complete."""

    plan: Plan
    unsupported: tuple[UnsupportedOperator, ...]


def make_plan(
    gm: fx.GraphModule,
    inputs: Sequence[Tensor],
    calls: Sequence[ActivationCall],
    leave: Collection[str],
    max_pooling: MaxPooling,
    time_varying: Collection[str] = (),
) -> Planning:
    """Classifies every node.

    Args:
        gm: normalised graph with a `Site` at every activation call.
        inputs: the probing batch.
        calls: what the sites were in the source.
        leave: names of activations that are kept as they are.
        max_pooling: how max-pooling runs in time.
        time_varying: names of the arguments that differ from step to step; the others are constant.
    """
    return _Planner(gm, inputs, calls, leave, max_pooling, time_varying).run()


class _Planner:
    def __init__(
        self,
        gm: fx.GraphModule,
        inputs: Sequence[Tensor],
        calls: Sequence[ActivationCall],
        leave: Collection[str],
        max_pooling: MaxPooling,
        time_varying: Collection[str],
    ) -> None:
        self.gm = gm
        self.time_varying = time_varying
        self.max_pooling = max_pooling
        self.inputs = inputs
        self.modules = modules_of(gm)
        self.calls = {call.name: call for call in calls}
        self.leave = set(leave)
        self.kinds: dict[fx.Node, Kind] = {}
        self.unsupported: list[UnsupportedOperator] = []
        self.readouts: dict[fx.Node, None] = {}
        self.pools: list[fx.Node] = []
        self.analogue: list[str] = []
        self.read: set[fx.Node] = set()
        self.examples = examples_of(gm, inputs)
        self.shapes = {node: tensor_shape(value) for node, value in self.examples.items()}
        self.layouts = layouts_of(gm, inputs, self.shapes)
        self.sizes = SymbolicSizes(
            gm, self.examples, lambda node: self.layouts.get(node, FIRST) if self.kinds.get(node) in _BATCHED else None
        )
        self.before_site = ancestors_of_sites(gm, self.modules)

    def run(self) -> Planning:
        for node in self.gm.graph.nodes:
            self.kinds[node] = kind = self._classify(node)
            if kind not in _IN_TIME and any(self.kinds[n] in _IN_TIME or n in self.read for n in node.all_input_nodes):
                self.read.add(node)
        grows = self._check_sizes()
        batched = {
            node: kind in _BATCHED and node.op != "output" and not self._inner(node)
            for node, kind in self.kinds.items()
        }
        refused = {operator.node for operator in self.unsupported}
        for node, reason in batch_violations(self.gm, self.inputs, batched, self.layouts):
            if leave_name(node) in refused:
                continue  # said once; the other reason is the stronger one
            self._refuse(node, reason, KEEP_BATCH)
        sites = tuple(self._site_plan(node) for node in self.gm.graph.nodes if self._is_site(node))
        if not sites and not self.unsupported:
            self.unsupported.append(
                UnsupportedOperator(
                    "",
                    "the model",
                    "(whole model)",
                    "it holds no activation that can become neurons",
                    "convert a network with ReLUs, or other functions between two layers with weights",
                )
            )
        plan = Plan(
            kinds={node.name: kind for node, kind in self.kinds.items()},
            sites=sites,
            readouts=tuple(node.name for node in self.readouts),
            pools=tuple(node.name for node in self.pools),
            analogue=tuple(dict.fromkeys(self.analogue)),
            grows=grows,
            read=frozenset(node.name for node in self.read),
            layouts={node.name: layout for node, layout in self.layouts.items() if self.kinds[node] in _BATCHED},
        )
        return Planning(plan, tuple(self.unsupported))

    def _is_site(self, node: fx.Node) -> bool:
        return site_of(node, self.modules) is not None

    def _classify(self, node: fx.Node) -> Kind:
        if node.op == "placeholder":
            if self.shapes[node] is None:
                return Kind.SIZE
            return Kind.SEQUENCE if node.name in self.time_varying else Kind.STATIC
        if node.op == "get_attr":
            return Kind.CONSTANT
        if node.op == "output":
            self._read_out(node)
            return Kind.MEAN
        if isinstance(node.target, type) and all(u.op == "output" or isinstance(u.target, type) for u in node.users):
            return Kind.SIZE  # an object around the answers: `_read_out` refuses it
        sources = {self.kinds[source] for source in node.all_input_nodes}
        role = role_of(node, self.modules)
        constant = sources <= {Kind.CONSTANT, Kind.SIZE}
        if role is Role.SIZE or constant:
            if role is Role.SIZE or self.shapes[node] is None:
                return Kind.SIZE
            return self._classify_constant(node) if Kind.SIZE in sources else Kind.CONSTANT
        if self._is_site(node):
            return Kind.SEQUENCE
        if takes_batch_statistics(node, self.modules):
            self._refuse(node, "it takes its statistics from the batch", "train it with track_running_stats=True")
            return max(sources, key=list(Kind).index)
        if Kind.MEAN in sources:
            moving = [source for source in node.all_input_nodes if self.kinds[source] in (Kind.SEQUENCE, Kind.MEAN)]
            return self._behind(node, named=self._change(node, moving).reason is not None)
        if Kind.SEQUENCE in sources:
            return self._classify_on_sequence(node, role)
        if self._change(node, ()).reason is not None and role is not Role.MAX_POOL:
            self.analogue.append(leave_name(node))
        return Kind.STATIC

    def _classify_on_sequence(self, node: fx.Node, role: Role) -> Kind:
        sequences = [source for source in node.all_input_nodes if self.kinds[source] is Kind.SEQUENCE]
        change = self._change(node, sequences)
        if change.still:  # made for the shape or type of a sequence
            return self._classify_constant(node)
        if role is Role.MAX_POOL:
            if self.max_pooling is MaxPooling.RUNNING:
                self.pools.append(node)
        elif change.reason is not None:
            if node not in self.before_site:
                return self._behind(node, named=True)
            reason, fix = change.reason, ""
            if self._left(node):
                reason = "it is listed in leave, but spikes arrive at it and further neurons follow"
                fix = "take it out of leave"
            elif role is Role.OTHER:
                reason = "spikes arrive at it, and it is not linear in time"
            self._refuse(node, reason, fix)
        return Kind.SEQUENCE

    def _classify_constant(self, node: fx.Node) -> Kind:
        """A tensor made of numbers and constants: one per sample if it holds the batch."""
        grows = self.sizes.grows(node)
        first, others = (grows[:1], grows[1:]) if isinstance(grows, tuple) else ((grows,), ())
        if contains(first, None) or contains(others, True) or contains(others, None):
            self._refuse(node, "it makes a tensor that holds the batch size elsewhere than in its first dimension")
        return Kind.STATIC if contains(first, True) else Kind.CONSTANT

    def _inner(self, node: fx.Node) -> bool:
        """One of several results, such as the state of a recurrent layer, whose batch may be another dimension.

        What is made of it alone is checked instead.
        """
        if self.kinds[node] is Kind.SEQUENCE or all(self.shapes[source] is not None for source in node.all_input_nodes):
            return False
        timeless = (Kind.CONSTANT, Kind.SIZE)
        return all(
            user.op != "output" and sum(self.kinds[source] not in timeless for source in user.all_input_nodes) == 1
            for user in node.users
        )

    def _change(self, node: fx.Node, moving: Collection[fx.Node]) -> Change:
        example = self.examples[node]
        return change_of(node, self.modules, moving, example.dtype if isinstance(example, Tensor) else None)

    def _behind(self, node: fx.Node, *, named: bool) -> Kind:
        """An operator on running means; ``named`` if it is not linear."""
        for source in node.all_input_nodes:
            if self.kinds[source] is Kind.SEQUENCE:
                self.readouts[source] = None
        if named:
            self.analogue.append(leave_name(node))
        return Kind.MEAN

    def _check_sizes(self) -> dict[str, Grows]:
        """Finds the sizes that are multiples of the batch size; refuses those that depend on it in another way.

        Time is folded into the batch, so such sizes are others for a sequence.
        """
        sizes = {node: self.sizes.grows(node) for node, kind in self.kinds.items() if kind is Kind.SIZE}
        for node, kind in self.kinds.items():
            if kind in _IN_TIME and any(contains(sizes.get(source, False), None) for source in node.all_input_nodes):
                self._refuse(
                    node,
                    "it needs a number that depends on the batch size and is no multiple of it",
                    "read the size from the tensor itself, or use -1, flatten(1) or unflatten",
                )
        return {node.name: grows for node, grows in sizes.items() if contains(grows, True)}

    def _left(self, node: fx.Node) -> bool:
        return is_left(node, self.modules, self.leave)

    def _read_out(self, output: fx.Node) -> None:
        for source in output.all_input_nodes:
            if self.shapes[source] is None:
                reason = "the model returns it, and it is not one tensor"
                self._refuse(source, reason, "return tensors only: one, or a tuple, list or dict of them")
            elif source in self.layouts and self.kinds[source] in _BATCHED:
                self._refuse(source, "the model returns it, and its first dimension is not the batch", KEEP_BATCH)
            elif self.kinds[source] is Kind.SEQUENCE:
                self.readouts[source] = None

    def _refuse(self, node: fx.Node, reason: str, fix: str = "") -> None:
        self.unsupported.append(
            UnsupportedOperator(
                leave_name(node),
                operator_name(node, self.modules),
                "(what forward returns)" if isinstance(node.target, type) else source_of(node),
                reason,
                fix or advice(node, self.modules),
            )
        )

    def _site_plan(self, node: fx.Node) -> SitePlan:
        name = str(node.target)
        shape = self.shapes[node]
        assert shape is not None
        dim, rows = self.layouts.get(node, FIRST)
        population = (*([rows] if rows > 1 else []), *shape[:dim], *shape[dim + 1 :])
        constant = all(self.kinds[source] is not Kind.SEQUENCE for source in node.all_input_nodes)
        call, kind = self.calls[name], kind_of(self.modules[name])
        return SitePlan(name, node.name, population, constant, call.operator, call.source, kind)


def ancestors_of_sites(gm: fx.GraphModule, modules: Mapping[str, nn.Module]) -> set[fx.Node]:
    """Every node from which a site can be reached."""
    found: set[fx.Node] = set()
    for node in reversed(gm.graph.nodes):
        if any(user in found or site_of(user, modules) is not None for user in node.users):
            found.add(node)
    return found


def unused_leaves(leave: Collection[str], gm: fx.GraphModule, calls: Sequence[ActivationCall]) -> list[str]:
    """Names in ``leave`` that match no operator of the graph."""
    modules = modules_of(gm)
    known = {call.name for call in calls} | {call.operator.rsplit(".", 1)[-1] for call in calls}
    for node in gm.graph.nodes:
        known |= names_of(node, modules)
    return sorted(set(leave) - known)

"""Block by block through the source network: what lies between two places where one value alone goes on.

A residual block is one, so is a layer of a plain network, and what follows the last such place. Each block can be run
as the source network's, or with its sites quantised to the T + 1 values that layer-after-layer schedules give them;
that form has gradients.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Mapping
from typing import Any, cast

import torch
from torch import Tensor, fx
from torch.utils import _pytree as pytree

from transpike.calibration.progress import ProgressBar
from transpike.calibration.sweep import CalibrationData, batches_of, checked_inputs, no_data, run_batch
from transpike.graph.normalize import modules_of
from transpike.graph.plan import Kind, Plan
from transpike.graph.site import Site
from transpike.graph.sizes import Grows, at_steps
from transpike.graph.walk import NodeVisitor, site_of
from transpike.rules.contract import BlockView, Layer

_TENSORS = (Kind.STATIC, Kind.SEQUENCE)


def find_blocks(network: fx.GraphModule, plan: Plan) -> list[tuple[fx.Node, ...]]:
    """The nodes of every block, in order; each ends with a site whose output alone goes on, the last by the answer."""
    modules = modules_of(network)
    last = {node: node for node in network.graph.nodes}
    for node in network.graph.nodes:
        last.update(dict.fromkeys(node.all_input_nodes, node))
    places = {node: place for place, node in enumerate(network.graph.nodes)}
    blocks: list[tuple[fx.Node, ...]] = []
    current: list[fx.Node] = []
    alive: set[fx.Node] = set()
    for node in network.graph.nodes:
        current.append(node)
        if plan.kinds.get(node.name) in _TENSORS:
            alive.add(node)
        alive = {value for value in alive if places[last[value]] > places[node]}
        if site_of(node, modules) is not None and alive == {node}:
            blocks.append(tuple(current))
            current = []
    return [*blocks, tuple(current)]


def visit_blocks(
    network: fx.GraphModule,
    plan: Plan,
    data: CalibrationData,
    steps: int,
    update: Callable[[BlockView], None],
    *,
    emitted: Callable[[str], Tensor] | None = None,
    as_one: bool = False,
    progress: bool = False,
) -> None:
    """Calls ``update`` for every block in execution order, with what the blocks before it give as they are set by then.

    Args:
        network: the ANN graph with its sites, which ``update`` may change.
        plan: its plan.
        data: inputs, labels are ignored; all samples are kept.
        steps: T, the number of levels.
        update: sees each block once.
        emitted: gives what a site, by its node, sends on the average of the steps, ``[N, *]``; for schedules under
            which this is not the quantised output.
        as_one: take the whole network as one block.
        progress: show a progress bar.

    Raises:
        CalibrationError: there is no data, or a batch is unusable.
    """
    batches = [checked_inputs(network, batch, index) for index, batch in enumerate(batches_of(data))]
    if not batches:
        raise no_data()
    for index, batch in enumerate(batches):
        run_batch(network, tuple(tensor[:1] for tensor in batch), index)
    inputs = tuple(torch.cat(parts) for parts in zip(*batches, strict=True))
    blocks = [tuple(network.graph.nodes)] if as_one else find_blocks(network, plan)
    modules = modules_of(network)
    called = [modules[str(node.target)] for node in network.graph.nodes if node.op == "call_module"]
    uses = Counter(id(parameter) for module in called for parameter in module.parameters())
    names = list(network.graph.find_nodes(op="placeholder"))
    constants = _constants(network, plan, batches[0])
    per_batch = {node: plan.grows[node.name] for node in constants if node.name in plan.grows}
    entry: fx.Node | None = None
    source: Any = inputs
    spiking: Any = inputs
    with ProgressBar("calibrating blocks", len(blocks), progress) as bar:
        for nodes in blocks:
            own = [str(node.target) for node in nodes if node.op == "call_module"]
            layers = [
                module
                for name in own
                if isinstance(module := modules[name], Layer)
                and all(uses[id(parameter)] == 1 for parameter in module.parameters())
            ]
            sites = {name: site for name in own if isinstance(site := modules[name], Site)}
            block = _Block(network, nodes, names if entry is None else [entry], constants, per_batch, steps)
            with torch.no_grad():
                target = block.source(*source)
            forms = block.quantised, block.opened
            update(BlockView(nodes[-1].name, sites, block.end, layers, source, spiking, target, *forms))
            with torch.no_grad():
                sent = emitted(nodes[-1].name) if emitted and block.end is not None else block.quantised(*spiking)
            source, spiking, entry = (target,), (sent,), nodes[-1]
            bar.advance()


def _constants(network: fx.GraphModule, plan: Plan, inputs: tuple[Tensor, ...]) -> dict[fx.Node, Any]:
    """Values that do not depend on the input, and sizes, which a block may read from one before it."""
    seen: dict[fx.Node, Any] = {}

    def look(node: fx.Node, value: Any) -> None:
        if plan.kinds.get(node.name) in (Kind.CONSTANT, Kind.SIZE) and node.op not in ("placeholder", "output"):
            seen[node] = value

    with torch.no_grad():
        NodeVisitor(network, on_node=look).run(*(tensor[:1] for tensor in inputs))
    return seen


class _Block:
    """Runs the nodes of one block."""

    def __init__(
        self,
        network: fx.GraphModule,
        nodes: tuple[fx.Node, ...],
        entries: Collection[fx.Node],
        constants: dict[fx.Node, Any],
        per_batch: Mapping[fx.Node, Grows],
        steps: int,
    ) -> None:
        self.interpreter = fx.Interpreter(network)
        self.modules = modules_of(network)
        self.nodes = nodes
        self.entries = entries
        self.constants = constants
        self.per_batch = per_batch
        self.steps = steps
        self.end = site_of(nodes[-1], self.modules)

    def source(self, *inputs: Tensor) -> Tensor:
        """The source network's output of the block."""
        return self._run(inputs, lambda site, z: site(z))

    def quantised(self, *inputs: Tensor) -> Tensor:
        """The output with ``T + 1`` levels at each site; differentiable."""
        return self._run(inputs, lambda site, z: site.quantised(z, self.steps))

    def opened(self, *inputs: Tensor) -> Tensor:
        """The output with all sites quantised but the last one, which is the source's activation; differentiable."""

        def activate(site: Site, z: Tensor) -> Tensor:
            if site is not self.end:
                return site.quantised(z, self.steps)
            biased: Tensor = site(z + site.mean_bias(self.steps))
            return biased

        return self._run(inputs, activate)

    def _run(self, inputs: tuple[Tensor, ...], activate: Callable[[Site, Tensor], Tensor]) -> Tensor:
        env: dict[fx.Node, Any] = dict(self.constants)
        env |= {node: at_steps(env[node], grows, len(inputs[0])) for node, grows in self.per_batch.items()}
        env.update(zip(self.entries, inputs, strict=False))
        for node in self.nodes:
            if node in env:
                continue
            if node.op == "output":
                leaves = pytree.tree_leaves(fx.map_arg(node.args[0], env.__getitem__))
                return torch.cat([leaf.flatten(1) for leaf in leaves if isinstance(leaf, Tensor)], 1)
            if node.op == "placeholder":  # an argument that keeps its default
                env[node] = node.args[0] if node.args else None
                continue
            args, kwargs = fx.map_arg((node.args, node.kwargs), env.__getitem__)
            site = site_of(node, self.modules)
            if site is not None:
                (z,) = args
                env[node] = activate(site, cast("Tensor", z))
            else:
                env[node] = getattr(self.interpreter, node.op)(node.target, args, kwargs)
        result: Tensor = env[self.nodes[-1]]
        return result

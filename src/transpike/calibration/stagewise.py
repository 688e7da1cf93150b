"""Stage by stage through a converted network: observe, update, propagate. O(stages), however many there are."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from typing import Any

import torch
from torch import Tensor, fx

from transpike.calibration.progress import ProgressBar
from transpike.calibration.sweep import CalibrationData, batches_of, checked_inputs, no_data, run_batch
from transpike.errors import CalibrationError
from transpike.graph.normalize import modules_of
from transpike.graph.plan import Plan
from transpike.graph.site import Site
from transpike.kernels import KernelPreference
from transpike.neurons import Neuron
from transpike.rules.contract import StageView
from transpike.runtime.lower import Lowered, lower
from transpike.runtime.runners import FunctionRunner, SiteRunner
from transpike.runtime.timing import timing
from transpike.schedules import Schedule


def visit_stages(
    network: fx.GraphModule,
    plan: Plan,
    neuron: Neuron,
    data: CalibrationData,
    schedule: Schedule,
    steps: int,
    update: Callable[[StageView], None],
    *,
    progress: bool = False,
) -> None:
    """Calls ``update`` at every site in execution order, with what the sites before it emit as they are set by then.

    The values that are alive at a stage are kept for all samples and steps, and no others; calibrate with fewer
    samples where that is too much.

    Args:
        network: the ANN graph with its sites, which ``update`` may set.
        plan: its plan.
        neuron: the neuron model.
        data: inputs, labels are ignored.
        schedule: how the sites run, in one pass.
        steps: T.
        update: sees each stage once.
        progress: show a progress bar.

    Raises:
        CalibrationError: there is no data, a batch is unusable, or the schedule needs several passes.
    """
    if schedule.passes > 1:
        raise CalibrationError(
            f"{schedule} runs the network {schedule.passes} times, but stages are calibrated in one pass",
            fix="calibrate under another schedule, such as Plain()",
        )
    batches = [checked_inputs(network, batch, index) for index, batch in enumerate(batches_of(data))]
    if not batches:
        raise no_data()
    inner = _inner_sites(network, plan)
    lowered = lower(network, plan, neuron, schedule, KernelPreference.AUTO, 0)
    (length,) = timing(network, schedule, steps).pass_lengths
    with torch.no_grad(), ProgressBar("calibrating stages", len(plan.sites), progress) as bar:
        statics = [run_batch(lowered.prologue, batch, index) for index, batch in enumerate(batches)]
        source = _walk(network, batches, _is_site)
        arguments = [
            _arguments(lowered, batch[0], length, known) for batch, known in zip(batches, statics, strict=True)
        ]
        spiking = _walk(lowered.body, arguments, _is_runner)
        before, after = next(source), next(spiking)
        while after is not None:
            assert before is not None
            runner, calls = after
            assert isinstance(runner, SiteRunner)
            site = before[0]
            if not isinstance(runner, FunctionRunner):
                pre = [args[0] for args in before[1]]
                update(_stage(runner, pre, calls, runner.name not in inner))
            after = spiking.send([runner(*args) for args in calls])
            before = source.send([site(*args) for args in before[1]])
            bar.advance()


def _inner_sites(network: fx.GraphModule, plan: Plan) -> set[str]:
    """The sites whose spikes reach other sites."""
    sites = {site.node: site.name for site in plan.sites}
    behind: set[fx.Node] = set()  # nodes behind which there is a site
    for node in reversed(network.graph.nodes):
        if any(user.name in sites or user in behind for user in node.users):
            behind.add(node)
    return {sites[node.name] for node in behind if node.name in sites}


def _stage(runner: SiteRunner, pre: list[Tensor], calls: Sequence[tuple[Any, ...]], answers: bool) -> StageView:
    """The view of one site; ``calls`` are the arguments of its runner."""

    def emit(currents: Tensor) -> Tensor:
        drive = runner.site.biased(currents, calls[0][4], once=runner.schedule.incremental)
        return runner.emit(drive, None)[0]

    currents = [runner.currents(value, batch, steps) for value, _, batch, steps, _ in calls]
    return StageView(runner.name, runner.site, runner.neuron, pre, currents, runner.schedule, emit, answers)


def _arguments(lowered: Lowered, first: Tensor, steps: int, statics: tuple[Tensor, ...]) -> tuple[Any, ...]:
    """What the body takes for one batch, whose first input is ``first [N, *]``."""
    start = torch.zeros((), dtype=torch.int64, device=first.device)
    return (first.shape[0], steps, start, *(None,) * len(lowered.stateful), *statics)


_Stop = tuple[torch.nn.Module, list[tuple[Any, ...]]]


def _walk(
    graph: fx.GraphModule, batches: Sequence[tuple[Any, ...]], stop: Callable[[torch.nn.Module], bool]
) -> Generator[_Stop | None, list[Any], None]:
    """Runs a graph node by node, each node for all batches before the next; hands calls of some modules out.

    Yields the module and its arguments per batch, and takes its results per batch; None at the end.
    """
    interpreter = fx.Interpreter(graph)
    modules = modules_of(graph)
    forget = _last_uses(graph.graph)
    env: list[dict[fx.Node, Any]] = [{} for _ in batches]
    given = [iter(batch) for batch in batches]
    for node in graph.graph.nodes:
        if node.op == "output":
            break
        arguments = [] if node.op == "placeholder" else [fx.map_arg(node.args, known.__getitem__) for known in env]
        if node.op == "placeholder":
            results = [next(values, node.args[0] if node.args else None) for values in given]
        elif node.op == "call_module" and stop(modules[str(node.target)]):
            results = yield modules[str(node.target)], arguments
        else:
            run = getattr(interpreter, node.op)
            named = [fx.map_arg(node.kwargs, known.__getitem__) for known in env]
            results = [run(node.target, args, kwargs) for args, kwargs in zip(arguments, named, strict=True)]
        for known, result in zip(env, results, strict=True):
            known[node] = result
            for old in forget[node]:
                del known[old]
    yield None


def _last_uses(graph: fx.Graph) -> dict[fx.Node, list[fx.Node]]:
    """After each node, the values that no later one reads."""
    last = {node: node for node in graph.nodes}
    for node in graph.nodes:
        last.update(dict.fromkeys(node.all_input_nodes, node))
    found: dict[fx.Node, list[fx.Node]] = {node: [] for node in graph.nodes}
    for node, reader in last.items():
        found[reader].append(node)
    return found


def _is_site(module: torch.nn.Module) -> bool:
    return isinstance(module, Site)


def _is_runner(module: torch.nn.Module) -> bool:
    return isinstance(module, SiteRunner)

"""What a conversion would do, before anything is converted."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from torch import fx, nn

from transpike.errors import UnsupportedOperator, VerificationError, count, unsupported_lines
from transpike.graph.capture import CaptureLayer, LeafModules
from transpike.graph.example_run import Inputs
from transpike.graph.normalize import ActivationCall
from transpike.graph.operators import MaxPooling
from transpike.graph.plan import Plan, kinds_of_sites
from transpike.graph.prepare import Capture, check_prepared, prepare
from transpike.graph.unwrap import check_weights, unwrapped
from transpike.serialization.model_info import model_info


@dataclass(frozen=True)
class Inspection:
    """What a conversion would do, before anything is converted.

    Attributes:
        model: class name of the model, or the name of the built-in network that a graph was made from.
        plan: sites, stages and kinds of values.
        unsupported: operators that do not convert; empty if the model converts.
        folded: BatchNorm modules that are folded into the layer in front of them.
        calls: the activation calls, with their source lines.
        layer: how the model became a graph.
        guards: sizes of inputs that the graph is made for: index of the input, dimension, size.
    """

    model: str
    plan: Plan
    unsupported: tuple[UnsupportedOperator, ...]
    folded: tuple[str, ...]
    calls: tuple[ActivationCall, ...]
    layer: CaptureLayer | None = CaptureLayer.SYMBOLIC
    guards: tuple[tuple[int, int, int], ...] = ()

    @property
    def convertible(self) -> bool:
        """Whether `convert` would succeed."""
        return not self.unsupported

    @property
    def title(self) -> str:
        """The verdict in one line."""
        sites = len(self.plan.sites)
        if self.convertible:
            neurons = sum(site.neurons for site in self.plan.sites)
            folded = f"{len(self.folded)} BatchNorm folded"
            return f"{self.model}: converts, {kinds_of_sites(self.plan)}, {neurons:,} neurons, {folded}"
        convertible = f", {count(sites, 'activation')} would become neurons" if sites else ""
        return f"{self.model}: does not convert: {count(len(self.unsupported), 'operator')}{convertible}"

    def notes(self, *, shell: bool = False) -> list[str]:
        """What is to be said besides the sites: what some of them need, what is analogue, and what is unsupported.

        Args:
            shell: say what to do in the words of the command line.
        """
        notes = self._capturing()
        if self.plan.functions:
            option = "--method digits --steps 6" if shell else 'methods["digits"](steps=6)'
            number = count(len(self.plan.functions), "site")
            notes.append(f"{number} of other functions than ReLU: convert with {option}, for example")
        if self.plan.pools:
            notes.append(f"max-pooling as temporal operator: {', '.join(self.plan.pools)}")
        if self.plan.analogue:
            notes.append(f"kept analogue: {', '.join(self.plan.analogue)}")
        return notes + [f"  - {lines}" for lines in unsupported_lines(self.unsupported, shell=shell)]

    def _capturing(self) -> list[str]:
        ways = {CaptureLayer.VALUES: "tracing with values", CaptureLayer.EXPORT: "torch.export"}
        lines = [f"captured by {ways[self.layer]}"] if self.layer is not None and self.layer in ways else []
        if self.guards:
            sizes = ", ".join(f"input {index} dimension {place}: {size}" for index, place, size in self.guards)
            lines.append(f"made for inputs of these sizes: {sizes}")
        return lines

    def __str__(self) -> str:
        lines = [self.title]
        for site in self.plan.sites:
            shape = "x".join(str(size) for size in site.shape)
            drive = "constant drive" if site.constant_drive else "spikes"
            kind = site.kind.value
            lines.append(f"  {site.name:<30} {shape:<14} {drive:<15} {kind:<10} {site.operator:<32} {site.source}")
        return "\n".join(lines + self.notes())


def inspect(
    model: nn.Module,
    example_inputs: Inputs,
    *,
    leave: str | Collection[str] = (),
    leaf_modules: LeafModules = (),
    max_pooling: MaxPooling = MaxPooling.RUNNING,
) -> Inspection:
    """Lists what `convert` would make of a model: sites, what stays analogue, and every unsupported operator.

    Args:
        model: the trained network; it is not changed.
        example_inputs: a small batch ``[N, *]``, or a tuple of them for a model with several arguments.
        leave: activations to keep as they are, see `convert`.
        leaf_modules: submodules, by name or type, that are not traced into.
        max_pooling: how max-pooling is to run in time.

    Raises:
        TraceError: the model cannot be traced at all.
        InputError: the example inputs are unusable.
    """
    model = unwrapped(model, "inspect", exported=True)
    check_weights(model, "inspect")
    source = model_info(model).source if isinstance(model, fx.GraphModule) else None  # its class says nothing
    name = type(model).__name__ if source is None else source.name
    prepared = prepare(model, example_inputs, Capture.of(model, leave, leaf_modules, max_pooling))
    plan, unsupported = prepared.planning.plan, prepared.planning.unsupported
    if not unsupported:
        try:
            check_prepared(model, prepared)
        except VerificationError as error:
            unsupported = (UnsupportedOperator("", name, "(whole model)", error.what, error.fix),)
    folded, calls, capture = tuple(prepared.folded), tuple(prepared.calls), prepared.capture
    return Inspection(name, plan, unsupported, folded, calls, capture.layer, capture.guards)

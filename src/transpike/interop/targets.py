"""The simulators that read NIR, and what each of them makes of an integrate-and-fire node."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum


class NirReset(Enum):
    """What a simulator does to the potential of a neuron that fired."""

    SUBTRACT = "subtract"
    ZERO = "zero"


class Start(Enum):
    """How v(0) reaches a target, whose potentials are zero at first.

    ``INPUT``: a second input, 1 in the first step and 0 later, through a layer of its own.
    ``THRESHOLD``: with hard reset only. Potentials are counted from v(0), where they start and to which they return,
    and the threshold is theta - v(0).
    ``BIAS``: v(0) / T in every step, so that T steps receive it; the graph is then made for one T.
    """

    INPUT = "input"
    THRESHOLD = "threshold"
    BIAS = "bias"


class Topology(Enum):
    """Which graphs a reader runs.

    ``GRAPH``: any without cycles; edges into one node are added.
    ``CHAIN``: one node after the other. Shortcuts become neurons that send on what they receive.
    """

    GRAPH = "graph"
    CHAIN = "chain"


@dataclass(frozen=True)
class FiringRule:
    """One time-step of ``nir.IF`` in a simulator: ``u = leak v + I``, then it fires and resets.

    Attributes:
        reset: what happens to the potential of a neuron that fired.
        strict: it fires above the threshold only, not at it.
        several: it sends ``floor(u / theta)`` spikes in one step, and subtracts as many thresholds.
        floor: the potential is kept at -theta or above.
        leak: factor of the potential in each step; 1 keeps it.
        late: it fires by the potential of the step before, so that a layer answers one step later.
        holds_back: a neuron whose potential was above theta already when the step began fires only above 2 theta.
    """

    reset: NirReset = NirReset.SUBTRACT
    strict: bool = False
    several: bool = False
    floor: bool = False
    leak: float = 1.0
    late: bool = False
    holds_back: bool = False

    @property
    def delay(self) -> int:
        """Steps that pass in every layer of neurons."""
        return int(self.late)

    def __str__(self) -> str:
        words = [
            {"subtract": "subtracts theta", "zero": "resets to 0"}[self.reset.value],
            "fires above theta" if self.strict else "fires at theta",
            "several spikes per step" if self.several else "",
            "potential at least -theta" if self.floor else "",
            f"leak {self.leak:g}" if self.leak != 1 else "",
            "one step late" if self.late else "",
            "holds back what lies above theta" if self.holds_back else "",
        ]
        return ", ".join(word for word in words if word)


@dataclass(frozen=True)
class NirTarget:
    """One simulator that reads NIR.

    Attributes:
        name: as users call it.
        package: what its users install, with the version that was read and tested; empty where there is none.
        rule: its neurons.
        start: how v(0) reaches it.
        topology: which graphs it runs.
        average: whether it reads ``AvgPool2d``; else pooling is ``SumPool2d``, the factor being in the next weights.
        pads_pooling: whether it takes note of the padding of a pooling.
        dilated: whether it reads dilated convolutions; else their weights are written out with zeros.
        flatten: whether its ``Flatten`` keeps the order of NIR; else a linear layer behind an image becomes a
            convolution as large as the image, and the answers have the shape ``[classes, 1, 1]``.
        one_threshold: whether all neurons must have the same threshold: it is then 1, theta being folded into weights.
        checked: whether our tests compare its events with our simulation of it.
        how: how its users read a graph.
        note: what else they should know.
    """

    name: str
    package: str
    rule: FiringRule = field(default_factory=FiringRule)
    start: Start = Start.BIAS
    topology: Topology = Topology.GRAPH
    average: bool = False
    pads_pooling: bool = False
    dilated: bool = True
    flatten: bool = True
    one_threshold: bool = False
    checked: bool = True
    how: str = ""
    note: str = ""


_ROWS = (
    NirTarget(
        "plain",
        "",
        start=Start.INPUT,
        pads_pooling=True,
        how="a simulator of one's own, set to soft reset",
        note="`nir.IF` as converted networks mean it, which the text of NIR does not: its reset is hard",
    ),
    NirTarget(
        "sinabs",
        "sinabs 3.1.3",
        FiringRule(several=True, floor=True),
        topology=Topology.CHAIN,
        how="`sinabs.nir.from_nir(graph, batch_size=N)`, then all steps as one batch `[N * T, *]`",
        note="its graph executor drops, in silence, what arrives by a second branch with layers of its own",
    ),
    NirTarget(
        "spinnaker2",
        "",
        start=Start.INPUT,
        one_threshold=True,
        checked=False,
        how="`spinnaker2.s2_nir.from_nir` with the reset method that subtracts",
        note="weights become int8 there, which is not simulated; its package is not on PyPI",
    ),
    NirTarget(
        "spyx",
        "spyx 1.0.0",
        FiringRule(strict=True, late=True),
        topology=Topology.CHAIN,
        dilated=False,
        flatten=False,
        how="`spyx.nir.from_nir(graph, frames)` with frames `[T, N, H, W, C]`",
        note="channels are last there, and `Flatten` takes them in that order",
    ),
    NirTarget(
        "norse",
        "norse 1.1.0",
        FiringRule(NirReset.ZERO, strict=True),
        start=Start.THRESHOLD,
        topology=Topology.CHAIN,
        flatten=False,
        how="`norse.torch.from_nir(graph)`, step by step",
        note="hard reset; `v_reset` is ignored, `Flatten` takes the batch with it; graph executor as sinabs",
    ),
    NirTarget(
        "spikingjelly",
        "spikingjelly 2.0.0",
        FiringRule(NirReset.ZERO),
        start=Start.THRESHOLD,
        average=True,
        pads_pooling=True,
        one_threshold=True,
        how="`import_from_nir(graph, dt=1.0)`, step by step with the state that it returns",
        note="hard reset; dt must be 1, since `r` must be 1 / dt",
    ),
    NirTarget(
        "snntorch",
        "snntorch 1.0.0",
        FiringRule(strict=True, leak=0.9, holds_back=True),
        average=True,
        pads_pooling=True,
        topology=Topology.CHAIN,
        flatten=False,
        one_threshold=True,
        how="`nirtorch.load(graph, snntorch.import_nir._nir_to_snntorch_module)`, step by step",
        note="its `import_from_nir` fails at `nir.IF` in this version; `nir.IF` becomes a leaky neuron (beta 0.9)",
    ),
)

NIR_TARGETS: Mapping[str, NirTarget] = {target.name: target for target in _ROWS}
"""The targets by name."""

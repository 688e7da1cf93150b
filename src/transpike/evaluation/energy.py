"""Energy estimates from counts of operations, under rules that are stated with them.

They cover arithmetic alone: no memory, no addressing, no state of neurons. Papers compare networks in this way; no
device was measured.
"""

from __future__ import annotations

from dataclasses import dataclass

from transpike.evaluation.operations import Operations


@dataclass(frozen=True)
class EnergyRule:
    """What an operation costs.

    Attributes:
        name: one or two words.
        addition: picojoules of an AC, or a synaptic operation.
        multiplication: picojoules of a MAC; one FLOP stands for one MAC.
        about: what the rule assumes.
        source: where the numbers are from.
        link: address of the source.
    """

    name: str
    addition: float
    multiplication: float
    about: str
    source: str
    link: str

    def microjoules(self, additions: float, multiplications: float) -> float:
        """The energy of so many operations."""
        return 1e-6 * (self.addition * additions + self.multiplication * multiplications)

    def spiking(self, operations: Operations, *, repeated: bool = False) -> float:
        """Microjoules per image of a spiking network: non-zero inputs only.

        Args:
            operations: the counts.
            repeated: layers with a constant input run at every step.
        """
        macs = operations.repeated_macs if repeated else operations.effective_macs
        return self.microjoules(operations.effective_acs, macs)

    def dense(self, operations: Operations) -> float:
        """Microjoules per image of a network that multiplies everything, as papers count the ANN."""
        return self.microjoules(0.0, operations.dense)


ENERGY_RULES = (
    EnergyRule(
        "AC/MAC, 45 nm",
        0.9,
        4.6,
        "32-bit floating point at 0.9 V: an addition 0.9 pJ, a multiplication 3.7 pJ",
        "M. Horowitz, Computing's energy problem (and what we can do about it), ISSCC 2014",
        "https://doi.org/10.1109/ISSCC.2014.6757323",
    ),
    EnergyRule(
        "SOP/FLOP",
        0.077,
        12.5,
        "77 fJ per synaptic operation of the ROLLS chip, 12.5 pJ per FLOP of an FPGA: two devices, as papers on QCFS",
        "N. Qiao et al., A reconfigurable on-line learning spiking neuromorphic processor, Frontiers in Neuroscience "
        "2015; used by T. Bu et al., ICLR 2022",
        "https://doi.org/10.3389/fnins.2015.00141",
    ),
)
"""The rules that reports state."""

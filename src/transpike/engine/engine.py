"""Runs a network event by event: every stage reads spike maps and writes one; currents are never stored.

Stages whose drive is a sum of windowed linear maps of spikes (`transpike.engine.drive`) run compiled. The drive of the
others, and the readout, are computed by the lowered graph's own torch operators from unpacked spikes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, fx

from transpike.engine.execution_plan import ExecutionPlan
from transpike.engine.layout import Layout
from transpike.runtime.execute import MEMORY, run_in_parts
from transpike.runtime.interpreters import Count


class Engine(Layout):
    """One network under one schedule, ready to run; arguments as for `Layout`.

    Attributes:
        execution: what runs in which order.
        largest_unpacked: neurons of the largest population whose spikes or currents are stored as numbers, of one
            sample and step.
    """

    def __init__(self, *layout: Any) -> None:
        super().__init__(*layout)
        self.execution = ExecutionPlan(self)
        self.largest_unpacked = self._largest_unpacked()

    def _largest_unpacked(self) -> int:
        operations, owner = self.execution.operations, self.execution.owner
        sources = [each.all_input_nodes[0] for each in operations if isinstance(each, fx.Node) and each.all_input_nodes]
        names = {owner[source] for source in sources if source in owner}
        names |= {name for name in self.shapes if name not in self.values}
        sizes = [shape.channels * shape.rows * shape.columns for name, shape in self.shapes.items() if name in names]
        return max(sizes, default=1)

    def run(
        self,
        inputs: Sequence[Tensor],
        batch: int,
        steps: int,
        count: Count | None = None,
        seconds: dict[str, float] | None = None,
        rows: int | None = None,
        memory: int = MEMORY,
    ) -> Any:
        """The answer ``[S, N, *]``, at least its first ``rows`` rows, in the structure of the model's output.

        Args:
            inputs: the model's arguments, constant currents.
            batch: N.
            steps: S.
            count: called with the spikes of every site.
            seconds: filled with the time of each stage by site, torch operators before it included, and of `READOUT`.
            rows: of the answer that are wanted, at most S; None is all.
            memory: bytes that spike maps may take, and twice what one site's numbers may; samples run in parts.

        Raises:
            ValueError: initial potentials per sample, for another number of samples.
        """
        for name, samples in self.samples.items():
            if samples not in (1, batch):
                raise ValueError(
                    f"v_init of shape {tuple(self.sites[name].v_init.shape)} does not fit the {batch} samples at site "
                    f"{name!r}; give a scalar, or one value per channel, neuron, or sample and neuron"
                )
        if self.rule.signed:
            steps = max(steps, self.rule.run_steps(steps))
        whole = self.probe or self.rule.signed  # all steps run whatever is read
        read = rows if rows is not None and whole and self.execution.only_answer else steps
        sizes = (shape.padded_rows * shape.padded_columns * shape.bytes for shape in self.shapes.values())
        packed = sum(sizes) * (1 if self.probe else steps)
        size = max(1, min(memory // (8 * self.largest_unpacked * read), memory // packed))
        if max(self.samples.values(), default=1) > 1:
            size = batch

        def run(part: Sequence[Tensor], samples: int, counter: Count | None) -> Any:
            return self.execution.run(part, samples, steps, read, self.rule, counter, seconds)

        return run_in_parts(run, inputs, batch, size, count)

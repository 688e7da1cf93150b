"""What a user asks of the event-driven engine of a network: ``snn.engine``."""

from __future__ import annotations

from collections.abc import Callable, Collection

import torch
from torch import Tensor

from transpike.engine.layout import StageReport
from transpike.engine.tune import faster_dense, time_stages
from transpike.network.backends import Backends
from transpike.schedules import Schedule
from transpike.schedules.contract import check_schedule


class NetworkEngine:
    """The event-driven engine of one network.

    Args:
        backends: of the network.
        schedule: the network's own, taken where none is given.
        check: checks inputs of the network for what is called, and returns the number of samples.
    """

    def __init__(self, backends: Backends, schedule: Schedule, check: Callable[[tuple[Tensor, ...], str], int]) -> None:
        self._backends, self._schedule, self._check = backends, schedule, check

    @property
    def dense(self) -> frozenset[str]:
        """Sites whose drive torch operators compute, under every schedule; `tune` chooses them by measuring.

        The choice belongs to the machine and is not saved.
        """
        return self._backends.dense

    @dense.setter
    def dense(self, sites: Collection[str]) -> None:
        self._backends.dense = frozenset(sites)

    def unsupported_reason(self, schedule: Schedule | None = None) -> str | None:
        """Why no stage of the network runs event by event under a schedule; None if stages do."""
        with torch.no_grad():
            return self._backends.unsupported_reason(self._chosen(schedule))

    def report(self, schedule: Schedule | None = None) -> dict[str, StageReport]:
        """How each site's stage runs on a CPU under a schedule, by name: event by event or dense, and why.

        That is under ``torch.no_grad()``; where gradients are recorded, all stages run dense.

        Raises:
            ValueError: no stage of this network runs event by event; the message says why.
        """
        reason = self.unsupported_reason(schedule)
        if reason is not None:
            raise ValueError(f"the network does not run event by event: {reason}")
        with torch.no_grad():
            return self._backends.engine(self._chosen(schedule)).reports

    def tune(
        self, *inputs: Tensor, steps: int, schedule: Schedule | None = None, repeats: int = 3
    ) -> dict[str, StageReport]:
        """Lets torch operators compute the stages that they compute faster here; reports how each stage now runs.

        The choice holds for all schedules until the next call.

        Args:
            inputs: real data, one tensor ``[N, *]`` per argument.
            steps: T.
            schedule: None is the network's own.
            repeats: runs per measurement, at least 1; the fastest counts.

        Raises:
            ValueError: the network does not run event by event, or no repeats.
        """
        schedule, batch = self._prepare(inputs, schedule, repeats, "tune")
        self.dense = ()
        with torch.no_grad():
            self.dense = faster_dense(
                lambda sites: self._backends.pack(schedule, sites), inputs, batch, schedule.site_steps(steps), repeats
            )
        return self.report(schedule)

    def time(self, *inputs: Tensor, steps: int, schedule: Schedule | None = None, repeats: int = 3) -> dict[str, float]:
        """Seconds of each stage by its site, and of ``"readout"`` behind the last one, in event-driven runs.

        The torch operators in front of a stage, the first convolution too, count with it. Arguments as in `tune`.

        Raises:
            ValueError: the network does not run event by event, or no repeats.
        """
        schedule, batch = self._prepare(inputs, schedule, repeats, "time")
        with torch.no_grad():
            engine = self._backends.engine(schedule)
            return time_stages(engine, inputs, batch, schedule.site_steps(steps), repeats)

    def repack(self) -> None:
        """Packs the weights again at the next run.

        Changes are noticed, of weights, thresholds and layers, with one exception: a change of a few neighbouring
        weights that PyTorch does not count (written through ``.data``, NumPy, or under ``torch.inference_mode``), in a
        network of more than 64 KiB of weights. There it is noticed only if it reaches into the first 64 bytes of a
        parameter, or of one of some 1,000 equal parts of the weights: call this then.
        """
        self._backends.repack()

    def _prepare(
        self, inputs: tuple[Tensor, ...], schedule: Schedule | None, repeats: int, what: str
    ) -> tuple[Schedule, int]:
        """Checks what is to be timed; returns the schedule and the number of samples."""
        if repeats < 1:
            raise ValueError(f"repeats must be at least 1, got {repeats}")
        batch = self._check(inputs, f"SpikingNetwork.engine.{what}")
        self.report(schedule)
        return self._chosen(schedule), batch

    def _chosen(self, schedule: Schedule | None) -> Schedule:
        return self._schedule if schedule is None else check_schedule(schedule)

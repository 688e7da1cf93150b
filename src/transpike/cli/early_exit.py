"""What ``transpike evaluate --early-exit`` prints."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import Console

if TYPE_CHECKING:
    from torch.utils.data import DataLoader

    from transpike.data import Data
    from transpike.network.spiking import SpikingNetwork
    from transpike.runtime.encoding import Coding
    from transpike.schedules import Schedule


def print_early_exit(
    out: Console,
    snn: SpikingNetwork,
    data: Data,
    test: DataLoader[object],
    *,
    confidence: str,
    calibration_images: int,
    steps: int,
    schedule: Schedule,
    coding: Coding,
    device: str,
) -> None:
    """Prints accuracy, mean T and the histogram of steps; ``auto`` chooses the confidence on held-back images.

    Raises:
        ValueError: the confidence is neither a probability nor ``auto``.
    """
    from transpike.data import loader, random_subset
    from transpike.evaluation.early_exit import choose_confidence, evaluate_early
    from transpike.report.early_exit import early_exit_table, steps_used_table

    snn = snn.to(device=device)
    if confidence == "auto":
        held_back = len(data.validation)  # type: ignore[arg-type]
        images = random_subset(data.validation, min(calibration_images, held_back))
        chosen = choose_confidence(snn, loader(images), steps=steps, schedule=schedule, coding=coding, progress=True)
        out.print(
            f"confidence {chosen.confidence:.6g}, chosen on {chosen.samples:,} held-back training images, where "
            f"{100 * chosen.disagreement:.2f} % of the answers differ from T = {steps} at a mean T of "
            f"{chosen.mean_steps:.3f}"
        )
        threshold = chosen.confidence
    else:
        try:
            threshold = float(confidence)
        except ValueError as error:
            raise ValueError(f"--early-exit takes a confidence in [0, 1] or auto, not {confidence!r}") from error
    report = evaluate_early(
        snn, test, steps=steps, confidences=[threshold], schedule=schedule, coding=coding, progress=True
    )
    out.print(early_exit_table(report))
    out.print(steps_used_table(report))

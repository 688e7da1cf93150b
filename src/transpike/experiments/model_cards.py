"""The accuracies of a model card, from the record of a run that was given the network."""

from __future__ import annotations

from torch import nn

from transpike.activations import ActivationSettings
from transpike.conversion.tailor import tailor
from transpike.data import Data
from transpike.errors import RecipeError, known_words
from transpike.experiments.networks import fresh_network
from transpike.experiments.record import Record
from transpike.serialization.digest import digest
from transpike.zoo import ScheduleAccuracy, load_weights


def network_of_weights(path: str, name: str, data: Data, activation: ActivationSettings | None = None) -> nn.Module:
    """A built-in network, tailored or not, with the weights of a plain state_dict, in evaluation mode.

    Args:
        path: of the state_dict, see `transpike.zoo.load_weights`.
        name: of the architecture.
        data: what it was trained on, which gives classes and normalisation.
        activation: what its ReLUs became; None for ReLU. Thresholds are those of the state_dict.

    Raises:
        CheckpointError: the weights do not fit.
    """
    network = fresh_network(name, data, 0)
    made = network if activation is None else tailor(network, activation)
    load_weights(made, path)
    return made.eval()


def card_accuracies(record: Record, name: str, network: nn.Module) -> tuple[int, float, tuple[ScheduleAccuracy, ...]]:
    """Number of test images, accuracy of the ANN in percent, and accuracies of its conversions.

    Args:
        record: of a run that was given the network.
        name: the network of the recipe, or the row, that it was given for.
        network: the network, with which the record is compared.

    Raises:
        RecipeError: the record knows no such network, or one with other weights; or its rows are of different images.
    """
    given = {each.name: each for each in record.given}
    fix = f"run the recipe again with --network {name}=FILE"
    if name not in given:
        fix = known_words(name, given) if given else fix
        raise RecipeError(f"the record was given no network {name!r}", where=record.name, fix=fix)
    if given[name].digest != digest(network):
        raise RecipeError("the record is of other weights", where=f"{record.name}, {given[name].source}", fix=fix)
    runs = [run for row in record.rows if row.network == name for run in row.runs]
    images = {run.report.images for run in runs}
    if len(images) != 1:
        raise RecipeError(
            f"the record holds rows of {sorted(images)} test images", where=f"{record.name}, {name}", fix=fix
        )
    by_words: dict[tuple[str, str], dict[int, tuple[float, int]]] = {}
    for run in runs:
        found = by_words.setdefault((str(run.conversion), str(run.schedule)), {})
        found |= {row.steps: (row.top1, row.latency.pipeline_steps) for row in run.report.rows}
    schedules = tuple(
        ScheduleAccuracy(
            conversion,
            schedule,
            {t: top1 for t, (top1, _) in sorted(found.items())},
            {t: steps for t, (_, steps) in sorted(found.items())},
        )
        for (conversion, schedule), found in by_words.items()
    )
    return images.pop(), runs[0].ann_top1, schedules

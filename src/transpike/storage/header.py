"""The header of a checkpoint: what a network says about itself, every field checked before anything is built."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from transpike.activations import ActivationSettings, LearnedSlipReLU, RateNorm, SlipReLU, ThetaPercentile
from transpike.errors import CheckpointError
from transpike.graph.capture import CaptureLayer
from transpike.graph.fingerprint import Fingerprint, read_fingerprint
from transpike.graph.prepare import Capture
from transpike.neurons import NEURONS
from transpike.rules import (
    CORRECTIONS,
    POTENTIAL_RULES,
    THRESHOLD_RULES,
    Conversion,
    PerChannel,
    PerLayer,
    PerNeuron,
    Quantisation,
    ThroughTime,
)
from transpike.schedules import SCHEDULES
from transpike.serialization.fields import fitted
from transpike.serialization.json_records import from_json, to_json
from transpike.serialization.model_info import InputSpec, ModelInfo, ModelSource

FORMAT = 2


def record_kinds() -> dict[str, type]:
    """Records that files may hold, by name: what the tables hold now."""
    tables = (NEURONS, THRESHOLD_RULES, POTENTIAL_RULES, CORRECTIONS, SCHEDULES)
    facts = (ModelInfo, InputSpec, ModelSource, Capture, Conversion, ThroughTime, Quantisation)
    granularities = (PerLayer, PerChannel, PerNeuron)
    activations = (SlipReLU, LearnedSlipReLU, RateNorm, ThetaPercentile)
    classes = (*facts, *granularities, *activations, *(cls for table in tables for cls in table.values()))
    return {cls.__name__: cls for cls in classes}


def write_record(record: Any) -> Any:
    """JSON from which a header rebuilds the record; classes of the user's own are unknown to it.

    Raises:
        CheckpointError: it would be rebuilt as another one, or not at all.
    """
    try:
        written = to_json(record)
        if from_json(json.loads(json.dumps(written)), record_kinds()) == record:
            return written
        reason = "it is rebuilt as another one"
    except (TypeError, ValueError) as error:
        reason = str(error)
    raise CheckpointError(
        f"{record} cannot be saved: {reason}",
        where=f"class {type(record).__module__}.{type(record).__qualname__}",
        fix="use the classes of transpike, or save the state_dict and convert again with your class",
    )


@dataclass(frozen=True)
class Contents:
    """What a checkpoint says about itself.

    Attributes:
        kind: ``"spiking"`` or ``"ann"``.
        info: how to rebuild the network and what its inputs are.
        activation: settings of the trained activations, None for plain ReLU.
        sites: names of the populations of a spiking network.
        leaf_modules: submodules that `tailor` did not trace into.
        inputs: arguments that had an example input in `tailor`.
        training: the mode in which `tailor` traced the model; None leaves it as it is.
        layer: how `tailor` made a graph of the model.
        input_shapes: of one sample of each input, where `tailor` needed them.
        conversion: how a spiking network was converted.
        capture: how its source became a graph.
        graph: what the captured graph computes; None in files that older versions wrote.
        through_time: how a spiking network was trained after its conversion, if it was.
        packed: the type of numbers that the file holds as whole numbers and exponents; None if it holds floats.
    """

    kind: str
    info: ModelInfo
    activation: ActivationSettings | None
    sites: tuple[str, ...] = ()
    leaf_modules: tuple[str, ...] = ()
    inputs: int = 0
    training: bool | None = None
    layer: CaptureLayer = CaptureLayer.SYMBOLIC
    input_shapes: tuple[tuple[int, ...], ...] = ()
    conversion: Conversion | None = None
    capture: Capture | None = None
    graph: Fingerprint | None = field(default=None, repr=False)
    through_time: ThroughTime | None = None
    packed: str | None = None


def read_header(header: Mapping[str, Any], path: Path) -> Contents:
    """What the header of a checkpoint says.

    Raises:
        CheckpointError: it is no network's, of another format, or a field is missing or of another type.
    """
    if header.get("kind") not in ("spiking", "ann"):
        raise CheckpointError(
            f"the file holds {str(header.get('kind'))[:80]!r}, not a network",
            where=str(path),
            fix="pass a file made by tp.save",
        )
    if header.get("format") != FORMAT or isinstance(header["format"], bool | float):
        raise CheckpointError(
            f"the file has format {str(header.get('format'))[:80]}, this library reads {FORMAT}",
            where=str(path),
            fix="use the version of transpike that wrote it, or a newer one",
        )
    try:
        return _contents(header)
    except (KeyError, ValueError, RecursionError) as error:
        reason = f"it lacks {error}" if isinstance(error, KeyError) else str(error)[:300]
        raise CheckpointError(
            f"the header is malformed: {reason}", where=str(path), fix="save the network again"
        ) from error


def _contents(header: Mapping[str, Any]) -> Contents:
    spiking = header["kind"] == "spiking"
    graph, trained = header.get("graph"), header.get("through_time")
    packed = fitted("packed", header.get("packed"), str | None)
    if packed not in (None, "float32", "float64"):
        raise ValueError(f"packed must be float32 or float64, got {packed!r}")
    return Contents(
        kind=header["kind"],
        info=_record("info", header["info"], ModelInfo),
        activation=None if header["tailored"] is None else _record("tailored", header["tailored"], ActivationSettings),
        sites=fitted("sites", header["sites"], tuple[str, ...]) if spiking else (),
        leaf_modules=fitted("leaf_modules", header["leaf_modules"], tuple[str, ...]),
        inputs=fitted("inputs", header.get("inputs", 0), int),
        training=fitted("training", header.get("training"), bool | None),
        layer=fitted("layer", header.get("layer") or CaptureLayer.SYMBOLIC, CaptureLayer),
        input_shapes=fitted("input_shapes", header.get("input_shapes", ()), tuple[tuple[int, ...], ...]),
        conversion=_record("conversion", header["conversion"], Conversion) if spiking else None,
        capture=_record("capture", header["capture"], Capture) if spiking else None,
        graph=None if graph is None else read_fingerprint(graph),
        through_time=None if trained is None else _record("through_time", trained, ThroughTime),
        packed=packed,
    )


def _record(name: str, stored: Any, kind: type) -> Any:
    return fitted(name, from_json(stored, record_kinds()), kind)

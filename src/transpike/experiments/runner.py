"""The runner: trains what is not trained, converts and evaluates each row, and goes on where it was killed."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn

from transpike.conversion.convert import convert
from transpike.conversion.tailor import tailoring
from transpike.data import Data, augmented_views, load_data, loader, random_subset, test_images
from transpike.errors import CalibrationError, ConversionError, reason
from transpike.evaluation.evaluate import COUNTING_VERSION, evaluate
from transpike.experiments.given import take_given
from transpike.experiments.networks import make_networks
from transpike.experiments.offset_rows import OffsetResult, OffsetRow, count_offsets
from transpike.experiments.recipe import Recipe, RecipeRow, Run
from transpike.experiments.record import (
    Record,
    Repeat,
    RowResult,
    RunResult,
    check_record_path,
    make_record,
    result_kinds,
)
from transpike.graph.capture import evaluation_mode
from transpike.graph.walk import reference_tensor
from transpike.network.spiking import SpikingNetwork
from transpike.rules import Conversion, Percentile
from transpike.serialization.cache import read_cache, write_cache
from transpike.serialization.digest import digest, digest_batches, digest_file
from transpike.serialization.environment import environment, library_version
from transpike.serialization.fields import check_count
from transpike.serialization.json_records import from_json, to_json, write_json
from transpike.serialization.model_info import InputSpec, model_info
from transpike.storage import checkpoint
from transpike.training import torch_device


def run_recipe(
    recipe: Recipe,
    folder: Path,
    *,
    data_root: Path | None = None,
    training_images: int | None = None,
    given: Mapping[str, str | Path] = MappingProxyType({}),
    device: str = "auto",
    compile: bool = False,
    progress: bool = False,
    say: Callable[[str], None] = lambda _: None,
) -> Record:
    """Trains what is not trained yet, converts and evaluates every row, and writes the folder.

    Interrupted runs go on where they were: training after the last whole epoch, evaluation after the last batches. What
    is the same run is decided by a digest of networks, settings and all data.

    Args:
        recipe: what to do.
        folder: for networks (``*.safetensors``), training states (``*.ckpt``), what is kept for the next run
            (``cache``), and ``result.json``, the record.
        data_root: folder with the data sets; None reads TRANSPIKE_DATA.
        training_images: how many images to train and to calibrate with at most, drawn by the recipe's seed, and as many
            to validate with; None takes all.
        given: networks that are read and not trained, by the network or row that they stand for, see `take_given`; each
            sees images with the normalisation of its own training.
        device: ``"auto"``, ``"cpu"`` or ``"gpu"``.
        compile: train under ``torch.compile`` (see `transpike.fit`).
        progress: show progress bars.
        say: called with a line about each phase.

    Raises:
        DataError, RecipeError, TrainingError: data or weights are missing, training diverged, or the folder holds
            foreign files or networks of another recipe.
    """
    result = folder / "result.json"
    check_record_path(result)
    recipe, read, facts = take_given(recipe, given)
    if not any(row.runs for row in recipe.rows) and not recipe.offsets:
        record = make_record(replace(recipe, trainings=()), [_published(row) for row in recipe.rows], finished=True)
        write_json(result, to_json(record))
        return record

    source = _Images(recipe, data_root, training_images)
    data = source.open()
    folder.mkdir(parents=True, exist_ok=True)
    calibration = source.calibration(data)
    networks, trained = make_networks(
        recipe, data, calibration, folder, given=read, device=device, compile=compile, progress=progress, say=say
    )
    benches: dict[tuple[tuple[float, ...], tuple[float, ...]], Runner] = {}

    def bench_of(network: nn.Module) -> Runner:
        """Evaluates on images with the normalisation that the network was trained with."""
        inputs = model_info(network).inputs
        known = data.inputs if inputs is None or not inputs.mean else inputs
        key = known.mean, known.std
        if key not in benches:
            own = data if key == (data.inputs.mean, data.inputs.std) else source.open(known)
            benches[key] = Runner(
                calibration if own is data else source.calibration(own),
                lambda images: loader(test_images(own, images)),
                folder,
                device=torch_device(device),
                keep=True,
                progress=progress,
                say=say,
            )
        return benches[key]

    rows: list[RowResult] = []
    recipe = replace(recipe, trainings=trained, calibration_images=source.calibration_images(data))
    record = make_record(recipe, rows, finished=False, training_images=training_images, given=facts)
    for index, row in enumerate(recipe.rows):
        measured = [
            bench_of(networks[name]).measure(
                row, networks[name], f"{index}" if name == row.network else f"{index}-{name}"
            )
            for name in ((row.network, *row.repeats) if row.runs else ())
        ]
        repeats = tuple(Repeat(name, each.runs) for name, each in zip(row.repeats, measured[1:], strict=True))
        rows.append(replace(measured[0], repeats=repeats) if measured else _published(row))
        finished = len(rows) == len(recipe.rows) and not recipe.offsets
        record = make_record(recipe, rows, finished=finished, training_images=training_images, given=facts)
        write_json(result, to_json(record))
    for wanted in recipe.offsets:
        name = f"offsets-{len(record.offsets)}"
        found = bench_of(networks[wanted.network]).measure_offsets(wanted, networks[wanted.network], name)
        offsets = (*record.offsets, found)
        made = digest(recipe, [run.digest for each in rows for run in each.runs], [each.digest for each in offsets])
        record = replace(record, offsets=offsets, finished=len(offsets) == len(recipe.offsets), digest=made)
        write_json(result, to_json(record))
    return record


@dataclass(frozen=True)
class _Images:
    """Where the images of a recipe come from: at most ``most`` of each part but the test images."""

    recipe: Recipe
    root: Path | None
    most: int | None

    def open(self, like: InputSpec | None = None) -> Data:
        """The data set, prepared as the recipe says or like a network's own input."""
        recipe, most = self.recipe, self.most
        found = load_data(recipe.data, self.root, seed=recipe.seed, preparation=recipe.preparation, like=like)
        if most is None:
            return found
        check_count("training_images", most)
        # The same samples with and without augmentation.
        parts = {name: getattr(found, name) for name in ("train", "calibration", "validation")}
        drawn: dict[str, Any] = {
            name: random_subset(part, min(most, len(part)), recipe.seed) for name, part in parts.items()
        }
        return replace(found, **drawn)

    def calibration_images(self, data: Data) -> int:
        """How many images conversions see."""
        there = len(data.calibration)  # type: ignore[arg-type]
        return self.recipe.calibration_images if self.most is None else min(self.recipe.calibration_images, there)

    def calibration(self, data: Data) -> list[Tensor]:
        """The images that conversions see, in batches."""
        drawn = random_subset(data.calibration, self.calibration_images(data), self.recipe.seed)
        return [images for images, _ in loader(drawn)]


def _published(row: RecipeRow, runs: Sequence[RunResult] = (), refused: str = "") -> RowResult:
    """The result of a row, with what was published."""
    return RowResult(
        row.label,
        row.network,
        row.images,
        tuple(runs),
        row.published,
        row.published_in,
        refused=refused,
        published_ann=row.published_ann,
    )


class _UnsuitedError(Exception):
    """A conversion does not fit the network."""

    def __init__(self, cause: CalibrationError | ConversionError | ValueError) -> None:
        self.cause = cause


@dataclass
class Runner:
    """Converts networks and evaluates them; what an earlier run finished is read.

    Attributes:
        calibration: images for conversions, in batches.
        tests: the test batches that a row's ``images`` names, in a fixed order.
        folder: for ``cache`` and networks; None keeps nothing.
        device: where to evaluate; None is where the network is.
        keep: write converted networks, ``NAME-spiking.safetensors``.
        progress: show progress bars.
        say: called with a line about each conversion that is made.
    """

    calibration: Sequence[Tensor]
    tests: Callable[[str], Iterable[Any]]
    folder: Path | None = None
    device: torch.device | str | None = None
    keep: bool = False
    progress: bool = False
    say: Callable[[str], None] = lambda _: None
    _digests: dict[Any, str] = field(default_factory=dict)
    _accuracies: dict[str, float] = field(default_factory=dict)

    def measure(self, row: RecipeRow, network: nn.Module, name: str, *, refusals: bool = False) -> RowResult:
        """Measures one row.

        Args:
            row: what to do.
            network: the trained network, which is not changed; a `SpikingNetwork` is evaluated as it is.
            name: of kept files.
            refusals: a conversion that does not fit the network ends the row and is noted, instead of raising.

        Raises:
            CalibrationError, ConversionError, ValueError: the conversion does not fit.
            InputError, DataError: see `transpike.evaluate`; or foreign files lie where caches are.
        """
        runs: list[RunResult] = []
        refused = ""
        with evaluation_mode(network):
            for run in row.runs:
                file = name if len(row.runs) == 1 else f"{name}-T{run.at[-1]}"
                try:
                    runs.append(self._measure(row, run, network, file))
                except _UnsuitedError as problem:
                    if not refusals:
                        raise problem.cause from None
                    refused = reason(problem.cause)
                    break
        return _published(row, runs, refused)

    def measure_offsets(self, row: OffsetRow, network: nn.Module, name: str) -> OffsetResult:
        """Counts offset spikes of a network with trained thresholds, or with those of the default rule.

        Raises:
            CalibrationError, ConversionError, ValueError, InputError, DataError: see `convert` and `count_offsets`.
        """
        conversion = Conversion() if tailoring(network) is not None else Conversion(Percentile())
        with evaluation_mode(network):
            source = self._digest(id(network), lambda: digest(network))
            seen = self._digest(("calibration", 0), lambda: digest(list(self.calibration)))
            tested = self._digest(("test", row.images), lambda: digest_batches(self.tests(row.images)))
            made = digest("conversion", library_version(), source, conversion, seen)
            key = digest("offsets", library_version(), made, tested, row.probe_steps, row.iterations, str(self.device))
            file = self._cache(key[:16])
            stored = _read(read_cache(file, key))
            if isinstance(stored, OffsetResult):
                return replace(stored, row=row)
            here = environment()
            self.say(f"{row.label}: offset spikes after {row.probe_steps} steps")
            snn, _ = self._convert(network, Run(conversion, (row.probe_steps,)), self.calibration, name, made)
            snn = snn.to(device=self.device) if self.device is not None else snn
            batches = self.tests(row.images)
            free, constrained = count_offsets(snn, batches, row, progress=self.progress)
        images = sum(len(labels) for _, labels in batches)
        found = OffsetResult(row, images, free, constrained, here, key)
        write_cache(file, key, to_json(found))
        return found

    def accuracy(self, network: nn.Module, images: str) -> float:
        """Top-1 accuracy of the source network in percent."""
        if self.device is not None:
            network = copy.deepcopy(network).to(self.device)
        reference = reference_tensor(network)
        hits = count = 0
        with torch.no_grad():
            for inputs, labels in self.tests(images):
                answer = network(inputs.to(reference.device, reference.dtype)).argmax(1)
                hits += int((answer == labels.to(reference.device)).sum())
                count += len(labels)
        return 100.0 * hits / count

    def _measure(self, row: RecipeRow, run: Run, network: nn.Module, name: str) -> RunResult:
        calibration = self._views(row.calibration_views)
        seen = self._digest(("calibration", row.calibration_views), lambda: digest(calibration))
        tested = self._digest(("test", row.images), lambda: digest_batches(self.tests(row.images)))
        source = self._digest(id(network), lambda: digest(network))
        made = digest("conversion", library_version(), source, run.conversion, seen)
        if isinstance(network, SpikingNetwork):
            made = digest("converted", source, network.capture, network.conversion)
        where = str(self.device or reference_tensor(network).device)
        key = digest("run", COUNTING_VERSION, library_version(), made, run.at, run.schedule, tested, where)
        file = self._cache(key[:16])
        found = _read(read_cache(file, key))
        if isinstance(found, RunResult):
            return found
        here = environment()  # before the work, whose code is the checkout's now
        self.say(f"{row.label}, T = {', '.join(str(steps) for steps in run.at)}")
        snn, seconds = self._convert(network, run, calibration, name, made)
        unfinished = self._cache(f"{key[:16]}-evaluation")
        report = evaluate(
            snn,
            self.tests(row.images),
            steps=run.at[-1],
            schedule=run.schedule,
            at=run.at,
            device=self.device,
            cache=unfinished,
            progress=self.progress,
        )
        ann = report.ann_top1
        if not isinstance(network, SpikingNetwork):  # not the report's, since a conversion may change weights
            pair = digest(source, tested)
            if pair not in self._accuracies:
                self._accuracies[pair] = self.accuracy(network, row.images)
            ann = self._accuracies[pair]
        schedule = snn.schedule if run.schedule is None else run.schedule
        result = RunResult(snn.conversion, schedule, row.calibration_views, ann, report, seconds, here, digest=key)
        write_cache(file, key, to_json(result))
        if unfinished is not None:
            unfinished.unlink(missing_ok=True)
        return result

    def _convert(
        self, network: nn.Module, run: Run, calibration: Sequence[Tensor], name: str, key: str
    ) -> tuple[SpikingNetwork, float]:
        """The converted network and the seconds that converting took; from its file if that holds just this one."""
        if isinstance(network, SpikingNetwork):
            return network, 0.0
        file = None if self.folder is None or not self.keep else self.folder / f"{name}-spiking.safetensors"
        made_by = self._cache(f"{name}-spiking")
        stored = None if file is None else read_cache(made_by, key)
        if file is not None and stored is not None and stored.get("file") == digest_file(file):
            return checkpoint.load(file), stored["seconds"]
        began = time.perf_counter()
        reference = reference_tensor(network)
        example = calibration[0][:4].to(reference.device, reference.dtype)
        try:
            snn = convert(
                network, run.conversion, calibration=calibration, example_inputs=example, progress=self.progress
            )
        except (CalibrationError, ConversionError, ValueError) as error:
            raise _UnsuitedError(error) from error
        seconds = time.perf_counter() - began
        if file is not None and made_by is not None:
            made_by.unlink(missing_ok=True)  # it names the file that is replaced
            checkpoint.save(snn, file)
            write_cache(made_by, key, {"seconds": seconds, "file": digest_file(file)})
        return snn, seconds

    def _views(self, count: int) -> list[Tensor]:
        return augmented_views(self.calibration, count)

    def _digest(self, what: Any, make: Callable[[], str]) -> str:
        if what not in self._digests:
            self._digests[what] = make()
        return self._digests[what]

    def _cache(self, name: str) -> Path | None:
        return None if self.folder is None else self.folder / "cache" / f"{name}.json"


def _read(stored: Any | None) -> Any:
    """The result of an earlier run; None where there is none, or one with parts of the user's own."""
    try:
        return None if stored is None else from_json(stored, result_kinds())
    except ValueError:
        return None

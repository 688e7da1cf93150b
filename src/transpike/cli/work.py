"""What commands need around their work: data that fits the network, a device, a place to write."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from transpike.cli.options import Device
from transpike.cli.output import note, say
from transpike.cli.words import parse_numbers, read_schedule
from transpike.data import DATA, Data, Preparation, load_data, loader, random_subset, test_images
from transpike.data.contract import check_images_word
from transpike.errors import ConfigError, DataError, ModelError, OutputError, known_words
from transpike.graph.capture import evaluation_mode
from transpike.network.spiking import SpikingNetwork
from transpike.schedules import Plain, Schedule
from transpike.schedules.contract import MOST_STEPS
from transpike.selection.lags import LagSearch, search_lags
from transpike.serialization.fields import check_count
from transpike.serialization.json_records import check_writable
from transpike.serialization.model_info import InputSpec, model_info

_SEARCH_IMAGES = 1024
PICTURES = (".png", ".svg", ".pdf")


def open_data(
    inputs: InputSpec | None,
    dataset: str | None,
    root: Path | None,
    *,
    seed: int = 0,
    preparation: Preparation | None = None,
) -> tuple[str, Data]:
    """The data set that the user named, else the folder of images that ``root`` is, else the network's own; its name.

    Args:
        inputs: what the network takes, if anybody knows.
        dataset: the name.
        root: the folder that holds it.
        seed: of its split.
        preparation: for training; None prepares images as the network wants them.

    Raises:
        ModelError: neither the user nor the network names one.
        DataError: see `load_data`; or its images have another shape than the network's input.
    """
    own = "" if inputs is None else inputs.dataset
    inferred = "folder" if root is not None and own != "imagenet" and (root / "train").is_dir() else own
    name = dataset or inferred
    if not name:
        raise ModelError(
            "the model does not say what data it is for",
            fix="pass --dataset NAME; for images of your own --dataset folder --data DIR, with DIR/train/CLASS/*.jpg "
            "and DIR/val/CLASS/*.jpg",
        )
    how: dict[str, Any] = {"like": inputs} if preparation is None else {"preparation": preparation}
    found = load_data(name, root, seed=seed, **how)
    if inputs is not None and inputs.shape != found.inputs.shape:
        wanted, there = ("x".join(map(str, shape)) for shape in (inputs.shape, found.inputs.shape))
        raise DataError(
            f"the network takes inputs of {wanted}, {name} has {there}",
            fix="choose another --dataset, or --input-shape where the network takes both",
        )
    return name, found


def data_for(snn: SpikingNetwork, dataset: str | None, root: Path | None, *, labelled: bool = True) -> tuple[str, Data]:
    """The data set of a converted network; see `open_data` and, where the labels matter, `check_classes`."""
    inputs = model_info(snn.network).inputs
    shapes = snn.capture.input_shapes
    name, found = open_data(inputs or (InputSpec(shapes[0]) if shapes else None), dataset, root)
    if labelled:
        check_classes(snn.network, found, name)
    return name, found


def check_classes(network: nn.Module, data: Data, name: str) -> None:
    """Checks that a network has an output for every class of the data, where the data knows its classes.

    Raises:
        DataError: it has another number.
    """
    parameter = next(network.parameters(), None)
    example = data.test[0][0].unsqueeze(0)
    with torch.no_grad(), evaluation_mode(network):
        logits = network(example if parameter is None else example.to(parameter.device, parameter.dtype))
    classes = len(data.inputs.classes)
    if classes and isinstance(logits, Tensor) and logits.dim() == 2 and logits.shape[1] != classes:
        raise DataError(
            f"the network has {logits.shape[1]} outputs, the data has {classes} classes",
            where=f"{name}: {', '.join(data.inputs.classes[:5])}" + (", ..." if classes > 5 else ""),
            fix="choose the --dataset that the network was trained for, with one folder for each of its classes",
        )


def check_run(steps: int, images: str, dataset: str | None) -> None:
    """Checks what needs no network, before one is loaded.

    Raises:
        ValueError: steps below 1.
        DataError: another word for images, or no such data set.
    """
    check_count("--steps", steps, most=MOST_STEPS)
    check_images_word(images)
    if dataset is not None and dataset not in DATA:
        raise DataError(f"there is no data set {dataset!r}", where="--dataset", fix=known_words(dataset, DATA))


def test_batches(data: Data, images: str, batch_size: int) -> DataLoader[Any]:
    """Batches of the test images that a word names."""
    chosen = test_images(data, images)
    there = len(chosen)  # type: ignore[arg-type]
    if images.isdecimal() and int(images) > there:
        note(f"there are {there:,} test images, fewer than {int(images):,}: all are taken")
    return loader(chosen, batch_size)


def calibration_batches(data: Data, images: int, seed: int = 0, *, held_back: bool = False) -> list[Any]:
    """Batches of that many training images, or of all that there are.

    Args:
        data: the data set.
        images: how many.
        seed: of the choice.
        held_back: take images of the validation part.
    """
    part = data.validation if held_back else data.calibration
    there = len(part)  # type: ignore[arg-type]
    if images > there:
        note(f"there are {there:,} images to calibrate with, fewer than {images:,}: all are taken")
    return list(loader(random_subset(part, min(images, there), seed)))


SEARCHED = ("staggered", "digits")
"""The schedules whose lags can be searched for a budget of pipeline steps."""


def read_schedules(words: str, probe_steps: int | None) -> dict[str, Schedule | int]:
    """Schedules by what they are called in ``words``; for ``staggered:budget=B`` and ``digits:budget=B`` it is B.

    Raises:
        ConfigError, ValueError: an unknown schedule or setting, or B is no whole number of at least 1.
    """
    found: dict[str, Schedule | int] = {}
    for label in words.split(","):
        name, colon, budget = label.partition(":budget=")
        if colon and name in SEARCHED:
            found[label] = check_count("budget", parse_numbers(budget, f"{name}:budget=")[0])
        else:
            found[label] = read_schedule(label, probe_steps)
    return found


def search_schedules(
    wanted: Mapping[str, Schedule | int], snn: SpikingNetwork, data: Data
) -> tuple[dict[str, Schedule], dict[str, tuple[int, ...]]]:
    """What `read_schedules` read, with lags for the budgets; and the T of those that are made for one."""
    ready: dict[str, Schedule] = {}
    at: dict[str, tuple[int, ...]] = {}
    for label, schedule in wanted.items():
        if isinstance(schedule, int):
            lags = search_schedule(snn, data, schedule, label.partition(":")[0])
            ready[label], at[label] = lags.schedule, (lags.steps,)
        else:
            ready[label] = schedule
    return ready, at


def search_schedule(snn: SpikingNetwork, data: Data, budget: int, name: str) -> LagSearch:
    """Lags of a schedule of `SEARCHED` for ``budget`` pipeline steps, searched on at most 1,024 training images."""
    count = min(_SEARCH_IMAGES, len(data.calibration))  # type: ignore[arg-type]
    images = list(loader(random_subset(data.calibration, count)))
    digits = name == "digits"
    found = search_lags(
        snn, calibration=images, budget=budget, digits=digits, evaluations=500 if digits else 200, progress=True
    )
    if isinstance(found.schedule, Plain):
        say(f"no lags are better beyond doubt after {budget} pipeline steps: plain neurons run for {name}")
    return found


def device_of(device: Device) -> str:
    """The torch name of a device.

    Raises:
        ConfigError: a GPU is asked for and there is none.
    """
    there = torch.cuda.is_available()
    if device in (Device.GPU, Device.CUDA) and not there:
        raise ConfigError("torch finds no GPU", where=f"--device {device.value}", fix="pass --device cpu, or auto")
    return "cpu" if device is Device.CPU or not there else "cuda"


def check_output(output: Path, *inputs: str | Path | None) -> None:
    """Makes sure that a file can be written before long work begins, and that it is none that the command reads.

    Args:
        output: what is to be written.
        inputs: what was named on the command line: files, ``file.py:factory``, other words.

    Raises:
        OutputError: see `transpike.serialization.json_records.check_writable`; or the output is an input.
    """
    check_writable(output)
    for given in inputs:
        for name in {str(given), str(given).rpartition(":")[0]} - {"None", ""}:
            with contextlib.suppress(OSError, ValueError):  # a word that is no file name
                if output.exists() and Path(name).exists() and output.samefile(name):
                    raise OutputError(
                        "the output is a file that this command reads", where=str(output), fix="choose another -o"
                    )


def check_plot(plot: Path) -> None:
    """Makes sure that a picture can be written before long work begins.

    Raises:
        ConfigError: its ending names no kind of picture.
        OutputError: see `check_output`.
    """
    if plot.suffix not in PICTURES:
        raise ConfigError(
            f"{plot.suffix or 'no ending'} is no kind of picture", where=str(plot), fix=f"use {', '.join(PICTURES)}"
        )
    check_output(plot)

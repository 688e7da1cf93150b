"""Options that several commands share; the names that they offer come from the library's tables."""

from __future__ import annotations

from collections.abc import Iterable
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from transpike.conversion.config import TABLES
from transpike.conversion.methods import METHODS
from transpike.data import DATA
from transpike.graph.operators import MaxPooling
from transpike.runtime.encoding import Coding


def named(flag: str, table: Iterable[str], text: str) -> Any:
    """An option whose value is a name in a table of the library; the library itself refuses other names."""
    names = list(table)
    return typer.Option(flag, metavar="NAME", help=f"{text}: {', '.join(names)}.", autocompletion=lambda: list(names))


class Device(StrEnum):
    """Where to run; cuda is another word for gpu."""

    AUTO = "auto"
    CPU = "cpu"
    GPU = "gpu"
    CUDA = "cuda"


# What is converted, and how it is captured.
Model = Annotated[
    str,
    typer.Argument(
        metavar="MODEL",
        help="A built-in or trained network (`transpike models`), a checkpoint (*.safetensors), an ONNX file "
        "(*.onnx), torchvision:NAME, timm:NAME, file.py:factory or package.module:factory.",
    ),
]
Options = Annotated[
    list[str] | None, typer.Option("--option", help="name=value for the network's builder; repeatable.")
]
Weights = Annotated[Path | None, typer.Option(help="State_dict to load into MODEL (*.safetensors, *.pt, *.th).")]
Factory = Annotated[
    str | None, typer.Option("--model", help="Where a checkpoint's network comes from, if it is not built in.")
]
InputShape = Annotated[
    str | None,
    typer.Option(help="One sample without the batch, for example 3,224,224 (default: what MODEL is known for)."),
]
Leave = Annotated[
    list[str] | None, typer.Option(help="Activation to keep as it is (path, node or class name); repeatable.")
]
Leaf = Annotated[list[str] | None, typer.Option("--leaf", help="Submodule (path) not to trace into; repeatable.")]
Pooling = Annotated[
    MaxPooling, typer.Option(help="How max-pooling runs in time; only running sums tend to the source.")
]

# The conversion and how it runs. A part is NAME or NAME:setting=value:setting=value.
Threshold = Annotated[
    str | None, named("--threshold", TABLES["threshold"], "Rule for plain ReLU (default: percentile per channel)")
]
Potential = Annotated[
    str | None, named("--potential", TABLES["potential"], "v(0) (default: as trained, half of theta for plain ReLU)")
]
Corrections = Annotated[
    list[str] | None,
    named("--correction", TABLES["corrections"], "Mends what the conversion lost; repeatable, in this order"),
]
NeuronName = Annotated[str | None, named("--neuron", TABLES["neuron"], "Neuron model (default: if)")]
ScheduleName = Annotated[
    str | None,
    named("--schedule", TABLES["schedule"], "NAME or NAME:setting=value (default: the network's own)"),
]
ProbeSteps = Annotated[
    int | None, typer.Option("--probe-steps", help="Of --schedule: rho, steps a layer looks before it fires.")
]
MethodName = Annotated[str | None, named("--method", METHODS, "A method by name, which sets all parts")]
Methods = Annotated[
    str,
    typer.Option(
        metavar="NAMES",
        help=f"all, untrained (all but {', '.join(name for name in METHODS if METHODS[name].trains)}, which take "
        f"minutes), or names separated by commas: {', '.join(METHODS)}.",
    ),
]

# Data.
DataName = Annotated[str | None, named("--dataset", DATA, "Data set (default: the model's own); folder is --data")]
Root = Annotated[Path | None, typer.Option("--data", help="Folder with the data sets (default: $TRANSPIKE_DATA).")]
Images = Annotated[str, typer.Option(help="Test images: all, fixed (the committed 2,000) or a number.")]
CalibrationImages = Annotated[int, typer.Option(help="Training images to calibrate with; all if there are fewer.")]
Seed = Annotated[int, typer.Option(help="Of the choice of training images, and of random potentials.")]

# Running.
File = Annotated[str, typer.Argument(metavar="FILE", help="A converted network, by file or name.")]
Steps = Annotated[int, typer.Option("--steps", "-T", help="The largest T; smaller ones come with it.")]
InputCoding = Annotated[Coding, typer.Option("--coding", help="Constant current, or Poisson spikes.")]
BatchSize = Annotated[int, typer.Option(help="Images that run at once.")]
DeviceName = Annotated[Device, typer.Option("--device", help="gpu and cuda are the same.")]
Compile = Annotated[
    bool,
    typer.Option(
        "--compile", help="Train under torch.compile (a CIFAR ResNet-20 in half the time); needs a C++ compiler."
    ),
]
Output = Annotated[Path, typer.Option("--output", "-o", help="File to write.")]
Folder = Annotated[Path | None, typer.Option("--output", "-o", help="Folder to write to.")]
Plot = Annotated[Path | None, typer.Option(help="Picture of accuracy against T (*.png, *.svg, *.pdf).")]

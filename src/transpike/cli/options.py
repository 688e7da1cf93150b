"""Choices and options that several commands share."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer


class Activation(StrEnum):
    """Activations to train with."""

    SLIP = "slip"
    QCFS = "qcfs"
    QCF = "qcf"
    THRESHOLD = "threshold-relu"
    SHIFT_THRESHOLD = "shift-threshold-relu"
    RATE_NORM = "rate-norm"


class Rule(StrEnum):
    """Threshold rules."""

    MAXIMUM = "maximum"
    PERCENTILE = "percentile"
    MINIMUM_MSE = "minimum-mse"
    GAUSSIAN_MSE = "gaussian-mse"
    LOCAL_BALANCING = "local-balancing"
    SPIKE_NORM = "spike-norm"


class Per(StrEnum):
    """Granularities of thresholds."""

    LAYER = "layer"
    CHANNEL = "channel"


class Potential(StrEnum):
    """Initial potentials."""

    ZERO = "zero"
    HALF = "half"
    RANDOM = "random"


class Calibrate(StrEnum):
    """Calibrations, which `convert` applies in the order given."""

    BIAS = "bias"
    POTENTIAL = "potential"
    OPTIMAL_POTENTIAL = "optimal-potential"
    TEMPORAL_BIAS = "temporal-bias"
    RECONSTRUCTION = "reconstruction"


class NeuronName(StrEnum):
    """Neuron models."""

    IF = "if"
    SIGNED = "signed"
    BURST = "burst"


class LatencyName(StrEnum):
    """What a budget of steps counts."""

    ANSWER = "answer"
    PIPELINE = "pipeline"


class Prepare(StrEnum):
    """Preparations of the CIFAR sets."""

    STANDARD = "standard"
    SLIPRELU = "sliprelu"
    COS = "cos"


class Pooling(StrEnum):
    """How max-pooling runs in time."""

    RUNNING = "running"
    PER_STEP = "per_step"
    AVERAGE = "average"


class InputCoding(StrEnum):
    """How images become inputs in time."""

    CONSTANT = "constant"
    POISSON = "poisson"


ScheduleName = Annotated[
    str | None,
    typer.Option(
        "--schedule",
        help="plain, residual, cos, exact, accumulate, staggered or srp (default: the one that the network was "
        "converted for, else plain).",
    ),
]
OwnProbeSteps = Annotated[
    int | None,
    typer.Option("--probe-steps", help="Of --schedule: rho, steps a layer looks before it fires (default: 4)."),
]
OwnIterations = Annotated[
    int | None, typer.Option("--iterations", help="Of --schedule cos: how often to probe and shift (default: 1).")
]
OwnWaiting = Annotated[
    int | None, typer.Option("--waiting", help="Of --schedule staggered: steps every layer waits (default: 1).")
]
ProbeSteps = Annotated[int, typer.Option(help="rho: steps a layer looks at its input before it fires.")]
Methods = Annotated[
    str | None, typer.Option(help="Of --auto: all (default) methods of conversion, or names separated by commas.")
]
Waiting = Annotated[int, typer.Option(help="Of staggered: steps every layer waits.")]


class Device(StrEnum):
    """Where to run."""

    AUTO = "auto"
    CPU = "cpu"
    GPU = "gpu"


Model = Annotated[
    str,
    typer.Argument(metavar="MODEL", help="A built-in network, a checkpoint (*.safetensors) or package.module:factory."),
]
Options = Annotated[
    list[str] | None, typer.Option("--option", help="name=value for the network's builder; repeatable.")
]
Compile = Annotated[
    bool,
    typer.Option(
        "--compile", help="Train under torch.compile (a CIFAR ResNet-20 in half the time); needs a C++ compiler."
    ),
]
Weights = Annotated[Path | None, typer.Option(help="State_dict to load into MODEL (*.safetensors, *.pt, *.th).")]
DataName = Annotated[
    str | None,
    typer.Option("--dataset", help="digits, cifar10, cifar100, imagenet or folder (default: the model's own)."),
]
Root = Annotated[Path | None, typer.Option("--data", help="Folder with the data sets (default: $TRANSPIKE_DATA).")]
Output = Annotated[Path, typer.Option("--output", "-o", help="File to write.")]
Leave = Annotated[
    list[str] | None, typer.Option(help="Operator to keep as it is (path, node or class name); repeatable.")
]
Factory = Annotated[
    str | None, typer.Option("--model", help="package.module:factory of a checkpoint that is not built in.")
]

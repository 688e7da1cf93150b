"""The commands that make networks: inspect, train, convert, run."""

from __future__ import annotations

from collections.abc import Callable
from inspect import signature
from pathlib import Path
from typing import Annotated

import typer
from rich import box
from rich.table import Table

from transpike.cli.auto import choose_network
from transpike.cli.main import app
from transpike.cli.options import (
    Activation,
    Calibrate,
    Compile,
    DataName,
    Device,
    Factory,
    LatencyName,
    Leave,
    Methods,
    Model,
    NeuronName,
    Options,
    Output,
    Per,
    Pooling,
    Potential,
    Prepare,
    Root,
    Rule,
    Weights,
)
from transpike.cli.output import out


@app.command()
def inspect(
    model: Model,
    input_shape: Annotated[
        str | None, typer.Option(help="One sample without the batch, for example 3,224,224.")
    ] = None,
    leave: Leave = None,
    leaf_modules: Annotated[
        list[str] | None, typer.Option("--leaf", help="Submodule not to trace into; repeatable.")
    ] = None,
    option: Options = None,
    factory: Factory = None,
) -> None:
    """Show what would be converted, before anything is; exit status 1 if an operator does not convert.

    Examples:
    * `transpike inspect cifar-resnet20`
    * `transpike inspect torchvision.models:resnet18 --input-shape 3,224,224`
    """
    from transpike.cli.resolve import example_for, parse_options, resolve_model
    from transpike.conversion.inspect import inspect as inspect_model
    from transpike.report import inspection_table

    network = resolve_model(model, parse_options(option or []), model=factory)
    found = inspect_model(
        network, example_for(network, input_shape), leave=leave or (), leaf_modules=leaf_modules or ()
    )
    out.print(inspection_table(found))
    if found.plan.pools:
        out.print(f"max-pooling as temporal operator: {', '.join(found.plan.pools)}")
    if found.plan.analogue:
        out.print(f"kept analogue: {', '.join(found.plan.analogue)}")
    if not found.convertible:
        out.print(f"[bold red]{len(found.unsupported)} unsupported:[/]")
        for obstacle in found.unsupported:
            out.print(f"  - {obstacle}", markup=False)
        raise typer.Exit(1)
    out.print(f"[bold green]converts[/] ({len(found.folded)} BatchNorm folded)")


@app.command()
def train(
    model: Model,
    output: Output,
    dataset: DataName = None,
    data: Root = None,
    activation: Annotated[Activation | None, typer.Option(help="Leave out to train with plain ReLU.")] = None,
    levels: Annotated[int, typer.Option(help="N (L of QCFS): steps of the staircase.")] = 4,
    slope: Annotated[float, typer.Option(help="c of SlipReLU in [0, 1].")] = 0.3,
    theta_percentile: Annotated[
        float | None,
        typer.Option(help="Start thresholds at this percentile of activations (default: 8.0; 1.0 of rate-norm)."),
    ] = None,
    epochs: int = 30,
    learning_rate: float = 0.1,
    warmup_steps: Annotated[int, typer.Option(help="Steps in which the learning rate rises from 0.")] = 0,
    weight_decay: float = 5e-4,
    spike_penalty: Annotated[
        float, typer.Option(help="Train for fewer spikes: weight of the share of synaptic operations in the loss.")
    ] = 0.0,
    batch_size: int = 128,
    seed: int = 0,
    weights: Weights = None,
    option: Options = None,
    preparation: Annotated[Prepare, typer.Option(help="Augmentation of the CIFAR sets, as a paper did it.")] = (
        Prepare.STANDARD
    ),
    workers: Annotated[int, typer.Option(help="Processes that load data.")] = 0,
    device: Device = Device.AUTO,
    compile_: Compile = False,
    factory: Factory = None,
) -> None:
    """Train a network; interrupted training goes on from OUTPUT with the ending .ckpt.

    Examples:
    * `transpike train digits-resnet -o relu.safetensors`
    * `transpike train relu.safetensors --activation slip --theta-percentile 99 --learning-rate .05 -o slip.safetensors`
    """
    import torch

    from transpike import activations, zoo
    from transpike.cli.resolve import check_writable, dataset_for, parse_options, resolve_model
    from transpike.conversion.tailor import tailor, tailoring
    from transpike.data import Preparation, load_data, loader, random_subset
    from transpike.report import training_table
    from transpike.serialization.model_info import ModelInfo, model_info, set_model_info
    from transpike.storage import checkpoint
    from transpike.training import fit

    torch.manual_seed(seed)
    network = resolve_model(model, parse_options(option or []), model=factory)
    if weights is not None:
        zoo.load_weights(network, weights)
    check_writable(output)
    found = load_data(dataset_for(network, dataset), data, seed=seed, preparation=Preparation(preparation.value))
    if activation is not None:
        start = None if theta_percentile is None else activations.ThetaPercentile(theta_percentile)
        theta = 8.0 if start is None else start
        choices: dict[Activation, Callable[[], activations.ActivationSettings]] = {
            Activation.SLIP: lambda: activations.SlipReLU(levels, slope, theta_init=theta),
            Activation.QCFS: lambda: activations.QCFS(levels, theta_init=theta),
            Activation.QCF: lambda: activations.QCF(levels, theta_init=theta),
            Activation.THRESHOLD: lambda: activations.ThresholdReLU(theta_init=theta),
            Activation.SHIFT_THRESHOLD: lambda: activations.ShiftThresholdReLU(levels, theta_init=theta),
            Activation.RATE_NORM: lambda: activations.RateNorm(theta_init=1.0 if start is None else start),
        }
        config = choices[activation]()
        source = model_info(network).source
        network = tailor(network, config, calibration=loader(random_subset(found.calibration, 512, seed)))
        set_model_info(network, ModelInfo(source, found.inputs))
        out.print(str(tailoring(network)), markup=False)
    history = fit(
        network,
        found,
        epochs=epochs,
        learning_rate=learning_rate,
        warmup_steps=warmup_steps,
        weight_decay=weight_decay,
        spike_penalty=spike_penalty,
        batch_size=batch_size,
        seed=seed,
        checkpoint=output.with_suffix(".ckpt"),
        workers=workers,
        device=device.value,
        compile=compile_,
        progress=True,
    )
    checkpoint.save(network.cpu(), output, inputs=found.inputs)
    out.print(training_table(history))
    out.print(f"written: {output}")


@app.command()
def convert(
    model: Model,
    output: Output,
    dataset: DataName = None,
    data: Root = None,
    threshold: Annotated[Rule | None, typer.Option(help="Rule for plain ReLU; trained thresholds need none.")] = None,
    percentile: Annotated[float | None, typer.Option(help="Of the percentile rule (default: 99.9).")] = None,
    steps: Annotated[
        int | None, typer.Option("--steps", "-T", help="T to calibrate for, and of rules that set thresholds for a T.")
    ] = None,
    fraction: Annotated[float | None, typer.Option(help="Of spike-norm: of the largest drive (default: 1).")] = None,
    iterations: Annotated[int | None, typer.Option(help="Of local-balancing (default: 4000).")] = None,
    per: Annotated[
        Per | None, typer.Option(help="Of --threshold: one per layer or per channel (default: channel).")
    ] = None,
    potential: Annotated[
        Potential | None, typer.Option(help="v(0): 0, theta/2 (default for ReLU), or random (by --seed).")
    ] = None,
    calibrate: Annotated[
        list[Calibrate] | None, typer.Option(help="Correct what the conversion lost, on training images; repeatable.")
    ] = None,
    calibration_images: Annotated[
        int, typer.Option(help="Training images to set thresholds with and calibrate.")
    ] = 512,
    neuron: Annotated[
        NeuronName, typer.Option(help="Sends 0 or 1 per step; signed: also -1; burst: up to 5 (plain ReLU only).")
    ] = NeuronName.IF,
    auto: Annotated[
        bool, typer.Option("--auto", help="Try the methods on training images, and take the one nearest to the ANN.")
    ] = False,
    budget_steps: Annotated[
        int | None, typer.Option(help="Of --auto: steps that the answer may take (default: 8).")
    ] = None,
    latency: Annotated[
        LatencyName | None, typer.Option(help="Of --auto: which steps the budget counts (default: answer).")
    ] = None,
    methods: Methods = None,
    any_events: Annotated[
        bool, typer.Option("--any-events", help="Of --auto: also neurons that send -1, or several spikes per step.")
    ] = False,
    weights: Weights = None,
    option: Options = None,
    leave: Leave = None,
    max_pooling: Annotated[Pooling, typer.Option(help="Only running sums tend to the source.")] = Pooling.RUNNING,
    seed: int = 0,
    factory: Factory = None,
) -> None:
    """Convert a trained network and write it to a file.

    Examples:
    * `transpike convert slip.safetensors -o snn.safetensors`
    * `transpike convert cifar-resnet20 --weights w.pt --dataset cifar10 --threshold percentile -o snn.safetensors`
    * `transpike convert relu.safetensors --threshold minimum-mse --steps 8 --per channel -o snn.safetensors`
    * `transpike convert relu.safetensors --threshold percentile --calibrate bias --steps 4 -o snn.safetensors`
    * `transpike convert relu.safetensors --auto --budget-steps 8 --latency pipeline -o snn.safetensors`
    """
    from transpike import zoo
    from transpike.cli.resolve import check_writable, dataset_for, parse_options, resolve_model
    from transpike.conversion.config import read_part
    from transpike.conversion.convert import convert as convert_model
    from transpike.data import load_data, loader, random_subset
    from transpike.graph.operators import MaxPooling
    from transpike.neurons import NEURONS
    from transpike.rules import (
        CORRECTIONS,
        POTENTIAL_RULES,
        THRESHOLD_RULES,
        BlockCorrection,
        Conversion,
        Part,
        RandomPotential,
    )
    from transpike.serialization.model_info import model_info
    from transpike.storage import checkpoint

    network = resolve_model(model, parse_options(option or []), model=factory)
    if weights is not None:
        zoo.load_weights(network, weights)
    check_writable(output)
    found = load_data(dataset_for(network, dataset), data, seed=seed, like=model_info(network).inputs)
    batches = list(loader(random_subset(found.calibration, calibration_images, seed)))
    pooling = MaxPooling(max_pooling.value)
    if auto:
        chosen = (threshold, per, percentile, fraction, iterations, steps, potential, calibrate)
        if neuron is not NeuronName.IF or any(word is not None for word in chosen):
            raise ValueError("--auto chooses threshold, potential, calibrations, neuron and T: leave these options out")
        snn = choose_network(
            out,
            network,
            batches,
            budget=8 if budget_steps is None else budget_steps,
            latency=(latency or LatencyName.ANSWER).value,
            methods=methods or "all",
            any_events=any_events,
            seed=seed,
            leave=leave or (),
            max_pooling=pooling,
        )
        checkpoint.save(snn, output, inputs=found.inputs)
        out.print(f"written: {output}")
        return
    if any_events or any(word is not None for word in (budget_steps, latency, methods)):
        raise ValueError("--budget-steps, --latency, --methods and --any-events belong to --auto")
    parts: list[Part] = []
    given = {"percentile": percentile, "steps": steps, "fraction": fraction, "iterations": iterations}
    settings = {name: value for name, value in given.items() if value is not None}
    if calibrate:
        if steps is None:
            raise ValueError("--calibrate needs --steps, the number of time-steps to calibrate for")
        if threshold is None or "steps" not in signature(THRESHOLD_RULES[threshold.value]).parameters:
            del settings["steps"]
    if threshold is not None:
        words = {"name": threshold.value, "per": (per or Per.CHANNEL).value, **settings}
        parts.append(read_part("threshold", words, "--threshold"))
    elif settings:
        raise ValueError(f"--{next(iter(settings))} belongs to a threshold rule; choose one by --threshold")
    if potential is not None:
        random = potential is Potential.RANDOM
        parts.append(RandomPotential(seed) if random else POTENTIAL_RULES[potential.value]())
    if steps is not None:
        parts += [CORRECTIONS[name.value](steps) for name in calibrate or ()]
    snn = convert_model(
        network,
        Conversion.of(*parts, neuron=NEURONS[neuron.value]()),
        example_inputs=batches[0][0][:4],
        calibration=batches,
        leave=leave or (),
        max_pooling=pooling,
        progress=True,
    )
    other = max_pooling is Pooling.AVERAGE or any(isinstance(part, BlockCorrection) for part in parts)
    snn.verify(batches[0][0][:16], ann=None if other else network.eval())
    checkpoint.save(snn, output, inputs=found.inputs)
    out.print(snn.summary(), markup=False)
    out.print(f"written: {output}")


@app.command()
def run(
    recipe: Annotated[str | None, typer.Argument(metavar="RECIPE", help="Name of a recipe or a *.toml file.")] = None,
    list_: Annotated[bool, typer.Option("--list", help="List the recipes.")] = False,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Folder to write (default: runs/RECIPE).")
    ] = None,
    data: Root = None,
    device: Device = Device.AUTO,
    compile_: Compile = False,
) -> None:
    """Run a recipe: train, convert, evaluate, and write checkpoints, a JSON record and a plot.

    Examples:
    * `transpike run --list`
    * `transpike run digits`
    """
    from transpike.experiments.recipe import find_recipe, recipes
    from transpike.experiments.runner import run_recipe
    from transpike.report import comparison_table, plot_accuracy, report_table

    if list_ or recipe is None:
        table = Table(box=box.SIMPLE)
        table.add_column("recipe", no_wrap=True)
        table.add_column("about")
        for name, entry in recipes().items():
            table.add_row(name, entry.about)
        out.print(table)
        return
    plan = find_recipe(recipe)
    folder = output or Path("runs") / plan.name
    outcome = run_recipe(
        plan, folder, data_root=data, device=device.value, compile=compile_, progress=True, say=out.print
    )
    out.print(comparison_table(outcome.reports, outcome.published))
    first = next(iter(outcome.reports))
    out.print(f"{first}:", markup=False)
    out.print(report_table(outcome.reports[first]))
    plot_accuracy(outcome.reports, folder / "accuracy.png", plan.about)
    out.print(f"written: {folder}/ (checkpoints, result.json, accuracy.png)")

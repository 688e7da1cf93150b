"""``transpike inspect``."""

from __future__ import annotations

import typer

from transpike.cli.main import app
from transpike.cli.options import Factory, InputShape, Leaf, Leave, Model, Options, Pooling, Weights
from transpike.cli.output import out, say
from transpike.graph.operators import MaxPooling


@app.command()
def inspect(
    model: Model,
    input_shape: InputShape = None,
    leave: Leave = None,
    leaf: Leaf = None,
    max_pooling: Pooling = MaxPooling.RUNNING,
    weights: Weights = None,
    option: Options = None,
    factory: Factory = None,
) -> None:
    """Show what would be converted, before anything is; exit status 1 if an operator is unsupported.

    Examples:
    * `transpike inspect cifar-resnet20`
    * `transpike inspect torchvision:resnet18`
    * `transpike inspect mymodel.py:Net --input-shape 3,64,64`
    """
    from transpike.cli.find_model import find_model
    from transpike.conversion.inspect import inspect as inspect_model
    from transpike.report import inspection_table

    model_found = find_model(model, option=option, factory=factory, weights=weights, input_shape=input_shape)
    found = inspect_model(
        model_found.network,
        model_found.example(),
        leave=leave or (),
        leaf_modules=leaf or (),
        max_pooling=max_pooling,
    )
    if found.convertible:
        out.print(inspection_table(found))
    else:
        say(found.title)
    for line in found.notes(shell=True):
        say(line)
    if not found.convertible:
        raise typer.Exit(1)

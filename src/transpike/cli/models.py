"""``transpike models``."""

from __future__ import annotations

from typing import Annotated

import typer

from transpike.cli.main import app
from transpike.cli.output import out, say


@app.command()
def models(
    name: Annotated[str | None, typer.Argument(metavar="NAME", help="A trained network, whose card is shown.")] = None,
) -> None:
    """List the built-in networks, with fresh weights and trained, and how others are named.

    Examples:
    * `transpike models`
    * `transpike models cifar10-resnet20-sliprelu-1-0.2`
    * `transpike inspect cifar-resnet20`
    * `transpike inspect torchvision:resnet18`
    """
    from transpike import zoo
    from transpike.report import card_table, models_table, trained_table

    if name is not None:
        out.print(card_table(zoo.card(name)))
        return
    out.print(models_table())
    if trained := zoo.cards():
        out.print(trained_table(trained))
    say("torchvision:NAME     a network of torchvision, for example torchvision:resnet18")
    say("timm:NAME            a network of timm (pip install timm), for example timm:resnet18")
    say("*.onnx               a network from an ONNX file, with its weights")
    say("file.py:factory      your own: a class or function without arguments, or an nn.Module, in a file")
    say("package.module:name  the same in a module that can be imported")
    say("net.safetensors      what transpike train or transpike.save wrote")
    say("weights of your own: --weights state.pth; arguments of the builder: --option name=value")

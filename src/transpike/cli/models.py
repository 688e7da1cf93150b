"""``transpike models``."""

from __future__ import annotations

from transpike.cli.main import app
from transpike.cli.output import out, say


@app.command()
def models() -> None:
    """List the built-in networks, and how others are named.

    Examples:
    * `transpike models`
    * `transpike inspect cifar-resnet20`
    * `transpike inspect torchvision:resnet18`
    """
    from transpike.report import models_table

    out.print(models_table())
    say("torchvision:NAME     a network of torchvision, for example torchvision:resnet18")
    say("timm:NAME            a network of timm (pip install timm), for example timm:resnet18")
    say("file.py:factory      your own: a class or function without arguments, or an nn.Module, in a file")
    say("package.module:name  the same in a module that can be imported")
    say("net.safetensors      what transpike train or transpike.save wrote")
    say("weights of your own: --weights state.pth; arguments of the builder: --option name=value")

"""Weights that are computed from other tensors: parametrizations of torch, pruning, old weight normalisation."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn.utils import parametrize, prune
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm

from transpike.errors import TraceError

_WAYS_OUT = (
    (prune.BasePruningMethod, "pruning", "prune.remove(module, {name!r}) from torch.nn.utils"),
    (WeightNorm, "torch.nn.utils.weight_norm", "torch.nn.utils.remove_weight_norm(module, {name!r})"),
    (SpectralNorm, "torch.nn.utils.spectral_norm", "torch.nn.utils.remove_spectral_norm(module, {name!r})"),
)


def refuse_hooked_weights(model: nn.Module) -> None:
    """Hooks that compute a weight before every call: such a module can be neither copied nor folded.

    Raises:
        TraceError: with the module and the function that makes the weight an ordinary one.
    """
    for path, module in model.named_modules():
        for hook in module._forward_pre_hooks.values():
            for cls, what, way_out in _WAYS_OUT:
                if isinstance(hook, cls):
                    name = str(getattr(hook, "_tensor_name", None) or getattr(hook, "name", "weight"))
                    raise TraceError(
                        f"a hook of {what} computes {name!r} before every call",
                        where=f"module {path or type(model).__name__!r}",
                        fix=f"make it an ordinary weight first: {way_out.format(name=name)}",
                    )
        for name, value in vars(module).items():
            if isinstance(value, Tensor) and not value.is_leaf:
                raise TraceError(
                    f"{name!r} is a tensor computed from others, which cannot be copied",
                    where=f"module {path or type(model).__name__!r}",
                    fix="make it a parameter or a buffer, or detach() it",
                )


def bake_parametrizations(model: nn.Module) -> None:
    """Gives every parametrized tensor the value it has, in place; ``model`` must be a copy in evaluation mode."""
    for module in model.modules():
        if not parametrize.is_parametrized(module):
            continue
        # A copy shares the class that torch made for the original, whose properties are about to be deleted.
        cls = type(module)
        module.__class__ = type(cls.__name__, cls.__bases__, dict(vars(cls)))
        assert isinstance(module.parametrizations, nn.ModuleDict)
        for name in list(module.parametrizations):
            parametrize.remove_parametrizations(module, name, leave_parametrized=True)

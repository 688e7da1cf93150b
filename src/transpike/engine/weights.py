"""Whether a network still is what it was when its weights were packed."""

from __future__ import annotations

from typing import Any

from torch import Tensor, fx, nn
from torch.nn.modules import module as torch_module
from torch.nn.utils import prune

from transpike.graph.site import Site
from transpike.kernels.native import module

_WHOLE = 2**16
"""Bytes of weights up to which they are read whole at every run."""

_LINES = 2**10
"""Lines of 64 bytes that are read of larger ones."""


class WeightSnapshot:
    """What a network's layers hold, and the contents of its parameters and buffers.

    Those of the source network's activations, which no spiking run reads, are left out. A snapshot is compared before
    every run, when other data have taken its place in the caches of the CPU: it looks at as little as it can.

    Contents are compared as such, since not every change is counted by ``tensor._version``: not those of fused
    optimizers, under ``torch.inference_mode``, and through ``.data`` or NumPy. Of more than 64 KiB a sample is read:
    the first 64 bytes of every parameter, and of each of some 1,000 equal parts. Counted changes are seen all the
    same, others if they reach into such bytes.

    Attributes:
        tensors: the parameters and buffers.
        unsupported_reason: why torch must call the layers themselves; None if they compute what their classes say.
    """

    def __init__(self, network: fx.GraphModule) -> None:
        sites = [module for module in network.modules() if isinstance(module, Site)]
        unread = {part for site in sites for part in site.activation.modules()}
        modules = {name: module for name, module in network.named_modules() if module not in unread}
        for each in modules.values():
            for hook in each._forward_pre_hooks.values():
                if isinstance(hook, prune.BasePruningMethod):
                    hook(each, ())  # makes the weight anew, as before each call
        self._network = network
        targets = {str(node.target) for node in network.graph.nodes if node.op == "call_module"}
        called = {name: each for name, each in modules.items() if name in targets or not each._modules}
        self._called = list(called.values())
        self._types = [type(each) for each in self._called]
        self._kinds = list(dict.fromkeys(self._types))
        self._forwards = [kind.forward for kind in self._kinds]
        dicts: list[dict[Any, Any]] = [torch_module._global_forward_hooks, torch_module._global_forward_pre_hooks]
        for each in self._called:
            own = vars(each)
            dicts += [own, each._parameters]
            dicts += [] if isinstance(each, Site) else [each._forward_hooks, each._forward_pre_hooks]
            dicts += [value for key, value in own.items() if isinstance(value, dict) and not key.startswith("_")]
        for each in modules.values():
            dicts += [held for held in (each._parameters, each._buffers, each._modules) if held]
        dicts = list({id(each): each for each in dicts}.values())
        self._held = [(found, list(found.items())) for found in dicts]
        self._watch = module().Watch(dicts)
        self.tensors = [
            value
            for each in modules.values()
            for value in (*each._parameters.values(), *each._buffers.values())
            if value is not None
        ]
        self._vectors = [tensor for tensor in self.tensors if tensor.dim() == 1]
        self._arrays = [tensor for tensor in self.tensors if tensor.dim() > 1]
        self.unsupported_reason = _unsupported_reason(called)
        storages = {tensor.untyped_storage()._cdata: tensor.untyped_storage() for tensor in self.tensors}
        self._storages = list(storages.values())  # held, so that no other takes its place
        places = [(storage.data_ptr(), storage.nbytes()) for storage in self._storages if storage.device.type == "cpu"]
        size = sum(size for _, size in places)
        self._sampled = size > _WHOLE
        self._contents = module().Contents(places, 64 * (size // _LINES // 64 | 1) if self._sampled else 0)
        self._layout = self._look()
        self._digest = self._contents.digest()

    def is_current(self, network: nn.Module) -> bool:
        """Whether the network is the same, and as it was."""
        return (
            network is self._network
            and self._watch.same()
            and [*map(type, self._called)] == self._types
            and [kind.forward for kind in self._kinds] == self._forwards
            and self._look() == self._layout
            and self._contents.digest() == self._digest
        )

    def _look(self) -> list[Any]:
        found: list[Any] = [*map(Tensor.data_ptr, self.tensors)]
        found += map(Tensor.stride, self._arrays)
        found += map(Tensor.is_contiguous, self._vectors)
        if self._sampled:
            found += self._versions()
        return found

    def _versions(self) -> list[int]:
        try:
            return [tensor._version for tensor in self.tensors]
        except RuntimeError:  # tensors of inference mode do not count changes
            return [0 if tensor.is_inference() else tensor._version for tensor in self.tensors]


def _unsupported_reason(layers: dict[str, nn.Module]) -> str | None:
    if torch_module._global_forward_hooks or torch_module._global_forward_pre_hooks:
        return "torch has forward hooks for all modules; remove them"
    for name, layer in layers.items():
        if isinstance(layer, Site):  # no run calls it
            continue
        before = [hook for hook in layer._forward_pre_hooks.values() if not isinstance(hook, prune.BasePruningMethod)]
        if layer._forward_hooks or before:
            return f"layer {name!r} has forward hooks; remove them"
        if "forward" in vars(layer):
            return f"layer {name!r} has a forward of its own in the place of its class's; delete it, or write a class"
    return None

"""Operations per image, by NeuroBench's definitions (`neurobench.metrics.workload.SynapticOperations`).

An operation is one product of an input and a weight of a linear or convolutional layer. It is *effective* where both
differ from zero, and *dense* counts all. Where the inputs of a layer are events of 0 and 1 (or -1) it is an addition
(AC), else a multiplication with an addition (MAC). Biases, pooling, normalisation, sums of branches and the neurons
themselves do not count, nor do products of two spiking values, which are part of a site.

Neurons here send events worth theta. An input counts as events where every channel holds one non-zero magnitude only,
over all images and steps: that factor goes into the weights. Of digits it is one magnitude at each step, where the
membrane is scaled. Behind average pooling or a sum of two populations it
does not, so such layers count as MACs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from transpike.errors import DataError
from transpike.evaluation.offsets.counts import checked_batches
from transpike.network.spiking import SpikingNetwork, converted
from transpike.schedules import Schedule
from transpike.schedules.contract import check_schedule
from transpike.serialization.fields import check_count

_FORWARD = ("input", "weight", "bias", "stride", "padding", "dilation", "groups")
_TRANSPOSED = ("input", "weight", "bias", "stride", "padding", "output_padding", "groups", "dilation")
_ARGUMENTS: dict[Callable[..., Tensor], tuple[str, ...]] = {
    F.linear: _FORWARD[:3],
    **dict.fromkeys((F.conv1d, F.conv2d, F.conv3d), _FORWARD),
    **dict.fromkeys((F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d), _TRANSPOSED),
}
_SAME = 1e-4
"""Two magnitudes are the same up to this relative difference: differences of running sums are rounded."""
_NO_CHUNKS = 2**20
"""MiB: whole runs at once, so that a layer in front of the first neurons can be told from one in time."""


@dataclass(frozen=True)
class LayerOperations:
    """The operations of one layer, per image, all steps and passes together.

    Attributes:
        layer: name of its weights.
        events: whether its inputs are events.
        runs: how often it runs per image.
        constant: whether its input is the same at every step, so that it runs once.
        effective: products of non-zero input and non-zero weight.
        dense: all products.
    """

    layer: str
    events: bool
    runs: float
    constant: bool
    effective: float
    dense: float


@dataclass(frozen=True)
class Operations:
    """The operations of one network, per image.

    Attributes:
        layers: in the order in which they run first.
        activation_sparsity: share of zeros in what sites send, over all sites, steps and images.
        updates: neurons that are computed, over all steps.
        images: how many were counted.
        functions: those of the updates that compute another function than a ReLU, such as GELU or softmax.
    """

    layers: tuple[LayerOperations, ...]
    activation_sparsity: float
    updates: float
    images: int
    functions: float = 0.0

    @property
    def effective_acs(self) -> float:
        """Additions: NeuroBench's ``Effective_ACs``."""
        return sum(layer.effective for layer in self.layers if layer.events)

    @property
    def effective_macs(self) -> float:
        """Multiplications with additions: NeuroBench's ``Effective_MACs``, each layer as often as it runs."""
        return sum(layer.effective for layer in self.layers if not layer.events)

    @property
    def dense(self) -> float:
        """NeuroBench's ``Dense``."""
        return sum(layer.dense for layer in self.layers)

    @property
    def repeated_macs(self) -> float:
        """`effective_macs` of a device that keeps no currents: layers with a constant input run at every step."""
        most = max(layer.runs for layer in self.layers)
        return sum(
            layer.effective * (most / layer.runs if layer.constant else 1.0)
            for layer in self.layers
            if not layer.events
        )


def count_operations(
    snn: SpikingNetwork,
    batches: Iterable[Any],
    *,
    steps: int,
    schedule: Schedule | None = None,
    progress: bool = False,
) -> Operations:
    """Counts the operations of runs of T = ``steps``.

    All steps that layers take count, also those of a probe and those that the answer does not need.

    Args:
        snn: the network.
        batches: tensors, or tuples that start with the model's inputs (labels are ignored).
        steps: T.
        schedule: how the network runs; None is the network's own schedule.
        progress: show a progress bar.

    Raises:
        ValueError: steps below 1, or no schedule.
        InputError, DataError: unusable batches, none, or no layer with weights.
    """
    snn = converted(snn, "count_operations")
    check_count("steps", steps)
    how = snn.schedule if schedule is None else check_schedule(schedule)
    counter = _Counter(_weight_names(snn), how.incremental)
    functions = {site.name for site in snn.plan.functions}

    def look(site: str, drive: Tensor, events: Tensor) -> None:
        counter.send(events, function=site in functions)

    for inputs in checked_batches(snn, batches, f"operations, T = {steps}", progress):
        counter.batch = inputs[0].shape[0]
        counter.images += counter.batch
        with torch.no_grad(), counter:
            snn(*inputs, steps=steps, schedule=how, observe=look, memory_mib=_NO_CHUNKS)
    return counter.result()


def count_ann_operations(snn: SpikingNetwork, batches: Iterable[Any], *, progress: bool = False) -> Operations:
    """The same for the source network, whose activations are what its sites send."""
    snn = converted(snn, "count_ann_operations")
    counter = _Counter(_weight_names(snn))
    hooks = [snn.site(site.name).register_forward_hook(lambda _, __, out: counter.send(out)) for site in snn.sites]
    try:
        for inputs in checked_batches(snn, batches, "operations of the ANN", progress):
            counter.batch = inputs[0].shape[0]
            counter.images += counter.batch
            with torch.no_grad(), counter:
                snn.ann(*inputs)
    finally:
        for hook in hooks:
            hook.remove()
    return counter.result()


def _weight_names(snn: SpikingNetwork) -> dict[int, str]:
    """Names of layers by the identity of their weights."""
    return {id(weight): name.removesuffix(".weight") for name, weight in snn.network.named_parameters()}


@dataclass
class _Layer:
    """Running sums of one layer, and the rows of its first call."""

    call: int
    rows: int = 0
    constant: bool = True
    effective: float = 0.0
    dense: float = 0.0
    least: Tensor | None = None  # non-zero magnitudes per channel
    most: Tensor | None = None

    def see(self, values: Tensor) -> None:
        """Widens the range of non-zero magnitudes per channel, of ``[S, N, C, *]`` also per step."""
        sizes = values.abs().movedim(2, 1).flatten(2)
        least = sizes.masked_fill(sizes == 0, torch.inf).amin(2)
        most = sizes.amax(2)
        self.least = least if self.least is None else torch.minimum(self.least, least)
        self.most = most if self.most is None else torch.maximum(self.most, most)

    @property
    def events(self) -> bool:
        """Whether every channel held one magnitude only."""
        assert self.least is not None
        assert self.most is not None
        return bool(((self.most == 0) | (self.most <= self.least * (1 + _SAME))).all())


@dataclass
class _Counter(TorchFunctionMode):
    """Counts the layers that run while it is entered, modules and functions alike."""

    names: dict[int, str]
    digits: bool = False
    batch: int = 1
    images: int = 0
    layers: dict[str, _Layer] = field(default_factory=dict)
    zeros: int = 0
    sent: int = 0
    functions: int = 0

    def __post_init__(self) -> None:
        super().__init__()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in _ARGUMENTS:
            self._add(func, dict(zip(_ARGUMENTS[func], args, strict=False)) | kwargs)
        return func(*args, **kwargs)

    def send(self, values: Tensor, *, function: bool = False) -> None:
        """Counts what a site sends; ``function`` if it is no ReLU."""
        self.functions += values.numel() if function else 0
        self.zeros += values.numel() - int(torch.count_nonzero(values))
        self.sent += values.numel()

    def _add(self, func: Callable[..., Tensor], given: dict[str, Any]) -> None:
        values, weight = given["input"], given["weight"]
        name = self.names.get(id(weight), f"{func.__name__} of {list(weight.shape)}")
        steps = values.shape[0] // self.batch if self.digits else 1
        layer = self.layers.setdefault(name, _Layer(call=values.shape[0]))
        if self.digits and layer.rows and (steps == 1 or values.shape[0] < layer.call) and not bool(values.any()):
            return  # after each call, digits ask what the layer gives for nothing; a device knows that
        settings = {key: value for key, value in given.items() if key not in ("input", "weight", "bias")}
        layer.rows += values.shape[0]
        layer.constant &= values.shape[0] == self.batch
        ones = torch.ones_like(values[:1])
        layer.effective += _products(func, (values != 0).float(), (weight != 0).float(), settings)
        layer.dense += values.shape[0] * _products(func, ones.float(), torch.ones_like(weight).float(), settings)
        layer.see(values.unflatten(0, (steps, -1)))

    def result(self) -> Operations:
        """Everything per image."""
        if not self.layers:
            raise DataError("no linear or convolutional layer ran, so there is nothing to count")
        layers = tuple(
            LayerOperations(
                name,
                layer.events,
                layer.rows / self.images,
                layer.constant,
                layer.effective / self.images,
                layer.dense / self.images,
            )
            for name, layer in self.layers.items()
        )
        sparsity = self.zeros / self.sent if self.sent else 0.0
        return Operations(layers, sparsity, self.sent / self.images, self.images, self.functions / self.images)


def _products(func: Callable[..., Tensor], values: Tensor, weight: Tensor, settings: dict[str, Any]) -> float:
    """Number of products of ones: the layer's answer, summed; the weights of all outputs are added up before."""
    if func is F.linear:
        return float(values.flatten(0, -2).sum(0, dtype=torch.float64) @ weight.sum(0, dtype=torch.float64))
    groups = settings.get("groups", 1)
    if "output_padding" in settings or "transpose" in func.__name__:
        weight = weight.sum(1, keepdim=True)
    else:
        weight = weight.reshape(groups, -1, *weight.shape[1:]).sum(1)
    return float(func(values, weight, None, **settings).sum(dtype=torch.float64))

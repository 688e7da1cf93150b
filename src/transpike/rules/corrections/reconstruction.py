"""Block reconstruction: post-training quantisation applied to conversion."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from transpike.rules.contract import BlockCorrection, BlockView


@dataclass(frozen=True)
class BlockReconstruction(BlockCorrection):
    """Trains the weights, biases and inner thresholds of each block so that it says what the source's block says.

    Under a layer-after-layer schedule with T probe steps the spiking network is a network with quantised activations,
    so the reconstruction of the quantisation literature applies: blocks one after the other against the source
    network's output, which is compared before it is quantised (BRECQ, Li et al. 2021), thresholds inside learned as
    step sizes (LSQ, Esser et al. 2020), and inputs mixed from the quantised and the source network's while training
    (QDrop, Wei et al. 2022). Differs from these: weights stay real numbers, so there is no rounding to learn, and the
    loss is the plain squared error. A block keeps its old weights where training does not lower that error on all
    samples.

    Under other schedules than `AccumulateThenFire` with T probe steps the inputs are the means of the spikes that
    really come, and every block costs one run of the network over the data. Under `Plain` this is SNNC advanced (Li et
    al. 2021), which has no mixing and trains layer by layer with thresholds unchanged.

    With ``weight_rate=0`` weights stay as they are, and the sites' biases and thresholds are trained. With ``whole``
    the network is one block, whose target is the source's answer (BRECQ's network-wise reconstruction).

    Needs unlabelled data and short training, but no labels and no retraining of the network. Where weights change,
    `ann` of the converted network is no longer its source, and no other part comes after it. Binary, non-negative
    events.

    Attributes:
        steps: T.
        iterations: steps of Adam per block.
        batch_size: samples per step.
        weight_rate: learning rate of weights, relative to each layer's root mean square weight; 0 to leave them.
        threshold_rate: learning rate of the logarithm of the thresholds, and of biases in the size of what they add to.
        mixing: probability that an input value comes from the source network while training.
        whole: train all of the network at once.
        seed: of the order of samples and the mixing.
    """

    steps: int
    iterations: int = 400
    batch_size: int = 64
    weight_rate: float = 1e-2
    threshold_rate: float = 2e-3
    mixing: float = 0.5
    seed: int = 0
    whole: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if min(self.steps, self.iterations, self.batch_size) < 1:
            raise ValueError(f"steps, iterations and batch_size must be at least 1, got {self}")
        if not (self.weight_rate >= 0 and self.threshold_rate >= 0 and 0 <= self.mixing <= 1):
            raise ValueError(f"rates must not be negative, mixing must lie in [0, 1]; got {self}")

    @property
    def changes_weights(self) -> bool:
        """Whether weights are trained."""
        return self.weight_rate > 0

    @property
    def as_one(self) -> bool:
        """See `whole`."""
        return self.whole

    def update(self, block: BlockView) -> None:
        """Trains one block, and takes it back where that did not help."""
        before = self._loss(block)
        groups = self._groups(block)
        parameters = [parameter for group in groups for parameter in group["params"]]
        old = [parameter.detach().clone() for parameter in parameters]
        shares = {name: site.v_init.detach() / site.theta.detach() for name, site in block.sites.items()}
        if parameters:
            with _trainable(parameters):
                self._train(block, groups)
        self._set_potentials(block, shares)
        if not self._loss(block) < before:  # NaN included
            with torch.no_grad():
                for parameter, value in zip(parameters, old, strict=True):
                    parameter.copy_(value)
            self._set_potentials(block, shares)

    def _groups(self, block: BlockView) -> list[dict[str, Any]]:
        """Parameters, each with a learning rate in proportion to its size."""
        groups: list[dict[str, Any]] = []
        level = _size(block.target)
        if not self.changes_weights:
            for site in block.sites.values():
                if site.bias.dim() == 0:
                    site.set_bias(torch.zeros_like(site.theta))
                groups.append({"params": [site.bias], "lr": self.threshold_rate * _size(site.theta)})
        for layer in block.layers if self.changes_weights else ():
            groups.append({"params": [layer.weight], "lr": self.weight_rate * _size(layer.weight)})
            if layer.bias is not None:
                groups.append({"params": [layer.bias], "lr": self.threshold_rate * level})
        for site in block.sites.values():
            if site is block.end:  # it is not quantised in the loss
                continue
            groups.append({"params": [site.theta], "lr": self.threshold_rate * _size(site.theta)})
        return groups

    def _parts(self, block: BlockView) -> list[slice]:
        """All samples, in order, in parts."""
        size = self.batch_size
        return [slice(begin, begin + size) for begin in range(0, len(block.target), size)]

    def _train(self, block: BlockView, groups: list[dict[str, Any]]) -> None:
        optimizer = torch.optim.Adam(groups)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, self.iterations)
        generator = torch.Generator().manual_seed(self.seed)
        floors = {site: 0.01 * site.theta.detach() for site in block.sites.values()}
        for _ in range(self.iterations):
            rows = torch.randint(len(block.target), (self.batch_size,), generator=generator).to(block.target.device)
            inputs = [
                torch.where(torch.rand(a[rows].shape, generator=generator).to(a) < self.mixing, a[rows], b[rows])
                for a, b in zip(block.source, block.inputs, strict=True)
            ]
            loss = (block.run_open(*inputs) - block.target[rows]).square().mean()
            optimizer.zero_grad()
            torch.autograd.backward(loss)
            optimizer.step()
            schedule.step()
            with torch.no_grad():
                for site, floor in floors.items():
                    site.theta.copy_(torch.maximum(site.theta, floor).clamp_max(site.ceiling or torch.inf))

    def _loss(self, block: BlockView) -> float:
        """The squared error over all samples, on the quantised network's own inputs."""
        total = 0.0
        with torch.no_grad():
            for rows in self._parts(block):
                output = block.run_open(*(value[rows] for value in block.inputs))
                total += float((output - block.target[rows]).square().sum(dtype=torch.float64))
        return total

    def _set_potentials(self, block: BlockView, shares: dict[str, Tensor]) -> None:
        for name, site in block.sites.items():
            site.set_initial_potential(shares[name] * site.theta)


def _size(values: Tensor) -> float:
    """Root mean square."""
    return float(values.detach().square().mean().sqrt())


@contextmanager
def _trainable(parameters: list[nn.Parameter]) -> Iterator[None]:
    """Records gradients of these parameters for a while."""
    with torch.enable_grad():
        for parameter in parameters:
            parameter.requires_grad_(True)
        try:
            yield
        finally:
            for parameter in parameters:
                parameter.requires_grad_(False)
                parameter.grad = None

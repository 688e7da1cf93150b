"""Small networks, one for each way in which people write models, with the sites that conversion must find."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from transpike.testing import networks, pooling_networks
from transpike.testing.dyadic import dyadic_batch, make_dyadic


@dataclass(frozen=True)
class Topology:
    """One network of the zoo.

    Attributes:
        name: what it is an example of.
        build: makes the network with PyTorch's random initial values.
        inputs: shape of one sample for each argument.
        sites: names of the sites, in execution order.
        tailorable: whether `transpike.tailor` takes it.
    """

    name: str
    build: Callable[[], nn.Module]
    inputs: tuple[tuple[int, ...], ...]
    sites: tuple[str, ...]
    tailorable: bool = True

    def __str__(self) -> str:
        return self.name

    def model(self, seed: int = 0, dtype: torch.dtype = torch.float32) -> nn.Module:
        """The network in evaluation mode, with random weights and BatchNorm statistics that are not trivial."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            model = self.build()
            for part in model.modules():
                if isinstance(part, nn.modules.batchnorm._BatchNorm) and part.running_mean is not None:
                    nn.init.uniform_(part.running_mean, -0.2, 0.2)
                    assert part.running_var is not None
                    nn.init.uniform_(part.running_var, 0.3, 0.8)
                    nn.init.uniform_(part.weight, 0.7, 1.3)
                    nn.init.uniform_(part.bias, -0.2, 0.4)
        return model.to(dtype).eval()

    def dyadic_model(self, seed: int = 0, dtype: torch.dtype = torch.float32) -> nn.Module:
        """The network with all numbers on the grid of `transpike.testing.dyadic`."""
        return make_dyadic(self.model(seed, dtype))

    def dyadic_inputs(self, batch: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> tuple[Tensor, ...]:
        """Inputs on the grid."""
        return tuple(dyadic_batch((batch, *shape), seed + i, dtype) for i, shape in enumerate(self.inputs))

    def random_inputs(self, batch: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> tuple[Tensor, ...]:
        """Normally distributed inputs."""
        generator = torch.Generator().manual_seed(seed)
        return tuple(torch.randn((batch, *shape), generator=generator, dtype=dtype) for shape in self.inputs)


_IMAGE = ((3, 8, 8),)

TOPOLOGIES: tuple[Topology, ...] = (
    Topology("mlp", networks.mlp, ((12,),), ("1", "3")),
    Topology("conv", networks.conv, _IMAGE, ("1", "3")),
    Topology("conv_batchnorm", networks.conv_batchnorm, _IMAGE, ("2", "5")),
    Topology("shared_relu", networks.SharedReLU, _IMAGE, ("relu@0", "relu@1", "relu@2")),
    Topology("functional_relu", networks.FunctionalReLU, _IMAGE, ("relu@0", "block.relu@0", "relu@1")),
    Topology("in_place", networks.InPlace, _IMAGE, ("relu1", "relu2", "relu@0", "relu@1")),
    Topology(
        "pre_activation_cat", networks.PreActivationCat, _IMAGE, ("layers.0.relu", "layers.1.relu", "layers.2.relu")
    ),
    Topology("depthwise_relu6", networks.depthwise_relu6, _IMAGE, ("2", "5", "8")),
    Topology("hardtanh", networks.HardTanh, _IMAGE, ("act", "hardtanh@0")),
    Topology("clamp", networks.Clamp, _IMAGE, ("clamp@0", "clamp@1", "clamp_min@0")),
    Topology("pad_and_slice", networks.OptionA, _IMAGE, ("relu@0", "block.relu@0", "block.relu@1")),
    Topology("two_inputs_two_outputs", networks.TwoInputs, ((6,), (4,)), ("left.1", "right.1", "relu")),
    Topology("conv1d", networks.conv1d, ((3, 16),), ("1", "4")),
    Topology("conv3d", networks.conv3d, ((2, 4, 4, 4),), ("1", "3")),
    Topology("transposed", networks.transposed, _IMAGE, ("2", "5", "7")),
    Topology("grouped_dilated", networks.grouped_dilated, _IMAGE, ("1", "3")),
    Topology("adaptive_average_pool", pooling_networks.adaptive_average_pool, _IMAGE, ("1", "4")),
    Topology("max_pool_after_relu", pooling_networks.max_pool_after_relu, _IMAGE, ("1", "4", "7")),
    Topology("max_pool_on_spikes", pooling_networks.MaxPoolOnSpikes, _IMAGE, ("relu1", "relu2")),
    Topology("view_with_input_size", networks.ViewWithInputSize, ((64,),), ("relu@0", "relu@1", "relu@2")),
    Topology("dropout", networks.Dropouts, _IMAGE, ("relu@0", "relu@1")),
    Topology("nested_sequential", networks.nested_sequential, _IMAGE, ("0.0.1", "0.1.0.1", "1.1")),
    Topology("block_twice", networks.BlockTwice, _IMAGE, ("relu@0", "block.relu@0", "block.relu@1")),
    Topology("chunk_and_split", networks.ChunkAndSplit, _IMAGE, ("relu@0", "relu@1", "relu@2", "relu@3")),
    Topology("mean_over_space", pooling_networks.MeanOverSpace, _IMAGE, ("relu@0", "relu@1")),
    Topology("constant_parameters", networks.ConstantParameters, _IMAGE, ("relu@0", "relu@1")),
    Topology("answer_is_a_site", networks.AnswerIsASite, _IMAGE, ("relu", "relu@0")),
    Topology("softmax_readout", networks.SoftmaxReadout, ((12,),), ("relu",)),
    Topology("pool_after_cat", pooling_networks.PoolAfterCat, _IMAGE, ("relu@0", "relu@1", "relu@2", "relu@3")),
    Topology("pool_of_mixed_cat", pooling_networks.PoolOfMixedCat, _IMAGE, ("relu@0", "relu@1", "relu@2")),
    Topology("odd_pools", pooling_networks.OddPools, _IMAGE, ("relu@0", "relu@1", "relu@2"), tailorable=False),
    Topology("u_net", pooling_networks.UNet, _IMAGE, ("down.1", "bottom.1", "up.1")),
    Topology("two_heads", pooling_networks.TwoHeads, _IMAGE, ("body.1", "more.1")),
    Topology("functional_batchnorm", pooling_networks.FunctionalBatchNorm, _IMAGE, ("relu@0",), tailorable=False),
)
"""The zoo: parametrize tests over it."""

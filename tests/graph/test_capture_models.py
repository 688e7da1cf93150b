"""Capture of networks from torchvision, timm and transformers that plain tracing cannot follow, or stops short in."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from transpike.graph.capture import CaptureLayer, captured, trace
from transpike.graph.second_batch import answer_of


def assert_captured(model: nn.Module, *shape: int, layer: CaptureLayer | None = None) -> None:
    """The graph computes what the model does, for other batch sizes, too."""
    torch.manual_seed(0)
    model = model.eval()
    gm = trace(model, examples=[torch.randn(2, *shape)], layer=layer, bake=True).eval()
    assert captured(gm).layer is (layer or CaptureLayer.VALUES)
    assert set(model.state_dict()) <= set(gm.state_dict())
    for samples in (1, 3):
        x = torch.randn(samples, *shape)
        with torch.no_grad():
            wanted, found = (
                [leaf for leaf in pytree.tree_leaves(answer_of(each(x))) if isinstance(leaf, Tensor)]
                for each in (model, gm)
            )
        assert len(wanted) == len(found) > 0
        for one, other in zip(wanted, found, strict=True):
            assert float((one - other).abs().max()) <= 1e-4 * float(one.abs().max())


@pytest.mark.parametrize("version", ["swin", "swin_v2"])
def test_swin_of_torchvision(version: str) -> None:
    swin = pytest.importorskip("torchvision.models.swin_transformer")
    settings: dict[str, Any] = {"patch_size": [4, 4], "embed_dim": 8, "depths": [2, 2], "num_heads": [2, 2]}
    if version == "swin_v2":
        settings |= {"block": swin.SwinTransformerBlockV2, "downsample_layer": swin.PatchMergingV2}
    assert_captured(swin.SwinTransformer(**settings, window_size=[7, 7], num_classes=5), 3, 64, 64)


def test_vit_of_torchvision() -> None:
    vit = pytest.importorskip("torchvision.models.vision_transformer")
    assert_captured(vit.VisionTransformer(32, 8, 2, 2, 16, 32), 3, 32, 32)


@pytest.mark.parametrize("name", ["test_vit", "mobilevitv2_050", "efficientvit_m0"])
def test_networks_of_timm(name: str) -> None:
    timm = pytest.importorskip("timm")
    assert_captured(timm.create_model(name, pretrained=False), 3, 64, 64)


_SMALL = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
TRANSFORMERS = {
    "vit": ("ViTForImageClassification", "ViTConfig", {**_SMALL, "image_size": 32, "patch_size": 8}),
    "swin": (
        *("SwinForImageClassification", "SwinConfig"),
        {"image_size": 32, "embed_dim": 8, "depths": [2, 1], "num_heads": [2, 2], "window_size": 4, "patch_size": 2},
    ),
    "resnet": (
        *("ResNetForImageClassification", "ResNetConfig"),
        {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1]},
    ),
    "segformer": (
        *("SegformerForSemanticSegmentation", "SegformerConfig"),
        {
            "hidden_sizes": [8, 16, 16, 16],
            "depths": [1, 1, 1, 1],
            "num_attention_heads": [1, 2, 2, 2],
            "decoder_hidden_size": 8,
        },
    ),
}


@pytest.mark.parametrize("layer", [CaptureLayer.VALUES, CaptureLayer.EXPORT])
@pytest.mark.parametrize("name", TRANSFORMERS)
def test_networks_of_transformers(name: str, layer: CaptureLayer) -> None:
    transformers = pytest.importorskip("transformers")
    model, config, settings = TRANSFORMERS[name]
    made = getattr(transformers, model)(getattr(transformers, config)(**settings))
    assert_captured(made, 3, 32, 32, layer=layer)

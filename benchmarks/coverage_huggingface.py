"""Hugging Face vision backbones, and two of other kinds, from small configurations with random weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import transformers as T
from torch import Tensor, nn

_SMALL = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
_STAGES = {"hidden_sizes": [8, 16, 16, 32], "depths": [1, 1, 2, 1]}
_WIDER = {"embedding_size": 8, "hidden_sizes": [16, 16, 32, 32], "depths": [1, 1, 1, 1]}
_IMAGE = {"image_size": 64, "patch_size": 16}


class Embedded(nn.Module):
    """A text model that takes embeddings ``[N, L, 32]``."""

    def __init__(self) -> None:
        super().__init__()
        self.model = T.BertForSequenceClassification(T.BertConfig(**_SMALL, vocab_size=100))

    def forward(self, x: Tensor) -> Tensor:
        """The logits."""
        return self.model(inputs_embeds=x).logits


MODELS: Mapping[str, Callable[[], nn.Module]] = {
    "bert_tiny_embeds": Embedded,
    "ast": lambda: T.ASTForAudioClassification(T.ASTConfig(**_SMALL, max_length=128, num_mel_bins=128)),
    "beit": lambda: T.BeitForImageClassification(T.BeitConfig(**_SMALL, **_IMAGE, use_relative_position_bias=True)),
    "bit": lambda: T.BitForImageClassification(
        T.BitConfig(embedding_size=8, hidden_sizes=[16, 32, 32, 64], depths=[1, 1, 1, 1], num_groups=4)
    ),
    "convnext": lambda: T.ConvNextForImageClassification(T.ConvNextConfig(**_STAGES)),
    "convnextv2": lambda: T.ConvNextV2ForImageClassification(T.ConvNextV2Config(**_STAGES)),
    "cvt": lambda: T.CvtForImageClassification(
        T.CvtConfig(embed_dim=[16, 32, 32], num_heads=[1, 2, 2], depth=[1, 2, 3])
    ),
    "deit": lambda: T.DeiTForImageClassification(T.DeiTConfig(**_SMALL, **_IMAGE)),
    "dinov2": lambda: T.Dinov2ForImageClassification(
        T.Dinov2Config(hidden_size=32, num_hidden_layers=2, num_attention_heads=2, image_size=56, patch_size=14)
    ),
    "dinov3_convnext": lambda: T.DINOv3ConvNextModel(T.DINOv3ConvNextConfig(**_STAGES)),
    "efficientnet": lambda: T.EfficientNetForImageClassification(
        T.EfficientNetConfig(image_size=64, hidden_dim=1280, width_coefficient=1.0, depth_coefficient=1.0)
    ),
    "focalnet": lambda: T.FocalNetForImageClassification(
        T.FocalNetConfig(image_size=64, embed_dim=16, depths=[1, 1, 2, 1], hidden_sizes=[16, 32, 64, 128])
    ),
    "hgnet_v2": lambda: T.HGNetV2ForImageClassification(T.HGNetV2Config()),
    "levit": lambda: T.LevitForImageClassification(
        T.LevitConfig(
            image_size=224,
            hidden_sizes=[32, 64, 64],
            num_attention_heads=[2, 2, 2],
            depths=[1, 1, 1],
            key_dim=[8, 8, 8],
            down_ops=[["Subsample", 8, 4, 4, 2, 2], ["Subsample", 8, 8, 4, 2, 2]],
        )
    ),
    "mobilenet_v1": lambda: T.MobileNetV1ForImageClassification(T.MobileNetV1Config()),
    "mobilenet_v2": lambda: T.MobileNetV2ForImageClassification(T.MobileNetV2Config()),
    "mobilevit": lambda: T.MobileViTForImageClassification(
        T.MobileViTConfig(image_size=64, hidden_sizes=[32, 32, 32], neck_hidden_sizes=[8, 8, 16, 16, 32, 32, 64])
    ),
    "mobilevitv2": lambda: T.MobileViTV2ForImageClassification(T.MobileViTV2Config(image_size=64)),
    "poolformer": lambda: T.PoolFormerForImageClassification(
        T.PoolFormerConfig(hidden_sizes=[8, 16, 16, 32], depths=[1, 1, 1, 1])
    ),
    "pvt": lambda: T.PvtForImageClassification(
        T.PvtConfig(image_size=64, hidden_sizes=[8, 16, 40, 64], depths=[1, 1, 1, 1])
    ),
    "regnet": lambda: T.RegNetForImageClassification(T.RegNetConfig(**_WIDER, groups_width=8, layer_type="x")),
    "regnet_y": lambda: T.RegNetForImageClassification(T.RegNetConfig(**_WIDER, groups_width=8, layer_type="y")),
    "resnet": lambda: T.ResNetForImageClassification(T.ResNetConfig(**_WIDER)),
    "segformer": lambda: T.SegformerForImageClassification(
        T.SegformerConfig(hidden_sizes=[8, 16, 32, 32], depths=[1, 1, 1, 1], num_attention_heads=[1, 2, 2, 2])
    ),
    "segformer_semantic": lambda: T.SegformerForSemanticSegmentation(
        T.SegformerConfig(
            hidden_sizes=[8, 16, 32, 32], depths=[1, 1, 1, 1], num_attention_heads=[1, 2, 2, 2], decoder_hidden_size=16
        )
    ),
    "swiftformer": lambda: T.SwiftFormerForImageClassification(T.SwiftFormerConfig()),
    "swin": lambda: T.SwinForImageClassification(
        T.SwinConfig(image_size=64, embed_dim=16, depths=[2, 2], num_heads=[2, 2], window_size=4)
    ),
    "swinv2": lambda: T.Swinv2ForImageClassification(
        T.Swinv2Config(image_size=64, embed_dim=16, depths=[2, 2], num_heads=[2, 2], window_size=4)
    ),
    "vit": lambda: T.ViTForImageClassification(T.ViTConfig(**_SMALL, **_IMAGE)),
    "wav2vec2": lambda: T.Wav2Vec2ForSequenceClassification(
        T.Wav2Vec2Config(**_SMALL, num_conv_pos_embeddings=16, num_conv_pos_embedding_groups=2)
    ),
    "yolos": lambda: T.YolosForObjectDetection(
        T.YolosConfig(**_SMALL, image_size=[64, 64], patch_size=16, num_detection_tokens=5)
    ),
}
"""Makers by name."""

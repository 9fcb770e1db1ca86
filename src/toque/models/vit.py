"""A vision transformer with registers: extra tokens that carry what no patch has room for.

Shape letters: B batch, N tokens, C channels (features of a token), H W height and width, K classes.
Source:        Dosovitskiy 2020, arXiv:2010.11929; registers: Darcet 2023, arXiv:2309.16588
"""

from __future__ import annotations

from typing import cast

import torch
from torch import nn
from torch.nn import functional as F

from toque import checks
from toque.models.blocks import LayerScale, Residual
from toque.models.classifier import check_images


class SelfAttention(nn.Module):
    """Every token looks at every token: [B, N, C] -> [B, N, C] (Vaswani 2017, arXiv:1706.03762)."""

    def __init__(self, channels: int, num_heads: int) -> None:
        super().__init__()
        if channels % num_heads:
            raise checks.invalid(
                "SelfAttention", "channels", f"a multiple of num_heads = {num_heads}", channels,
                "Use 64 channels for each head.",
            )  # fmt: skip
        self.num_heads = num_heads
        self.qkv = nn.Linear(channels, 3 * channels)
        self.project = nn.Linear(channels, channels)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        query, key, value = (
            self.qkv(tokens).unflatten(-1, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)
        )
        mixed = F.scaled_dot_product_attention(query, key, value)
        return cast(torch.Tensor, self.project(mixed.transpose(1, 2).flatten(2)))


def transformer_block(channels: int, num_heads: int, drop: float = 0.0) -> nn.Sequential:
    """Attention, then a two-layer perceptron, each normalised before and added to what came in."""
    attention = nn.Sequential(nn.LayerNorm(channels, eps=1e-6), SelfAttention(channels, num_heads))
    perceptron = nn.Sequential(
        nn.LayerNorm(channels, eps=1e-6),
        nn.Linear(channels, 4 * channels), nn.GELU(), nn.Linear(4 * channels, channels),
    )  # fmt: skip
    return nn.Sequential(
        Residual(attention, scale=LayerScale(channels, trailing=0), drop=drop),
        Residual(perceptron, scale=LayerScale(channels, trailing=0), drop=drop),
    )


class VisionTransformer(nn.Module):
    """Patches, a class token and registers through transformer blocks; the class token answers.

    Shape:   images [B, in_channels, H, W] of one size -> logits [B, K]
    Args:    image_size: height and width in pixels, multiples of patch_size
             patch_size: side of a patch in pixels
             channels, depth, num_heads: C, blocks, heads of the attention
             num_registers: extra tokens; 4 in the paper
             drop: stochastic depth of the last block, rising linearly from 0
    Raises:  ValueError: a size that is no multiple of the patch; images of another size
    """

    def __init__(
        self,
        image_size: int | tuple[int, int],
        patch_size: int,
        channels: int,
        depth: int,
        num_heads: int,
        *,
        num_classes: int,
        in_channels: int = 3,
        num_registers: int = 4,
        drop: float = 0.0,
    ) -> None:
        super().__init__()
        height, width = (image_size, image_size) if isinstance(image_size, int) else image_size
        if height % patch_size or width % patch_size:
            good = tuple(-(-side // patch_size) * patch_size for side in (height, width))
            raise checks.invalid(
                "VisionTransformer", "image_size", f"a multiple of patch_size = {patch_size}",
                f"{height} x {width}", f"Use {good[0]} x {good[1]}.",
            )  # fmt: skip
        self.image_size, self.in_channels = (height, width), in_channels
        self.num_features, self.num_classes = channels, num_classes
        patches = (height // patch_size) * (width // patch_size)
        self.embed = nn.Conv2d(in_channels, channels, patch_size, patch_size)
        self.class_token = nn.Parameter(torch.empty(1, 1, channels))
        self.registers = nn.Parameter(torch.empty(1, num_registers, channels))
        self.positions = nn.Parameter(torch.empty(1, patches, channels))
        self.blocks = nn.Sequential(
            *(
                transformer_block(channels, num_heads, drop * number / max(depth - 1, 1))
                for number in range(depth)
            )
        )
        self.norm = nn.LayerNorm(channels, eps=1e-6)
        self.head: nn.Module = nn.Identity()
        self.reset_parameters()
        self.reset_classifier(num_classes)

    def reset_parameters(self) -> None:
        """Draws of standard deviation 0.02 for positions, 1e-6 for the tokens, as in timm."""
        nn.init.trunc_normal_(self.positions, std=0.02)
        nn.init.trunc_normal_(self.class_token, std=1e-6)
        nn.init.trunc_normal_(self.registers, std=1e-6)
        for module in self.blocks.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)

    def no_weight_decay(self) -> set[str]:
        """Positions and extra tokens are no weights of a layer."""
        return {"positions", "class_token", "registers"}

    def forward_features(self, images: torch.Tensor) -> torch.Tensor:
        """All tokens, normalised: [B, 1 + registers + patches, C]."""
        check_images("VisionTransformer", images, self.in_channels)
        if tuple(images.shape[2:]) != self.image_size:
            raise checks.invalid(
                "VisionTransformer", "images", "of size {} x {}".format(*self.image_size),
                "{} x {}".format(*images.shape[2:]),
                "Resize them, or create the model with image_size=... .",
            )  # fmt: skip
        patches = self.embed(images).flatten(2).transpose(1, 2) + self.positions
        count = images.shape[0]
        extra = [self.class_token.expand(count, -1, -1), self.registers.expand(count, -1, -1)]
        tokens = self.blocks(torch.cat([*extra, patches], 1))
        return cast(torch.Tensor, self.norm(tokens))

    def forward_head(self, features: torch.Tensor, pre_logits: bool = False) -> torch.Tensor:
        """The class token [B, C] if `pre_logits`, else logits [B, K]."""
        pooled = features[:, 0]
        return pooled if pre_logits else cast(torch.Tensor, self.head(pooled))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.forward_head(self.forward_features(images))

    def get_classifier(self) -> nn.Module:
        """The last layer."""
        return self.head

    def reset_classifier(self, num_classes: int) -> None:
        """A new last layer for other classes, on the same device; 0 takes it away."""
        self.num_classes = num_classes
        self.head = nn.Identity()
        if num_classes:
            self.head = nn.Linear(self.num_features, num_classes).to(self.positions)
            nn.init.trunc_normal_(self.head.weight, std=0.02)
            nn.init.zeros_(self.head.bias)


def vit_tiny(
    num_classes: int, in_channels: int = 3, image_size: int | tuple[int, int] = 224
) -> VisionTransformer:
    """ViT-Ti/16 with four registers: 192 channels, 12 blocks, 3 heads."""
    return VisionTransformer(
        image_size, 16, 192, 12, 3, num_classes=num_classes, in_channels=in_channels
    )


def vit_small(
    num_classes: int, in_channels: int = 3, image_size: int | tuple[int, int] = 224
) -> VisionTransformer:
    """ViT-S/16 with four registers: 384 channels, 12 blocks, 6 heads."""
    return VisionTransformer(
        image_size, 16, 384, 12, 6, num_classes=num_classes, in_channels=in_channels
    )

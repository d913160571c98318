"""A small Vision Transformer: Dosovitskiy et al., "An Image is Worth 16x16 Words", ICLR 2021."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from limbeck.errors import SettingError


class Patch(nn.Module):
    """Cuts the image into square patches and maps each linearly: (b, channels, h, w) -> (b, `tokens`, dim).

    The patch side is the smallest that divides the image into at most 64 tokens: 4 at 28x28 and 32x32, 2 at 8x8.
    """

    def __init__(self, channels: int, size: tuple[int, int], dim: int) -> None:
        super().__init__()
        height, width = size
        sides = [p for p in range(2, min(size)) if height % p == width % p == 0 and height * width <= 64 * p * p]
        if not sides:
            raise SettingError(f"no square patches cut {height}x{width} pixels into 64 tokens or fewer; pad or resize")
        side = sides[0]
        self.tokens = height * width // side**2
        self.conv = nn.Conv2d(channels, dim, kernel_size=side, stride=side)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.conv(x).flatten(2).transpose(1, 2)
        return out


def feedforward(dim: int, hidden: int) -> nn.Sequential:
    """(..., dim) -> (..., dim) through one hidden layer."""
    return nn.Sequential(nn.Linear(dim, hidden), nn.GELU(), nn.Linear(hidden, dim))


class Attention(nn.Module):
    """Multi-head self-attention: (b, tokens, dim) -> (b, tokens, dim)."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(dim, 3 * dim)
        self.out = nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)  # each (b, heads, tokens, dim)
        mixed = F.scaled_dot_product_attention(q, k, v)
        out: Tensor = self.out(mixed.transpose(1, 2).flatten(2))
        return out


class TransformerBlock(nn.Module):
    """Attention, then a feed-forward net, each on the normalised input: (b, tokens, dim) -> (b, tokens, dim)."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim)
        self.attention = Attention(dim, heads)
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = feedforward(dim, 4 * dim)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.norm1(x))
        out: Tensor = x + self.mlp(self.norm2(x))
        return out


class ViT(nn.Module):
    """(b, channels, h, w) -> (b, classes), read off the class token, which is token 0 of every block's output."""

    def __init__(self, channels: int, classes: int, size: tuple[int, int], *, dim: int, depth: int, heads: int) -> None:
        super().__init__()
        self.patch = Patch(channels, size, dim)
        self.token = nn.Parameter(torch.zeros(dim))
        self.positions = nn.Parameter(0.02 * torch.randn(1 + self.patch.tokens, dim))
        self.blocks = nn.Sequential(*(TransformerBlock(dim, heads) for _ in range(depth)))
        self.norm = nn.LayerNorm(dim)
        self.fc = nn.Linear(dim, classes)

    def forward(self, x: Tensor) -> Tensor:
        patches = self.patch(x)
        token = self.token.expand(x.shape[0], 1, -1)
        tokens = self.blocks(torch.cat([token, patches], dim=1) + self.positions)
        logits: Tensor = self.fc(self.norm(tokens)[:, 0])
        return logits


def vit(*, channels: int, classes: int, size: tuple[int, int]) -> ViT:
    """64 wide, 4 blocks of 4 heads."""
    return ViT(channels, classes, size, dim=64, depth=4, heads=4)


def vit_small(*, channels: int, classes: int, size: tuple[int, int]) -> ViT:
    """128 wide, 6 blocks of 4 heads: the larger of the two, though small beside the paper's."""
    return ViT(channels, classes, size, dim=128, depth=6, heads=4)

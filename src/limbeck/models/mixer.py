"""A small MLP-Mixer: Tolstikhin et al., "MLP-Mixer: An all-MLP Architecture for Vision", NeurIPS 2021."""

from torch import Tensor, nn

from limbeck.models.vit import Patch, feedforward


class MixerBlock(nn.Module):
    """Mixes across tokens, then across channels: (b, tokens, dim) -> (b, tokens, dim).

    The hidden widths keep the paper's ratios: half of dim for the tokens, four times dim for the channels.
    """

    def __init__(self, tokens: int, dim: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim)
        self.across_tokens = feedforward(tokens, dim // 2)
        self.norm2 = nn.LayerNorm(dim)
        self.across_channels = feedforward(dim, 4 * dim)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.across_tokens(self.norm1(x).transpose(1, 2)).transpose(1, 2)
        out: Tensor = x + self.across_channels(self.norm2(x))
        return out


class Mixer(nn.Module):
    """(b, channels, h, w) -> (b, classes), read off the mean over the tokens."""

    def __init__(self, channels: int, classes: int, size: tuple[int, int], *, dim: int, depth: int) -> None:
        super().__init__()
        self.patch = Patch(channels, size, dim)
        self.blocks = nn.Sequential(*(MixerBlock(self.patch.tokens, dim) for _ in range(depth)))
        self.norm = nn.LayerNorm(dim)
        self.fc = nn.Linear(dim, classes)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.fc(self.norm(self.blocks(self.patch(x))).mean(dim=1))
        return logits


def mixer(*, channels: int, classes: int, size: tuple[int, int]) -> Mixer:
    """64 wide, 4 blocks."""
    return Mixer(channels, classes, size, dim=64, depth=4)


def mixer_small(*, channels: int, classes: int, size: tuple[int, int]) -> Mixer:
    """128 wide, 6 blocks: the larger of the two, though small beside the paper's."""
    return Mixer(channels, classes, size, dim=128, depth=6)

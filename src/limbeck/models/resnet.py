"""CIFAR-style residual networks, in the widths that distillation papers compare on (RepDistiller's).

ResNet: He et al., "Deep Residual Learning for Image Recognition", CVPR 2016, section 4.2.
Wide ResNet: Zagoruyko & Komodakis, "Wide Residual Networks", BMVC 2016.
"""

from torch import Tensor, nn

from limbeck.errors import SettingError
from limbeck.models.cnn import conv, conv_bn_relu, three_stages


class BasicBlock(nn.Module):
    """Two convolutions and a shortcut, activated after the sum; the input of `relu` is the pre-activation.

    (b, inputs, h, w) -> (b, outputs, h / stride, w / stride). Where the shape changes, the shortcut is a 1x1
    convolution (option B).
    """

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            conv(inputs, outputs, stride=stride),
            nn.BatchNorm2d(outputs),
            nn.ReLU(),
            conv(outputs, outputs),
            nn.BatchNorm2d(outputs),
        )
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Sequential(conv(inputs, outputs, kernel=1, stride=stride), nn.BatchNorm2d(outputs))
        self.relu = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.relu(self.body(x) + self.shortcut(x))
        return out


class PreactivationBlock(nn.Module):
    """BatchNorm and ReLU before each of two convolutions: (b, inputs, h, w) -> (b, outputs, h / stride, w / stride).

    The identity shortcut takes the raw input, the 1x1 one (where the shape changes) the activated input.
    """

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.activate = nn.Sequential(nn.BatchNorm2d(inputs), nn.ReLU())
        self.body = nn.Sequential(
            conv(inputs, outputs, stride=stride),
            nn.BatchNorm2d(outputs),
            nn.ReLU(),
            conv(outputs, outputs),
        )
        self.shortcut = None
        if stride != 1 or inputs != outputs:
            self.shortcut = conv(inputs, outputs, kernel=1, stride=stride)

    def forward(self, x: Tensor) -> Tensor:
        active = self.activate(x)
        out: Tensor = self.body(active) + (x if self.shortcut is None else self.shortcut(active))
        return out


def resnet(*, channels: int, classes: int, size: tuple[int, int], depth: int, width: int = 1) -> nn.Sequential:
    """ResNet of depth 6n + 2: (b, channels, h, w) -> (b, classes).

    `width` multiplies the stages' 16/32/64 channels and half of it the stem's 16, so resnet8x4 has 32 and 64/128/256.
    """
    if depth < 8 or depth % 6 != 2:
        raise SettingError(f"a ResNet here is 6n + 2 layers deep (8, 14, 20, ...), not {depth}")
    stem = 16 * max(1, width // 2)
    return three_stages(
        conv_bn_relu(channels, stem),
        BasicBlock,
        blocks=(depth - 2) // 6,
        widths=(stem, 16 * width, 32 * width, 64 * width),
        classes=classes,
    )


def wrn(*, channels: int, classes: int, size: tuple[int, int], depth: int, width: int) -> nn.Sequential:
    """Wide ResNet of depth 6n + 4, `width` times 16/32/64 channels: (b, channels, h, w) -> (b, classes)."""
    if depth < 10 or depth % 6 != 4:
        raise SettingError(f"a Wide ResNet is 6n + 4 layers deep (10, 16, 22, ...), not {depth}")
    return three_stages(
        conv(channels, 16),
        PreactivationBlock,
        blocks=(depth - 4) // 6,
        widths=(16, 16 * width, 32 * width, 64 * width),
        classes=classes,
        norm=True,
    )

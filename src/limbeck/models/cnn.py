"""The plain networks (a small CNN and an MLP), and the three-stage frame that every convolutional network here has."""

from collections import OrderedDict
from collections.abc import Callable

from torch import nn


def conv(inputs: int, outputs: int, kernel: int = 3, stride: int = 1) -> nn.Conv2d:
    """A same-padded convolution without bias (a BatchNorm follows), initialised as in He et al. 2015, by fan-out."""
    layer = nn.Conv2d(inputs, outputs, kernel, stride, padding=kernel // 2, bias=False)
    nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
    return layer


def conv_bn_relu(inputs: int, outputs: int, stride: int = 1) -> nn.Sequential:
    """(b, inputs, h, w) -> (b, outputs, h / stride, w / stride)."""
    return nn.Sequential(conv(inputs, outputs, stride=stride), nn.BatchNorm2d(outputs), nn.ReLU())


def three_stages(
    stem: nn.Module,
    block: Callable[[int, int, int], nn.Module],
    *,
    blocks: int,
    widths: tuple[int, int, int, int],
    classes: int,
    norm: bool = False,
) -> nn.Sequential:
    """(b, channels, h, w) -> (b, classes), with children `stem`, `layer1`, `layer2`, `layer3`, `pool`, `fc`.

    `block(inputs, outputs, stride)` makes one block and a stage has `blocks` of them; `widths` are the channels of
    the stem and of the three stages, whose maps are h x w, h/2 x w/2 and h/4 x w/4. Networks whose blocks end before
    the activation ask for `norm`: a BatchNorm `norm` and a `relu` before the pooling.
    """
    parts: OrderedDict[str, nn.Module] = OrderedDict(stem=stem)
    for i, stride in enumerate((1, 2, 2)):
        first = block(widths[i], widths[i + 1], stride)
        rest = (block(widths[i + 1], widths[i + 1], 1) for _ in range(blocks - 1))
        parts[f"layer{i + 1}"] = nn.Sequential(first, *rest)
    if norm:
        parts |= {"norm": nn.BatchNorm2d(widths[-1]), "relu": nn.ReLU()}
    parts["pool"] = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
    parts["fc"] = nn.Linear(widths[-1], classes)
    return nn.Sequential(parts)


def cnn(*, channels: int, classes: int, size: tuple[int, int], width: int = 1) -> nn.Sequential:
    """A stem and three conv-bn-relu blocks, 16/32/64 channels times `width`: (b, channels, h, w) -> (b, classes)."""
    widths = (16 * width, 16 * width, 32 * width, 64 * width)
    return three_stages(conv_bn_relu(channels, widths[0]), conv_bn_relu, blocks=1, widths=widths, classes=classes)


def mlp(*, channels: int, classes: int, size: tuple[int, int]) -> nn.Sequential:
    """Two hidden layers of 128, `layer1` and `layer2`, on the flattened image: (b, channels, h, w) -> (b, classes)."""
    height, width = size
    return nn.Sequential(
        OrderedDict(
            flatten=nn.Flatten(),
            layer1=nn.Sequential(nn.Linear(channels * height * width, 128), nn.ReLU()),
            layer2=nn.Sequential(nn.Linear(128, 128), nn.ReLU()),
            fc=nn.Linear(128, classes),
        )
    )

"""Small reference networks for images, (b, channels, h, w) -> logits (b, classes), built by name.

A name is a family, then where the family takes them a depth and a width factor: `resnet8x4` is the family `resnet`,
8 layers deep and 4 times as wide. Activations to tap have plain names: `stem`, `layer1`, `layer2`, `layer3` in the
convolutional networks, `patch`, `blocks.0`, ..., `norm` in the others. The last module is always the linear `fc`,
whose input is the embedding.
"""

import inspect
import re
from collections.abc import Callable
from typing import TypeVar

from torch import nn

from limbeck.errors import UnknownName, nearest
from limbeck.models import cnn, mixer, resnet, vit
from limbeck.own import own

__all__ = ["build", "model", "names"]

Family = TypeVar("Family", bound=Callable[..., nn.Module])

_NAME = r"(?P<family>\w+?)(?P<depth>[1-9]\d*)?(x(?P<width>[1-9]\d*))?"
_families: dict[str, Callable[..., nn.Module]] = {}
_examples: dict[str, tuple[str, ...]] = {}


def model(*examples: str) -> Callable[[Family], Family]:
    """Makes the decorated function a family of `build`, under the function's own name.

    The function takes `channels`, `classes`, `size` (height, width) and, to read them from the name, `depth` and
    `width`, all by keyword. `examples` are the names to show for it; without any, it is the family's name.
    """

    def register(family: Family) -> Family:
        _families[family.__name__] = family
        _examples[family.__name__] = examples or (family.__name__,)
        return family

    return register


def names() -> list[str]:
    """Names that `build` takes, some for each family; where a name has numbers, others do too."""
    return [name for family in sorted(_examples) for name in _examples[family]]


def build(name: str, *, channels: int, classes: int, size: int | tuple[int, int] = 32) -> nn.Module:
    """The network called `name` for images of `channels` x `size`, with `classes` logits.

    `name` may also be `module:function`, for a function of one's own that takes `channels`, `classes` and `size`
    (height, width) by keyword and returns the network.
    """
    family, numbers = _find(name)
    height_width = (size, size) if isinstance(size, int) else size
    return family(channels=channels, classes=classes, size=height_width, **numbers)


def _find(name: str) -> tuple[Callable[..., nn.Module], dict[str, int]]:
    """The family's function, and the depth and width that the name gives it."""
    if ":" in name:
        return own(name), {}

    # A whole name goes first, so that a family's own name may end in digits.
    match = None if name in _families else re.fullmatch(_NAME, name)
    parts = match.groupdict() if match else {"family": name}
    family = _families.get(parts.pop("family"))
    numbers = {key: int(digits) for key, digits in parts.items() if digits is not None}
    if family is None or not _accepts(family, numbers):
        raise UnknownName(
            f"no model {name!r}; {nearest(name, names())} For a network of your own write 'module:function': the "
            f"function is called with channels, classes and size and returns the network"
        )
    return family, numbers


def _accepts(family: Callable[..., nn.Module], numbers: dict[str, int]) -> bool:
    try:
        inspect.signature(family).bind(channels=..., classes=..., size=..., **numbers)
    except TypeError:
        return False
    return True


_resnets = ("resnet8", "resnet20", "resnet32", "resnet56", "resnet110", "resnet8x4", "resnet20x4", "resnet32x4")
model(*_resnets)(resnet.resnet)
model("wrn16x2", "wrn40x1", "wrn40x2")(resnet.wrn)
model("cnn", "cnnx2")(cnn.cnn)
for _family in (cnn.mlp, mixer.mixer, mixer.mixer_small, vit.vit, vit.vit_small):
    model()(_family)

"""Small reference networks for images (b, channels, h, w) or texts, token ids (b, length) -> logits (b, classes),
built by name.

A name is a family, then where the family takes them a depth and a width factor: `resnet8x4` is the family `resnet`,
8 layers deep and 4 times as wide. Activations to tap have plain names: `stem`, `layer1`, `layer2`, `layer3` in the
convolutional networks, `patch`, `blocks.0`, ..., `norm` in the others. The last module is always the linear `fc`,
whose input is the embedding.
"""

import inspect
import re
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

from torch import nn

from limbeck.errors import UnknownName, nearest
from limbeck.models import cnn, mixer, resnet, text, vit
from limbeck.own import own

__all__ = ["build", "model", "names"]

Family = TypeVar("Family", bound=Callable[..., nn.Module])

_NAME = r"(?P<family>\w+?)(?P<depth>[1-9]\d*)?(x(?P<width>[1-9]\d*))?"
_families: dict[str, Callable[..., nn.Module]] = {}
_examples: dict[str, tuple[str, ...]] = {}


def model(*examples: str) -> Callable[[Family], Family]:
    """Makes the decorated function a family of `build`, under the function's own name.

    The function takes `channels`, `classes`, `size` (height, width), or for texts `vocabulary` and `classes`, and, to
    read them from the name, `depth` and `width`, all by keyword. `examples` are the names to show for it; without any,
    it is the family's name.
    """

    def register(family: Family) -> Family:
        _families[family.__name__] = family
        _examples[family.__name__] = examples or (family.__name__,)
        return family

    return register


def names(*, texts: bool = False) -> list[str]:
    """Names that `build` takes, some for each family, for images or for texts; where a name has numbers, others do
    too."""
    fitting = (each for each in sorted(_examples) if texts == ("vocabulary" in _parameters(_families[each])))
    return [name for family in fitting for name in _examples[family]]


def build(
    name: str,
    *,
    classes: int,
    channels: int | None = None,
    size: int | tuple[int, int] = 32,
    vocabulary: int | None = None,
) -> nn.Module:
    """The network called `name`, with `classes` logits, for images of `channels` x `size`, or for texts of so large a
    `vocabulary`.

    `name` may also be `module:function`, for a function of one's own that takes `channels`, `classes` and `size`
    (height, width), or for texts `vocabulary` and `classes`, by keyword and returns the network.
    """
    given: dict[str, Any] = {"channels": channels, "size": (size, size) if isinstance(size, int) else size}
    given = {"classes": classes, **(given if vocabulary is None else {"vocabulary": vocabulary})}
    family, numbers = _find(name, given)
    return family(**given, **numbers)


def _find(name: str, given: Iterable[str]) -> tuple[Callable[..., nn.Module], dict[str, int]]:
    """The family's function, and the depth and width that the name gives it."""
    if ":" in name:
        return own(name), {}

    # A whole name goes first, so that a family's own name may end in digits.
    match = None if name in _families else re.fullmatch(_NAME, name)
    parts = match.groupdict() if match else {"family": name}
    family = _families.get(parts.pop("family"))
    numbers = {key: int(digits) for key, digits in parts.items() if digits is not None}
    if family is None or not _accepts(family, [*given, *numbers]):
        texts = "vocabulary" in given
        near = nearest(name, names(texts=texts))
        raise UnknownName(
            f"no model {name!r} for {'texts' if texts else 'images'}; {near} For a network of your own write "
            f"'module:function': the function is called with {', '.join(sorted(given))} and returns the network"
        )
    return family, numbers


def _parameters(family: Callable[..., nn.Module]) -> Iterable[str]:
    return inspect.signature(family).parameters


def _accepts(family: Callable[..., nn.Module], given: Iterable[str]) -> bool:
    try:
        inspect.signature(family).bind(**dict.fromkeys(given))
    except TypeError:
        return False
    return True


_resnets = ("resnet8", "resnet20", "resnet32", "resnet56", "resnet110", "resnet8x4", "resnet20x4", "resnet32x4")
model(*_resnets)(resnet.resnet)
model("wrn16x2", "wrn40x1", "wrn40x2")(resnet.wrn)
model("cnn", "cnnx2")(cnn.cnn)
model("textcnn", "textcnnx4")(text.textcnn)
for _family in (cnn.mlp, mixer.mixer, mixer.mixer_small, vit.vit, vit.vit_small):
    model()(_family)

"""Data sets by name.

`load("digits")` comes with scikit-learn; `load("fashion-mnist")` is read from disk, and downloaded only where it is
found nowhere; `load("glosses")` is texts, read from disk. Nothing happens on import.
"""

import gzip
import hashlib
import os
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import numpy as np
import torch
from torch import Tensor

from limbeck.data.draws import integers, uniform
from limbeck.data.glosses import Texts, glosses
from limbeck.errors import DataError, SettingError, UnknownName, nearest
from limbeck.own import own

__all__ = ["UNLABELLED", "Images", "digits", "fashion_mnist", "few_labels", "load", "noisy_labels"]

UNLABELLED = -1
"""The label of an example whose class is not to be used."""


@dataclass(frozen=True, eq=False)
class Images:
    """One part of a data set.

    Attributes:
        x: (n, c, h, w) uint8.
        y: (n,) int64, places in `classes`, or UNLABELLED.
        classes: the names of the classes.
    """

    x: Tensor
    y: Tensor
    classes: tuple[str, ...]

    @property
    def built_with(self) -> dict[str, Any]:
        """What `models.build` wants to know."""
        channels, *size = self.x.shape[1:]
        return {"channels": channels, "classes": len(self.classes), "size": size}


def load(name: str) -> tuple[Any, Any]:
    """The data set's training and test part: Images or Texts, both of one kind.

    Args:
        name: "digits", "fashion-mnist", "glosses", or "module:function" for a function of one's own that returns such
            a pair.
    """
    if ":" in name:
        make = own(name)
    else:
        make = _NAMED.get(name.replace("_", "-"))
        if make is None:
            raise UnknownName(
                f"no data set is called {name!r} (for your own, give 'module:function', a function without arguments "
                f"that returns two Images or two Texts, training and test); {nearest(name, _NAMED)}"
            )
    train, test = make()
    return train, test


# --- digits -----------------------------------------------------------------------------------------------------------


def digits() -> tuple[Images, Images]:
    """Handwritten digits, 1,297 + 500 images of (1, 8, 8) in ten classes, from scikit-learn.

    The split is fixed, and every class has the same share of both parts to within one example. Source: Alpaydin and
    Kaynak, "Optical recognition of handwritten digits", UCI 1998 (the test part of it); levels 0..16 become 0..255.
    """
    from sklearn.datasets import load_digits  # slow to import

    data = load_digits()
    x = torch.from_numpy((data.images * (255 / 16)).round().astype(np.uint8))[:, None]
    y = torch.from_numpy(data.target.astype(np.int64))
    n, held_out = len(y), 500
    # In order of class and at random within: every (n / 500)th example then takes the classes' shares.
    by_class = (y + _shuffle(0, n, "digits").double()).argsort()
    test = torch.zeros(n, dtype=torch.bool)
    test[by_class[torch.arange(held_out) * n // held_out]] = True
    classes = tuple(str(digit) for digit in range(10))
    return Images(x[~test], y[~test], classes), Images(x[test], y[test], classes)


# --- Fashion-MNIST ----------------------------------------------------------------------------------------------------

# The published files; their MD5 sums are in the project's README, these were taken from files that have those. Debian's
# have other headers (gzip -n) and the same contents.
_SHA256 = {
    "train-images-idx3-ubyte.gz": "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84",
    "train-labels-idx1-ubyte.gz": "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845",
    "t10k-images-idx3-ubyte.gz": "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073",
    "t10k-labels-idx1-ubyte.gz": "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5",
}
_SOURCE = "https://raw.githubusercontent.com/zalandoresearch/fashion-mnist/master/data/fashion/"
_DEBIAN = Path("/usr/share/datasets")
_CLOTHES = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)


def fashion_mnist() -> tuple[Images, Images]:
    """Zalando's article images, 60,000 + 10,000 images of (1, 28, 28) in ten classes (Xiao et al., arXiv:1708.07747).

    Read from the first of these folders that holds the four files: `$LIMBECK_DATA/fashion-mnist`, that of the Debian
    package dataset-fashion-mnist, the cache `~/.cache/limbeck/fashion-mnist` (`$XDG_CACHE_HOME` for `~/.cache`). Else
    they are downloaded into the cache.
    """
    folder = _fashion_folder()
    return _idx_images(folder, "train"), _idx_images(folder, "t10k")


def _fashion_folder() -> Path:
    """The folder with the four files, after a download if need be."""
    own = os.environ.get("LIMBECK_DATA")
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "limbeck"
    folders = [root / "fashion-mnist" for root in ([Path(own)] if own else []) + [_DEBIAN, cache]]
    for folder in folders:
        if all((folder / name).is_file() for name in _SHA256):
            return folder
    try:
        _download(folders[-1])
    except (OSError, HTTPException) as error:
        raise FileNotFoundError(
            f"Fashion-MNIST is not here: looked for {', '.join(_SHA256)} in {', '.join(map(str, folders))}, and the "
            f"download failed ({error}). Either set LIMBECK_DATA to a folder whose fashion-mnist/ holds these files, "
            f"or run `apt-get install dataset-fashion-mnist`, or run this once on a machine with network and copy "
            f"{folders[-1]} over."
        ) from error
    return folders[-1]


def _download(folder: Path) -> None:
    """Fetches the files that the folder lacks; a file appears there whole and checked, or not at all."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, sha256 in _SHA256.items():
        if (folder / name).is_file():
            continue
        with urlopen(_SOURCE + name, timeout=60) as response:
            content: bytes = response.read()
        if hashlib.sha256(content).hexdigest() != sha256:
            raise OSError(f"{_SOURCE + name} has not the content expected: {len(content)} bytes, wrong SHA-256 sum")
        partial = folder / f".{name}.{os.getpid()}"
        try:
            partial.write_bytes(content)
            os.replace(partial, folder / name)
        finally:
            partial.unlink(missing_ok=True)


def _idx_images(folder: Path, part: str) -> Images:
    """One part of a data set in MNIST's format."""
    pixels, labels = folder / f"{part}-images-idx3-ubyte.gz", folder / f"{part}-labels-idx1-ubyte.gz"
    x, y = _read_idx(pixels, 3), _read_idx(labels, 1)
    if len(x) != len(y):
        raise DataError(f"{labels} has {len(y)} labels for the {len(x)} images in {pixels.name}")
    if (y >= len(_CLOTHES)).any():
        raise DataError(f"{labels} has the label {y.max()}, but there are only {len(_CLOTHES)} classes")
    return Images(x[:, None], y.long(), _CLOTHES)


def _read_idx(path: Path, dimensions: int) -> Tensor:
    """The uint8 array in a gzipped idx file.

    The format: two zero bytes, 8 for uint8, the number of dimensions; each dimension's size as a big-endian uint32;
    the values, the last dimension fastest.
    """
    try:
        content = gzip.decompress(path.read_bytes())
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise DataError(f"{path} is truncated or no gzip file: {error}") from error
    start = 4 + 4 * dimensions
    if len(content) < start or content[:4] != bytes([0, 0, 8, dimensions]):
        raise DataError(f"{path} is no idx file of {dimensions} dimensions of uint8: begins with {content[:4].hex()}")
    shape = np.frombuffer(content, dtype=">u4", count=dimensions, offset=4).astype(int).tolist()
    values = np.frombuffer(content, dtype=np.uint8, offset=start)
    if values.size != np.prod(shape):
        raise DataError(f"{path} has {values.size} values, but its header says {' x '.join(map(str, shape))}")
    return torch.from_numpy(values.reshape(shape).copy())  # the buffer itself is read-only


# --- labels -----------------------------------------------------------------------------------------------------------


def few_labels(y: Tensor, per_class: int, *, seed: int) -> Tensor:
    """Keeps the labels of `per_class` random examples of each class and makes the others UNLABELLED.

    For one seed, the examples kept for fewer labels are among those kept for more.

    Args:
        y: (n,) int64; labels that are UNLABELLED already stay so.
        per_class: how many labels each class keeps, at least 0.
        seed: which examples.
    """
    if per_class < 0:
        raise SettingError(f"per_class must be at least 0, got {per_class}")
    rank = _shuffle(seed, len(y), "few labels").to(y.device)
    kept = torch.full_like(y, UNLABELLED)
    for label in torch.unique(y[y != UNLABELLED]).tolist():
        members = (y == label).nonzero()[:, 0]
        if len(members) < per_class:
            raise DataError(f"class {label} has {len(members)} labelled examples, fewer than per_class={per_class}")
        kept[members[rank[members].argsort(stable=True)[:per_class]]] = label
    return kept


def noisy_labels(y: Tensor, rate: float, *, seed: int, classes: int) -> Tensor:
    """Symmetric label noise: with probability `rate`, a label becomes one of the other classes, each as likely.

    For one seed, the labels changed at a lower rate are changed alike at a higher one.

    Args:
        y: (n,) int64 in [0, classes); UNLABELLED stays.
        rate: the expected share of wrong labels, in [0, 1].
        seed: which labels, and to what.
        classes: how many classes there are, at least 2.
    """
    if not 0 <= rate <= 1 or classes < 2:
        raise SettingError(f"needs a rate in [0, 1] and at least 2 classes, got rate={rate} and classes={classes}")
    if (y >= classes).any():
        raise DataError(f"label {int(y.max())} is out of range for {classes} classes")
    ids = torch.arange(len(y), device=y.device)
    step = 1 + integers(seed, ids, epoch=0, stream="noisy labels: step", n=1, high=classes - 1)[:, 0]
    hit = uniform(seed, ids, epoch=0, stream="noisy labels", n=1)[:, 0] < rate
    return torch.where(hit & (y != UNLABELLED), (y + step) % classes, y)


def _shuffle(seed: int, n: int, stream: str) -> Tensor:
    """(n,) in [0, 1): a random place for each example."""
    return uniform(seed, torch.arange(n), epoch=0, stream=stream, n=1)[:, 0]


_NAMED: dict[str, Callable[[], tuple[Images, Images] | tuple[Texts, Texts]]] = {
    "digits": digits,
    "fashion-mnist": fashion_mnist,
    "glosses": glosses,
}

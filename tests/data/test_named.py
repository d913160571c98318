"""Data sets by name: found where they lie, downloaded only at need, and clear about what is missing or broken."""

import gzip
import hashlib
import io
import struct
import sys
import types
from pathlib import Path
from urllib.error import URLError

import numpy as np
import pytest
import torch

from limbeck.data import named
from limbeck.data.named import UNLABELLED, Images, digits, fashion_mnist, few_labels, load, noisy_labels

FILES = ["train-images-idx3-ubyte.gz", "train-labels-idx1-ubyte.gz"]
FILES += ["t10k-images-idx3-ubyte.gz", "t10k-labels-idx1-ubyte.gz"]


def idx(values: np.ndarray) -> bytes:
    header = bytes([0, 0, 8, values.ndim]) + struct.pack(f">{values.ndim}I", *values.shape)
    return gzip.compress(header + values.astype(np.uint8).tobytes(), mtime=0)


def contents(first: int = 0) -> dict[str, bytes]:
    """Five training and three test images of 2 x 4 pixels that count up from `first`."""
    sizes = {FILES[0]: (5, 2, 4), FILES[1]: (5,), FILES[2]: (3, 2, 4), FILES[3]: (3,)}
    return {name: idx(first + np.arange(np.prod(size)).reshape(size)) for name, size in sizes.items()}


def write(folder: Path, files: dict[str, bytes]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / name).write_bytes(content)


@pytest.fixture
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Path]:
    """Empty folders in place of the three, and no network."""
    roots = {name: tmp_path / name for name in ("own", "debian", "cache")}
    monkeypatch.setenv("LIMBECK_DATA", str(roots["own"]))
    monkeypatch.setenv("XDG_CACHE_HOME", str(roots["cache"]))
    monkeypatch.setattr(named, "_DEBIAN", roots["debian"])

    def offline(url: str, timeout: float) -> io.BytesIO:
        raise URLError("no network in tests")

    monkeypatch.setattr(named, "urlopen", offline)
    return {
        "own": roots["own"] / "fashion-mnist",
        "debian": roots["debian"] / "fashion-mnist",
        "cache": roots["cache"] / "limbeck" / "fashion-mnist",
    }


def online(monkeypatch: pytest.MonkeyPatch, files: dict[str, bytes]) -> list[str]:
    """A network that has these files, and sums to match `contents()`; the names asked for are listed."""
    asked: list[str] = []

    def fake(url: str, timeout: float) -> io.BytesIO:
        asked.append(url.rsplit("/", 1)[1])
        return io.BytesIO(files[asked[-1]])

    monkeypatch.setattr(named, "urlopen", fake)
    sums = {name: hashlib.sha256(content).hexdigest() for name, content in contents().items()}
    monkeypatch.setattr(named, "_SHA256", sums)
    return asked


# --- digits -----------------------------------------------------------------------------------------------------------


def test_digits() -> None:
    train, test = digits()
    assert train.x.shape == (1297, 1, 8, 8)
    assert test.x.shape == (500, 1, 8, 8)
    assert train.classes == test.classes == tuple("0123456789")
    for part in (train, test):
        assert part.x.dtype == torch.uint8
        assert part.y.dtype == torch.int64
        assert len(part.y) == len(part.x)
        assert (int(part.x.min()), int(part.x.max())) == (0, 255)


def test_digits_are_split_by_class_and_always_alike() -> None:
    train, test = digits()
    held_out = test.y.bincount()
    assert ((held_out - (train.y.bincount() + held_out) * 500 / 1797).abs() <= 1).all()
    again = digits()
    assert torch.equal(train.x, again[0].x)
    assert torch.equal(test.y, again[1].y)
    assert test.y[:20].tolist() == [1, 2, 7, 1, 5, 6, 9, 4, 5, 6, 8, 0, 9, 7, 5, 0, 0, 1, 6, 3]


# --- Fashion-MNIST ----------------------------------------------------------------------------------------------------


def test_fashion_mnist_reads_idx_files(places: dict[str, Path]) -> None:
    write(places["own"], contents())
    train, test = fashion_mnist()
    assert train.x.tolist() == np.arange(40).reshape(5, 1, 2, 4).tolist()
    assert train.y.tolist() == [0, 1, 2, 3, 4]
    assert test.x.shape == (3, 1, 2, 4)
    assert train.x.dtype == torch.uint8
    assert train.y.dtype == torch.int64
    assert len(train.classes) == 10
    train.x[0] = 0  # owns its memory


def test_fashion_mnist_order_of_places(places: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    for first, name in enumerate(("cache", "debian", "own")):  # each goes before those so far
        write(places[name], contents(first))
        assert fashion_mnist()[0].x.flatten()[0] == first
    (places["own"] / FILES[3]).unlink()  # a folder that lacks a file does not count
    assert fashion_mnist()[0].x.flatten()[0] == 1
    monkeypatch.delenv("LIMBECK_DATA")
    assert fashion_mnist()[0].x.flatten()[0] == 1


def test_cache_without_xdg(places: dict[str, Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    write(tmp_path / ".cache" / "limbeck" / "fashion-mnist", contents())
    assert len(fashion_mnist()[0].y) == 5


def test_download(places: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    asked = online(monkeypatch, contents())
    train, _ = fashion_mnist()
    assert train.x.flatten()[:3].tolist() == [0, 1, 2]
    assert sorted(path.name for path in places["cache"].iterdir()) == sorted(FILES)  # and nothing left over
    assert asked == FILES
    fashion_mnist()
    assert asked == FILES  # from the cache


def test_download_goes_on_where_it_stopped(places: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    good = contents()
    asked = online(monkeypatch, {**good, FILES[2]: good[FILES[2]][:-1]})
    with pytest.raises(FileNotFoundError, match=f"{FILES[2]} has not the content expected"):
        fashion_mnist()
    assert sorted(path.name for path in places["cache"].iterdir()) == sorted(FILES[:2])
    asked = online(monkeypatch, good)
    fashion_mnist()
    assert asked == FILES[2:]


def test_download_leaves_no_part_of_a_file(places: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    online(monkeypatch, contents())

    def no_space(source: Path, target: Path) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr("os.replace", no_space)
    with pytest.raises(FileNotFoundError, match="No space left"):
        fashion_mnist()
    assert list(places["cache"].iterdir()) == []


def test_not_found_says_where_and_what_to_do(places: dict[str, Path]) -> None:
    with pytest.raises(FileNotFoundError) as caught:
        fashion_mnist()
    message = str(caught.value)
    for part in [
        *map(str, places.values()),
        *FILES,
        "LIMBECK_DATA",
        "apt-get install dataset-fashion-mnist",
        "network",
    ]:
        assert part in message
    assert "no network in tests" in message


@pytest.mark.parametrize(
    ("name", "content", "complaint"),
    [
        (FILES[0], contents()[FILES[0]][:-20], "truncated or no gzip file"),
        (FILES[0], b"not gzip at all", "truncated or no gzip file"),
        (FILES[0], b"", "no idx file of 3 dimensions"),
        (FILES[0], contents()[FILES[1]], "no idx file of 3 dimensions of uint8: begins with 00000801"),
        (FILES[1], contents()[FILES[0]], "no idx file of 1 dimensions"),
        (FILES[1], gzip.compress(bytes([0, 0, 8, 1, 0, 0]), mtime=0), "no idx file of 1 dimensions"),
        (
            FILES[0],
            gzip.compress(gzip.decompress(contents()[FILES[0]])[:-1], mtime=0),
            "39 values, but its header says 5 x 2 x 4",
        ),
        (
            FILES[1],
            gzip.compress(gzip.decompress(contents()[FILES[1]]) + b"\1", mtime=0),
            "6 values, but its header says 5",
        ),
        (FILES[1], idx(np.arange(4)), "4 labels for the 5 images"),
        (FILES[1], idx(np.arange(5) + 8), "the label 12, but there are only 10 classes"),
    ],
)
def test_broken_files(places: dict[str, Path], name: str, content: bytes, complaint: str) -> None:
    write(places["own"], {**contents(), name: content})
    with pytest.raises(ValueError, match=complaint) as caught:
        fashion_mnist()
    assert str(places["own"] / name) in str(caught.value)


# --- by name ----------------------------------------------------------------------------------------------------------


def test_load(places: dict[str, Path]) -> None:
    write(places["own"], contents())
    assert len(load("digits")[0].y) == 1297
    assert len(load("fashion-mnist")[1].y) == len(load("fashion_mnist")[1].y) == 3


def test_load_of_an_unknown_name() -> None:
    with pytest.raises(LookupError, match=r"'fashon-mnist'.*module:function.*did you mean 'fashion-mnist'\?"):
        load("fashon-mnist")
    with pytest.raises(LookupError, match=r"digits.*fashion-mnist"):
        load("zzz")


def test_load_of_ones_own(monkeypatch: pytest.MonkeyPatch) -> None:
    part = Images(torch.zeros(1, 1, 2, 2, dtype=torch.uint8), torch.zeros(1, dtype=torch.long), ("only",))
    module = types.ModuleType("my_data")
    module.make = lambda: (part, part)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "my_data", module)
    assert load("my_data:make") == (part, part)
    with pytest.raises(LookupError, match="'my_data' has no 'mak'"):
        load("my_data:mak")


# --- labels -----------------------------------------------------------------------------------------------------------

Y = torch.arange(1000) % 4


def test_few_labels() -> None:
    kept = few_labels(Y, 3, seed=0)
    assert (kept != UNLABELLED).sum() == 12
    assert kept[kept != UNLABELLED].bincount().tolist() == [3, 3, 3, 3]
    assert torch.equal(kept[kept != UNLABELLED], Y[kept != UNLABELLED])
    assert torch.equal(kept, few_labels(Y, 3, seed=0))
    assert not torch.equal(kept, few_labels(Y, 3, seed=1))
    more = few_labels(Y, 10, seed=0)
    assert (more[kept != UNLABELLED] != UNLABELLED).all()
    assert torch.equal(few_labels(Y, 250, seed=0), Y)
    assert (few_labels(Y, 0, seed=0) == UNLABELLED).all()


def test_few_labels_of_few() -> None:
    again = few_labels(few_labels(Y, 10, seed=0), 4, seed=1)
    assert again[again != UNLABELLED].bincount().tolist() == [4, 4, 4, 4]
    with pytest.raises(ValueError, match="class 2 has 10 labelled examples, fewer than per_class=11"):
        few_labels(torch.tensor([0] * 12 + [2] * 10), 11, seed=0)
    with pytest.raises(ValueError, match="at least 0, got -1"):
        few_labels(Y, -1, seed=0)


def test_noisy_labels() -> None:
    y = torch.arange(40_000) % 4
    noisy = noisy_labels(y, 0.3, seed=0, classes=4)
    changed = noisy != y
    assert changed.float().mean() == pytest.approx(0.3, abs=0.01)
    counts = torch.bincount(y[changed] * 4 + noisy[changed], minlength=16).view(4, 4)
    assert counts.diagonal().tolist() == [0, 0, 0, 0]
    assert (counts[~torch.eye(4, dtype=torch.bool)] / changed.sum() - 1 / 12).abs().max() < 0.01
    assert torch.equal(noisy, noisy_labels(y, 0.3, seed=0, classes=4))
    assert not torch.equal(noisy, noisy_labels(y, 0.3, seed=1, classes=4))
    assert torch.equal(noisy_labels(y, 0.6, seed=0, classes=4)[changed], noisy[changed])


def test_noise_at_its_ends() -> None:
    assert torch.equal(noisy_labels(Y, 0.0, seed=0, classes=4), Y)
    assert (noisy_labels(Y, 1.0, seed=0, classes=4) != Y).all()
    few = few_labels(Y, 2, seed=0)
    assert torch.equal(noisy_labels(few, 1.0, seed=0, classes=4) == UNLABELLED, few == UNLABELLED)


@pytest.mark.parametrize(("rate", "classes"), [(-0.1, 4), (1.1, 4), (float("nan"), 4), (0.1, 1), (0.1, 3)])
def test_noise_that_cannot_be(rate: float, classes: int) -> None:
    with pytest.raises(ValueError, match=r"rate in \[0, 1\]|out of range for 3 classes"):
        noisy_labels(Y, rate, seed=0, classes=classes)

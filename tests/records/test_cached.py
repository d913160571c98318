"""A student learns the same from a record as from the teacher that was recorded."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import limbeck
from limbeck import Data, Normalize
from limbeck.data.views import Chain, Crop, Flip
from limbeck.errors import RecordError, SettingError, SignalError
from limbeck.records import Cached
from limbeck.step import Player
from tests.records.small import ROWS, contents, data, record, run_of, teacher

METHODS = {name: limbeck.make(name, **limbeck.find(name).example) for name in ("dkd", "sinkd", "pld", "fitnet", "taid")}
METHODS["kd"] = limbeck.kd(tau=4.0, alpha=0.9)
SIGNALS = {".logits": "fp32", "layer2": "fp32"}


def ends(taught: Any, source: Data, method: limbeck.Objective, **fields: Any) -> dict[str, Tensor]:
    run = run_of(method, taught, source, **fields)
    run.fit()
    return run.bundle.state_dict()


@pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
def test_student_is_equal_to_the_bit(method: limbeck.Objective, tmp_path: Path) -> None:
    record(tmp_path, signals=SIGNALS)
    online, stored = (ends(taught, data(), method) for taught in (teacher(), Cached(tmp_path)))
    assert all(torch.equal(online[name], stored[name]) for name in online)


@pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
def test_student_is_equal_with_augmentation_replayed(method: limbeck.Objective, tmp_path: Path) -> None:
    source = data(Chain(Flip(), Crop(2)))
    record(tmp_path, source, signals=SIGNALS)
    online, stored = (ends(taught, source, method) for taught in (teacher(), Cached(tmp_path)))
    torch.testing.assert_close(stored, online)
    first = ends(Cached(tmp_path), source, method, epochs=1 if method != METHODS["fitnet"] else 2)
    assert any(not torch.equal(first[name], online[name]) for name in first)  # else nothing was compared


def test_micro_batches_and_shards_change_nothing(tmp_path: Path) -> None:
    source = data(Crop(2))
    record(tmp_path / "one", source)
    record(tmp_path / "many", source, block=7, batch_size=5)
    whole = ends(Cached(tmp_path / "one"), source, METHODS["kd"])
    parts = ends(Cached(tmp_path / "many"), source, METHODS["kd"], micro_batch=3)
    torch.testing.assert_close(parts, whole)


def test_any_order_of_ids_and_epochs(tmp_path: Path) -> None:
    source, model = data(Crop(2)), teacher()
    record(tmp_path, source, model, block=10)
    cached = Cached(tmp_path)
    ids = torch.tensor([63, 0, 10, 9, 0, 33])
    for epoch in (2, 0, 1):
        batch = next(source.batches([ids], seed=1, epoch=epoch))
        torch.testing.assert_close(Player(batch, "teacher", cached)("x").logits, model.eval()(batch.view("x")))


def test_views_joined_for_the_student_are_looked_up_apart(tmp_path: Path) -> None:
    source = data().with_views(strong=Crop(2))
    record(tmp_path, source, views={"x": 1, "strong": 2})
    batch = next(source.batches([torch.arange(4)], seed=1, epoch=1))
    plain, strong = Player(batch, "teacher", Cached(tmp_path)).join("x", "strong")
    torch.testing.assert_close(plain.logits, teacher()(batch.view("x")))
    torch.testing.assert_close(strong.logits, teacher()(batch.view("strong")))


def test_precisions_follow_the_run(tmp_path: Path) -> None:
    record(tmp_path, signals=SIGNALS)
    for precision, dtype in (("bf16-true", torch.bfloat16), ("64-true", torch.float64)):
        run = run_of(METHODS["fitnet"], Cached(tmp_path), data(), precision=precision)
        run.fit()
        assert {each.dtype for each in run.bundle.parameters()} == {dtype}


def test_only_what_is_asked_for_is_read(tmp_path: Path) -> None:
    record(tmp_path, signals={"layer2": "fp16", ".logits": "fp32", "embedding": "bf16"})
    cached = Cached(tmp_path)
    assert list(cached(None, "x", torch.arange(3)).shapes) == [".logits"]
    cached.read([".embedding"])
    output = cached(None, "x", torch.arange(3))
    assert output.embedding.dtype == torch.float32
    torch.testing.assert_close(output.logits, teacher()(data().x[:3]))
    wanted = teacher().layer3(teacher().layer2(teacher().layer1(data().x[:3]))).mean((2, 3))  # type: ignore[operator]
    torch.testing.assert_close(output.embedding, wanted, rtol=1e-2, atol=1e-3)


def test_datasets_with_transforms_of_their_own(tmp_path: Path) -> None:
    class Shaken(torch.utils.data.Dataset[Any]):
        def __len__(self) -> int:
            return ROWS

        def __getitem__(self, i: int) -> Any:
            x, y = data().x[i], data().y[i]  # type: ignore[index]
            return x + 0.1 * torch.randn(x.shape), int(y)

    source = Data(Shaken(), classes=10)
    assert record(tmp_path, source).header["views"]["x"]["random"]
    online, stored = (ends(taught, source, METHODS["kd"]) for taught in (teacher(), Cached(tmp_path)))
    torch.testing.assert_close(stored, online)


# ---- what is refused ------------------------------------------------------------------------------------------------


def test_what_differs_is_named(tmp_path: Path) -> None:
    source = data(Crop(2))
    made = record(tmp_path, source)
    kd, cached = METHODS["kd"], Cached(tmp_path)

    def said(**changed: Any) -> str:
        before = contents(tmp_path)
        with pytest.raises(RecordError) as caught:
            run_of(kd, cached, changed.pop("source", source), **changed).setup()
        assert contents(tmp_path) == before
        return str(caught.value)

    assert "recorded was Crop(pad=2), this is Crop(pad=1)" in said(source=data(Crop(1)))
    assert "the view 'x'" in said(source=data(lambda x, draw: x + draw("a", 64).view_as(x)))
    assert "64 examples were recorded, these are 60" in said(source=data(Crop(2), rows=60))
    other = Data(1 - source.x, source.y, views=source.views, classes=10)
    assert "the data: other inputs" in said(source=other)
    assert "seed=1, this is seed=2" in said(seed=2)
    assert "holds 3 epochs of the view 'x', the run has 4" in said(epochs=4)
    assert "--views x:epochs=4" in said(epochs=4)
    y = source.y.clone()
    y[::2] = -1
    assert "ratio of unlabelled" in said(source=Data(source.x, y, views=source.views, classes=10), unlabelled=1.0)
    with pytest.raises(RecordError, match="other weights"):
        Cached(tmp_path, teacher=teacher(10))
    Cached(tmp_path, teacher=teacher())
    assert made.header["command"] in said(seed=2)


def test_labels_are_no_part_of_a_record(tmp_path: Path) -> None:
    record(tmp_path)
    source = data()
    run_of(METHODS["kd"], Cached(tmp_path), Data(source.x, source.y.flip(0), classes=10)).setup()


def test_a_teacher_is_another_with_other_inputs(tmp_path: Path) -> None:
    model = limbeck.Net(teacher(), inputs=Normalize([0.5], [2.0]))
    record(tmp_path, model=model)
    with pytest.raises(RecordError, match="other weights or layers"):
        Cached(tmp_path, teacher=limbeck.Net(teacher(), inputs=Normalize([0.5], [2.5])))


def test_what_is_not_in_it_is_said(tmp_path: Path) -> None:
    record(tmp_path, data(Crop(1)))
    cached = Cached(tmp_path)
    with pytest.raises(SignalError, match=r"no 'layer2'.*--signals .logits,layer2"):
        cached.read(["layer2"])
    batch = next(data().with_views(strong=Crop(1)).batches([torch.arange(2)], seed=1))
    with pytest.raises(SignalError, match=r"no view 'strong'.*--views x,strong"):
        Player(batch, "teacher", cached)("strong")
    with pytest.raises(SettingError, match="random"):
        cached(None, "x", torch.arange(2))
    with pytest.raises(ValueError, match="64 examples"):
        Cached(tmp_path).output("x", 0, torch.tensor([64]))


def test_a_module_is_no_record(tmp_path: Path) -> None:
    with pytest.raises(RecordError, match=r"no manifest\.json"):
        Cached(tmp_path)
    assert not isinstance(nn.Linear(1, 1), Cached)


def test_a_record_too_large_to_be_mapped_is_read_row_by_row(tmp_path: Path) -> None:
    source = data(Crop(1))
    record(tmp_path, source, signals=SIGNALS, block=10)
    mapped, read = Cached(tmp_path), Cached(tmp_path, resident=1000)
    assert mapped.shards.mapped
    assert not read.shards.mapped
    read.shards.OPEN = 2  # type: ignore[misc]
    batch = next(source.batches([torch.randperm(ROWS)], seed=1, epoch=2))
    for cached in (mapped, read):
        cached.read(["layer2"])
    for name in SIGNALS:
        assert torch.equal(mapped.lookup(batch, "x")[name], read.lookup(batch, "x")[name])
    assert len(read.shards.opened) == 2

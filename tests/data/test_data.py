"""Examples with stable ids, in seeded batches, on views that can be replayed."""

import random
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings, strategies as st
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset, WeightedRandomSampler

from limbeck.data import UNLABELLED, Batch, Data, Images, as_data, field, plan
from limbeck.errors import DataError, SettingError, SignalError

N = 10
X = torch.arange(2.0 * N).view(N, 2)
Y = torch.arange(N) % 3


def jitter(x: Tensor, draw: Callable[[str, int], Tensor]) -> Tensor:
    return x + draw("shift", 2)


def batch_of(data: Data, *ids: int, **settings: int) -> Batch:
    return next(data.batches([torch.tensor(ids)], **settings))


# ---- plan -----------------------------------------------------------------------------------------------------------


@settings(max_examples=30, deadline=None, derandomize=True)
@given(st.integers(1, 40), st.integers(1, 12), st.integers(0, 2**40), st.integers(0, 300))
def test_every_example_once(n: int, size: int, seed: int, epoch: int) -> None:
    ids = plan(Data(torch.zeros(n)), size, seed=seed, epoch=epoch)
    assert torch.equal(torch.cat(ids).sort().values, torch.arange(n))
    assert {len(batch) for batch in ids[:-1]} <= {size}
    torch.rand(1)  # the global generator does not matter
    again = plan(Data(torch.zeros(n)), size, seed=seed, epoch=epoch)
    assert all(torch.equal(*pair) for pair in zip(ids, again, strict=True))


def test_each_seed_and_each_epoch_has_its_own_order() -> None:
    data = Data(torch.zeros(50))
    orders = [torch.cat(plan(data, 8, seed=seed, epoch=epoch)) for seed, epoch in [(0, 0), (0, 1), (1, 0), (1, 1)]]
    assert len({tuple(order.tolist()) for order in orders}) == 4
    assert torch.equal(torch.cat(plan(data, 8, seed=0, epoch=0, shuffle=False)), torch.arange(50))


@settings(max_examples=30, deadline=None, derandomize=True)
@given(
    st.integers(1, 20), st.integers(1, 40), st.integers(1, 6), st.sampled_from([0.5, 1.0, 2.0, 7.0]), st.integers(0, 9)
)
def test_ratio_of_unlabelled_examples(labelled: int, others: int, size: int, ratio: float, epoch: int) -> None:
    y = torch.cat([torch.zeros(labelled), torch.full((others,), UNLABELLED)]).long()
    y = y[torch.randperm(len(y), generator=torch.Generator().manual_seed(epoch))]
    wanted = round(ratio * size)
    assume(wanted > 0)
    ids = plan(Data(torch.zeros(len(y)), y), size, seed=0, epoch=epoch, unlabelled=ratio)
    for batch in ids:
        assert (y[batch[:size]] == 0).all()
        assert (y[batch[size:]] == UNLABELLED).all()
        assert len(batch) == size + wanted
    for part in (torch.cat([batch[:size] for batch in ids]), torch.cat([batch[size:] for batch in ids])):
        counts = part.bincount()[part.unique()]
        assert counts.max() - counts.min() <= 1  # whole passes, and a part of one
    assert torch.equal(torch.cat(ids).unique(), torch.arange(len(y)))
    assert len(ids) == max(-(-labelled // size), -(-others // wanted))


@pytest.mark.parametrize("y", [torch.zeros(4).long(), torch.full((4,), UNLABELLED)])
def test_ratio_needs_both_kinds(y: Tensor) -> None:
    with pytest.raises(
        SettingError, match=r"needs both kinds of examples in a batch; the data has \d labelled and \d un"
    ):
        plan(Data(torch.zeros(4), y), 2, seed=0, epoch=0, unlabelled=1.0)
    with pytest.raises(SettingError, match="needs labels y with UNLABELLED in them"):
        plan(Data(torch.zeros(4)), 2, seed=0, epoch=0, unlabelled=1.0)


# ---- batches --------------------------------------------------------------------------------------------------------


def test_rows_follow_ids() -> None:
    odd = torch.arange(N) % 2 == 1
    data = Data({"a": X, "b": X[:, :1]}, Y, masks={"odd": odd})
    batch = batch_of(data, 7, 2, 7)
    assert torch.equal(batch.view("x")["a"], X[[7, 2, 7]])
    assert torch.equal(batch.view()["b"], X[[7, 2, 7], :1])
    assert batch.y is not None
    assert batch.y.tolist() == [1, 2, 1]
    assert batch.mask("odd").tolist() == [True, False, True]
    assert batch.index.tolist() == [7, 2, 7]
    assert len(batch) == 3


def test_bytes_become_floats_in_0_to_1_before_any_view() -> None:
    pixels = torch.tensor([[0, 51], [102, 255]], dtype=torch.uint8)
    seen: list[torch.dtype] = []

    def spy(x: Tensor, draw: Any) -> Tensor:
        seen.append(x.dtype)
        return x

    batch = batch_of(Data(pixels, views={"strong": spy}), 0, 1)
    assert torch.equal(batch.view("strong"), torch.tensor([[0.0, 0.2], [0.4, 1.0]]))
    assert seen == [torch.float32]
    assert batch.view("strong") is batch.view("strong")  # made once
    assert len(seen) == 1
    assert pixels.tolist() == [[0, 51], [102, 255]]


def test_views_are_replayed_whatever_the_batch() -> None:
    data = Data(X, views={"x": jitter, "strong": jitter})
    whole = batch_of(data, *range(N), seed=3, epoch=5)
    part = batch_of(data, 8, 1, seed=3, epoch=5)
    assert torch.equal(part.view("x"), whole.view("x")[[8, 1]])
    assert not torch.equal(whole.view("strong"), whole.view("x"))  # each view has its own numbers
    for other in (batch_of(data, 8, 1, seed=4, epoch=5), batch_of(data, 8, 1, seed=3, epoch=6)):
        assert not torch.equal(part.view("x"), other.view("x"))


def test_field_is_a_view_of_one_part() -> None:
    data = Data({"image": X, "again": 2 * X}, views={"x": field("image"), "strong": field("again")})
    assert torch.equal(batch_of(data, 4).view("strong"), 2 * X[4:5])
    assert torch.equal(batch_of(data, 4).view("x"), X[4:5])


def test_with_views_keeps_the_rest() -> None:
    data = Data(X, Y, masks={"valid": Y > 0}, classes=["a", "b", "c"], views={"strong": jitter})
    more = data.with_views(weak=jitter, strong=lambda x, draw: 0 * x)
    assert set(more.views) == {"x", "weak", "strong"}
    assert more.class_names == ("a", "b", "c")
    assert torch.equal(more.masks["valid"], Y > 0)
    assert batch_of(more, 1).view("strong").sum() == 0
    assert set(data.views) == {"x", "strong"}


# ---- masks ----------------------------------------------------------------------------------------------------------


def test_labelled_and_unlabelled_follow_from_the_labels() -> None:
    y = torch.tensor([0, UNLABELLED, 2, UNLABELLED])
    batch = batch_of(Data(X[:4], y), 3, 2)
    assert batch.mask("labelled").tolist() == [False, True]
    assert batch.mask("unlabelled").tolist() == [True, False]
    assert batch_of(Data(X), 0, 1).mask("labelled").tolist() == [False, False]
    with pytest.raises(SignalError, match=r"no mask 'label'; did you mean 'labelled'"):
        batch.mask("label")


def test_valid_leaves_out_rows_everywhere() -> None:
    keep = torch.tensor([True, False, True, True])
    tokens = torch.arange(12).view(4, 3) % 2 == 0
    data = Data({"a": X[:4]}, Y[:4], masks={"valid": keep, "tokens": tokens})
    batch = batch_of(data, 3, 1, 0).valid()
    assert batch.index.tolist() == [3, 0]
    assert torch.equal(batch.view("x")["a"], X[[3, 0]])
    assert batch.y is not None
    assert batch.y.tolist() == Y[[3, 0]].tolist()
    assert torch.equal(batch.mask("tokens"), tokens[[3, 0]])
    # Batches with and without such rows have the same masks, else micro-batches could not be counted together.
    assert batch.masks.keys() == batch_of(data, 0, 2).valid().masks.keys() == {"tokens"}
    assert len(batch_of(data, 1).valid()) == 0


def test_labels_of_rows_that_are_not_valid_are_none() -> None:
    data = Data(X[:4], torch.tensor([0, 99, 1, -5]), masks={"valid": torch.tensor([True, False, True, False])})
    assert data.num_classes == 2
    assert batch_of(data, 1, 0).mask("labelled").tolist() == [False, True]


def test_example_is_of_valid_rows() -> None:
    assert Data(X).example().index.tolist() == [0, 1]
    assert Data(X[:1]).example().index.tolist() == [0]
    assert Data(X, masks={"valid": torch.arange(N) > 6}).example().index.tolist() == [7, 8]


def test_batches_move_to_another_device_as_a_whole() -> None:
    batch = batch_of(Data(X, Y, masks={"odd": Y == 1}, views={"strong": jitter}), 4, 5, seed=2, epoch=3)
    moved = batch.to(lambda tensor: tensor.clone())
    assert torch.equal(moved.view("strong"), batch.view("strong"))
    assert torch.equal(moved.mask("odd"), batch.mask("odd"))
    assert moved.index is not batch.index


# ---- data sets of items ---------------------------------------------------------------------------------------------


class Items(Dataset[Any]):
    """Items in a given form."""

    def __init__(self, form: Callable[[int], Any]) -> None:
        self.form = form

    def __len__(self) -> int:
        return N

    def __getitem__(self, i: int) -> Any:
        return self.form(i)


@pytest.mark.parametrize(
    "form",
    [
        lambda i: (X[i], int(Y[i])),
        lambda i: [X[i], Y[i]],
        lambda i: (X[i].numpy(), np.int64(Y[i])),
    ],
    ids=["pair", "list", "numpy"],
)
def test_items_of_input_and_label(form: Callable[[int], Any]) -> None:
    data = Data(Items(form))
    batches = list(data.batches([torch.tensor([3, 1]), torch.tensor([9])]))
    assert torch.equal(batches[0].view("x"), X[[3, 1]])
    assert batches[0].y is not None
    assert torch.equal(batches[0].y, Y[[3, 1]])
    assert torch.equal(batches[1].view("x"), X[[9]])
    assert data.num_classes is None


@pytest.mark.parametrize("key", ["label", "labels", "y"])
def test_items_like_hugging_faces(key: str) -> None:
    batch = batch_of(Data(Items(lambda i: {"pixels": X[i].tolist(), key: int(Y[i]), "more": X[i] * 2})), 3, 1)
    assert batch.y is not None
    assert torch.equal(batch.y, Y[[3, 1]])
    assert set(batch.view("x")) == {"pixels", "more"}
    assert torch.equal(batch.view("x")["more"], 2 * X[[3, 1]])


def test_items_without_a_label_and_labels_beside_them() -> None:
    assert batch_of(Data(Items(lambda i: X[i])), 0, 1).y is None
    assert batch_of(Data(Items(lambda i: {"a": X[i]})), 0, 1).y is None
    batch = batch_of(Data(Items(lambda i: (X[i], 7)), Y), 5, 4)
    assert batch.y is not None
    assert torch.equal(batch.y, Y[[5, 4]])


def test_items_with_two_inputs_are_arguments() -> None:
    batch = batch_of(Data(Items(lambda i: ((X[i], 2 * X[i]), int(Y[i])))), 5, 4)
    first, second = batch.view("x")
    assert isinstance(batch.view("x"), tuple)
    assert torch.equal(second, 2 * first)
    assert torch.equal(
        batch.like(batch.inputs, batch.y, batch.index, {"valid": Y[:2] > 0}).valid().view("x")[0], X[[4]]
    )


def transformed(i: int) -> Any:
    """The way of torchvision: random transforms in __getitem__, from any of the three global generators."""
    return X[i] + torch.rand(2) + random.random() + np.random.rand(), int(Y[i])


def drawn(ids: list[list[int]], *, workers: int = 0, seed: int = 0, epoch: int = 0) -> dict[int, list[float]]:
    data = Data(Items(transformed), workers=workers)
    batches = data.batches([torch.tensor(batch) for batch in ids], seed=seed, epoch=epoch)
    return {int(i): row.tolist() for batch in batches for i, row in zip(batch.index, batch.view("x"), strict=True)}


def test_random_transforms_are_replayed() -> None:
    first = drawn([[0, 1, 2], [3, 4, 5], [6, 7]])
    torch.rand(5), random.random(), np.random.rand()
    assert drawn([[7, 2], [0, 5, 4, 3], [1], [6]]) == first  # whatever the batches
    assert drawn([[4, 5], [6, 7], [0, 1], [2, 3]], workers=2) == first  # and the workers
    assert drawn([[6, 7]]) == {i: first[i] for i in (6, 7)}  # and from the middle, as after a resume
    noise = torch.tensor([first[i] for i in range(8)]) - X[:8]
    assert len(noise[:, 0].unique()) == 8  # no two examples alike
    for other in (drawn([[0]], seed=1), drawn([[0]], epoch=1)):
        assert other[0] != first[0]


def test_items_leave_the_global_generators_alone() -> None:
    def states() -> list[Any]:
        return [torch.get_rng_state().tolist(), random.getstate(), np.random.get_state()[1].tolist()]

    before = states()
    drawn([[0, 1], [2]])
    assert states() == before


def test_own_collate() -> None:
    def longest(items: list[Any]) -> Any:
        width = max(len(item) for item in items)
        return {"padded": torch.tensor([[*item, *[0] * (width - len(item))] for item in items])}

    batch = batch_of(Data(Items(lambda i: list(range(i))), collate=longest), 3, 1)
    assert batch.view("x")["padded"].tolist() == [[0, 1, 2], [0, 0, 0]]


# ---- where data comes from ------------------------------------------------------------------------------------------


def test_sources() -> None:
    data = Data(X, Y)
    assert as_data(data) is data
    assert torch.equal(as_data((X, Y)).y, Y)
    assert as_data(X).y is None
    assert as_data(({"a": X}, Y)).num_examples == N
    images = as_data(Images(X, Y, ("a", "b", "c", "d")))
    assert (images.num_classes, images.class_names) == (4, ("a", "b", "c", "d"))
    assert as_data(TensorDataset(X, Y)).num_examples == len(as_data(TensorDataset(X, Y))) == N


def test_loader_gives_its_data_set_workers_and_collate() -> None:
    def stacked(items: list[Any]) -> Any:
        return torch.stack([x for x, _ in items]) + 100, torch.tensor([int(y) for _, y in items])

    data = as_data(DataLoader(TensorDataset(X, Y), batch_size=3, shuffle=True, num_workers=2, collate_fn=stacked))
    assert data.workers == 2
    assert torch.equal(batch_of(data, 4, 2).view("x"), X[[4, 2]] + 100)
    assert as_data(DataLoader(TensorDataset(X, Y))).collate is None


class Stream(IterableDataset[Any]):
    def __iter__(self) -> Iterator[Any]:
        yield X[0], 0


@pytest.mark.parametrize("source", [Stream(), iter([1, 2]), (x for x in X), 5])
def test_sources_without_stable_ids_are_refused(source: Any) -> None:
    with pytest.raises(
        DataError, match=r"examples need a length and stable ids; a \w+ has none: pass a map-style Dataset"
    ):
        as_data(source)


def test_loaders_with_an_order_of_their_own_are_refused() -> None:
    sampler = WeightedRandomSampler([1.0] * N, N)
    for loader in (
        DataLoader(TensorDataset(X, Y), sampler=sampler),
        DataLoader(Stream()),
        DataLoader(X, batch_size=None),
    ):
        with pytest.raises(DataError, match=r"this DataLoader .*pass the loader's dataset"):
            as_data(loader)


@pytest.mark.parametrize(
    ("make", "complaint"),
    [
        (lambda: Data(X[:0]), "the data set is empty"),
        (lambda: Data([]), "the data set is empty"),
        (lambda: Data(X, Y[:3]), r"10 examples and labels of shape \(3,\): give one label each"),
        (lambda: Data(X, Y[:, None]), r"labels of shape \(10, 1\)"),
        (lambda: Data(X, Y.float()), r"class numbers \(int64\); got torch\.float32"),
    ],
)
def test_examples_that_cannot_be(make: Callable[[], Data], complaint: str) -> None:
    with pytest.raises(DataError, match=complaint):
        make()


def test_number_of_classes() -> None:
    assert Data(X, Y).num_classes == 3
    assert Data(X, Y, classes=7).num_classes == 7
    assert Data(X, Y, classes=["a", "b", "c", "d"]).num_classes == 4
    assert Data(X, torch.full((N,), UNLABELLED)).num_classes is None
    assert Data(X).num_classes is None

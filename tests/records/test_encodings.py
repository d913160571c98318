"""What is written is read back, as near as the encoding promises."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st
from torch import Tensor

from limbeck import KL, Output, SampledMass, Weighted
from limbeck.errors import SettingError
from limbeck.losses.logit import kl
from limbeck.records import Dense, Encoding, Head, Quantised, Sampled, TopK
from limbeck.records.bits import EliasFano, pack, unpack
from limbeck.records.encodings import as_settings, from_settings, parse
from limbeck.records.inspect import of_logits
from tests.records.small import zipf


def again(encoding: Any, logits: Tensor, u: Tensor | None = None, head: Any = None) -> Tensor:
    """Through the bytes of a row."""
    fields = encoding.fields(logits.shape[1])
    dtype = np.dtype([(name, kind, count) for name, (kind, count) in fields.items()])
    rows = np.empty(len(logits), dtype)
    for name, field in encoding.encode(logits, torch.zeros(len(logits)) if u is None else u).items():
        assert field.dtype == np.dtype(fields[name][0])
        rows[name] = field
    rows = np.frombuffer(bytearray(rows.tobytes()), dtype)
    decoded: Tensor = encoding.decode({name: rows[name] for name in fields}, logits.shape[1], head)
    return decoded


def row_bytes(encoding: Encoding, width: int) -> int:
    return sum(np.dtype(kind).itemsize * count for kind, count in encoding.fields(width).values())


# ---- bits -----------------------------------------------------------------------------------------------------------


@given(st.integers(1, 24), st.integers(1, 40), st.integers(0, 2**31))
def test_bits_come_back(bits: int, count: int, seed: int) -> None:
    numbers = np.random.default_rng(seed).integers(0, 1 << bits, (3, count))
    packed = pack(numbers, bits)
    assert packed.shape == (3, math.ceil(count * bits / 8))
    assert (unpack(packed, count, bits) == numbers).all()


@given(st.integers(1, 60), st.integers(1, 3000), st.integers(0, 2**31))
def test_ascending_numbers_come_back(count: int, width: int, seed: int) -> None:
    numbers = np.sort(np.random.default_rng(seed).integers(0, width, (4, count)), axis=1)
    numbers[0], numbers[1] = 0, width - 1
    code = EliasFano(count, width)
    coded = code.encode(numbers)
    assert coded.shape == (4, code.bytes)
    assert (code.decode(coded) == numbers).all()


def test_sets_take_little_more_than_they_must() -> None:
    for count, width in ((50, 128_256), (10, 1000), (128, 32_000)):
        least = math.log2(math.comb(width, count)) / 8
        assert EliasFano(count, width).bytes <= least + count / 8 + 2


# ---- logits ---------------------------------------------------------------------------------------------------------

ROWS = zipf(40, 300)


@pytest.mark.parametrize(("dtype", "off"), [("fp64", 0), ("fp32", 1e-6), ("fp16", 1e-2), ("bf16", 1e-1)])
def test_dense(dtype: Any, off: float) -> None:
    torch.testing.assert_close(again(Dense(dtype), ROWS).double(), ROWS, rtol=0, atol=off)
    single = ROWS.float()
    assert torch.equal(again(Dense("fp32"), single), single)


def test_what_fp16_cannot_hold_is_refused() -> None:
    with pytest.raises(SettingError, match="bf16"):
        again(Dense("fp16"), torch.tensor([[1e5]]))


def test_top_k_keeps_the_probabilities_and_spreads_the_rest() -> None:
    p, read = ROWS.softmax(-1), again(TopK(20, dtype="fp32"), ROWS).double().exp()
    top = p.topk(20)
    torch.testing.assert_close(read.gather(1, top.indices), top.values, rtol=1e-5, atol=1e-7)
    rest = (1 - top.values.sum(1)) / 280
    others = read.scatter(1, top.indices, torch.nan).nan_to_num(0)
    torch.testing.assert_close(others.amax(1), rest, rtol=1e-3, atol=1e-8)
    torch.testing.assert_close(others.sum(1), 280 * rest, rtol=1e-3, atol=1e-6)


def test_without_missing_mass_the_kept_classes_are_all() -> None:
    read = again(TopK(20, missing="none"), ROWS)
    p, top = (read / 4).softmax(-1), ROWS.topk(20).indices
    torch.testing.assert_close(p.gather(1, top).sum(1), torch.ones(40))
    assert kl(read, read, tau=4.0).abs().max() == 0


def test_top_10_of_1000_with_the_seed_takes_44_bytes() -> None:
    assert row_bytes(TopK(10), 1000) + 4 == 44  # the seed is in the manifest, once
    assert row_bytes(Quantised(10), 1000) < 30


def test_quantised_is_as_near_as_its_bits() -> None:
    p = ROWS.softmax(-1)
    ids = p.topk(30).indices
    errors = []
    for bits in (2, 4, 6, 8):
        read = again(Quantised(30, bits=bits), ROWS).double()
        kept = p.gather(1, ids) ** 0.25
        step = (kept.amax(1) - kept.amin(1)) / (2**bits - 1)
        off = read.exp().gather(1, ids) ** 0.25 - kept
        assert bool((off.abs().amax(1) <= step + 1e-3).all())  # half a step, and they are scaled to leave the rest
        torch.testing.assert_close(read.exp().sum(1), torch.ones(40).double(), rtol=2e-3, atol=0)
        errors.append(of_logits(ROWS, read)["kl"])
    assert errors[0] > errors[1] > errors[2] >= errors[3] * 0.99
    best = of_logits(ROWS, again(TopK(30, dtype="fp32"), ROWS))["kl"]
    assert errors[3] == pytest.approx(best, rel=0.02)


def test_peaked_and_flat_rows() -> None:
    for logits in (torch.zeros(3, 50), 200 * torch.eye(50)[:3], -1e6 * torch.rand(3, 50)):
        for encoding in (TopK(5), Quantised(5), Quantised(50), TopK(50), Sampled(7), Sampled(7, t=0.5), Dense()):
            read = again(encoding, logits.double())
            assert bool(read.isfinite().all()), encoding
            assert bool(kl(torch.zeros(3, 50), read, tau=2.0).isfinite().all()), encoding
            if logits.amax() == 200:
                assert bool((read.argmax(-1) == torch.arange(3)).all()), encoding


def test_logits_are_rebuilt_by_the_head() -> None:
    hidden, weight, bias = torch.randn(5, 8), torch.randn(30, 8), torch.randn(30)
    width = {"weight": weight, "bias": bias}
    read = again(Head("fp32"), hidden, head=width)
    torch.testing.assert_close(read, hidden @ weight.T + bias)


# ---- sampled --------------------------------------------------------------------------------------------------------

P = zipf(1, 30, seed=3)


def gradient(student: Tensor, read: Tensor, tau: float) -> Tensor:
    """Of the loss that a student is trained with, by the objective itself."""

    class Seen:
        rows = len(read)

        def student(self, view: str) -> Output:
            return Output({".logits": student})

        def teacher(self, view: str) -> Output:
            return Output({".logits": read})

    terms = Weighted(KL(tau), by=SampledMass(tau)).loss(Seen(), [None])  # type: ignore[arg-type]
    (found,) = torch.autograd.grad(terms["kl"].value.sum(), student)  # type: ignore[union-attr]
    return found


@pytest.mark.parametrize(("t", "tau"), [(1.0, 1.0), (0.5, 1.0), (1.0, 3.0), (0.7, 2.0), (0.0, 1.0)])
def test_sampled_gradient_is_unbiased(t: float, tau: float) -> None:
    n = 20_000
    generator = torch.Generator().manual_seed(0)
    student = torch.randn(1, 30, generator=generator).double().repeat(n, 1).requires_grad_()
    u = torch.rand(n, generator=generator, dtype=torch.float64)
    read = again(Sampled(6, t=t, tau=tau), P.repeat(n, 1), u).double()
    each = gradient(student, read, tau)
    wanted = tau * ((student[0] / tau).softmax(-1) - (P[0] / tau).softmax(-1))
    error = (each.mean(0) - wanted) / (each.std(0) / math.sqrt(n) + 1e-7)
    assert bool((error.abs() < 4.5).all()), error
    assert each.std(0).max() > 0.01  # the rows do differ


def test_top_k_gradient_is_biased_where_the_sampled_one_is_not() -> None:
    student = torch.zeros(1, 30, dtype=torch.float64, requires_grad=True)
    exact = gradient(student, P, 1.0)
    top = gradient(student, again(TopK(6, missing="none"), P).double(), 1.0)
    assert (top - exact).abs().max() > 0.02


def test_samples_with_t_1_are_frequencies() -> None:
    read = again(Sampled(8), ROWS, torch.rand(40, generator=torch.Generator().manual_seed(1)))
    counts = 8 * read.softmax(-1)
    torch.testing.assert_close(counts, counts.round(), atol=1e-4, rtol=0)
    torch.testing.assert_close(counts.sum(1), torch.full((40,), 8.0))
    expected = 8 * ROWS.softmax(-1)
    assert bool(((counts >= expected.floor() - 1e-4) & (counts <= expected.ceil() + 1e-4)).all())


# ---- as text --------------------------------------------------------------------------------------------------------

EXAMPLES = {
    "fp32": Dense("fp32"),
    "bf16": Dense("bf16"),
    "topk=10": TopK(10),
    "topk=10/missing=none/dtype=bf16": TopK(10, missing="none", dtype="bf16"),
    "quantised=50/bits=4": Quantised(50, bits=4),
    "sampled=12/t=0.8/tau=2": Sampled(12, t=0.8, tau=2),
    "head": Head(),
    "head=fp16": Head("fp16"),
}


@pytest.mark.parametrize("text", EXAMPLES)
def test_text_makes_the_encoding(text: str) -> None:
    encoding = parse(text)
    assert encoding == EXAMPLES[text]
    assert from_settings(as_settings(encoding)) == encoding
    assert parse(encoding) is encoding


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("topq=10", "'topk'"),
        ("topk", "topk=10"),
        ("topk=10/mising=none", "'missing'"),
        ("topk=10/missing=some", "uniform, none"),
        ("topk=2.5", "whole number"),
        ("topk=0", "at least 1"),
        ("quantised=5/bits=40", "at most 16"),
        ("sampled=5/tau=0", "tau > 0"),
        ("fp8", "'fp32'"),
        ("head=fp8", "fp32, fp16"),
    ],
)
def test_wrong_text_is_answered(text: str, said: str) -> None:
    with pytest.raises(SettingError, match=said):
        parse(text)


@settings(max_examples=20, deadline=None, derandomize=True)
@given(st.integers(2, 400), st.integers(1, 60), st.integers(0, 1000))
def test_any_width(width: int, k: int, seed: int) -> None:
    logits = zipf(3, width, seed)
    k = min(k, width)
    for encoding in (TopK(k), Quantised(k), Sampled(k)):
        read = again(encoding, logits)
        assert read.shape == logits.shape
        if not isinstance(encoding, Sampled):
            chosen = logits.gather(-1, read.argmax(-1, keepdim=True)).squeeze(-1)
            assert (chosen >= logits.amax(-1) - 0.03).all()  # near ties may be coded alike

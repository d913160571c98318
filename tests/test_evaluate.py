import subprocess
import sys
from types import SimpleNamespace

import pytest
import safetensors.torch
import torch
from torch import Tensor, nn

from limbeck.evaluate import _device, _flops, _repeat, cost, fidelity, interval, paired, predict, scores

# Scores --------------------------------------------------------------------------------------------------------------


def test_scores_by_hand() -> None:
    p = torch.tensor([[0.75, 0.25], [0.55, 0.45], [0.15, 0.85], [0.95, 0.05]])
    y = torch.tensor([0, 1, 1, 0])
    got = scores(p.log(), y, bins=10)
    assert got["accuracy"] == 0.75
    assert got["nll"] == pytest.approx(-(p[0, 0] * p[1, 1] * p[2, 1] * p[3, 0]).log().item() / 4)
    assert got["ece"] == pytest.approx((0.25 + 0.55 + 0.15 + 0.05) / 4)  # a bin each
    assert scores(p.log(), y, bins=1)["ece"] == pytest.approx((0.75 + 0.55 + 0.85 + 0.95) / 4 - 0.75, abs=1e-6)


@pytest.mark.parametrize("scale", [0.5, 2.0, 6.0])
def test_perfect_predictor_errs_in_calibration_by_its_missing_confidence(scale: float) -> None:
    y = torch.arange(100) % 5
    logits = scale * nn.functional.one_hot(y, 5).float()
    got = scores(logits, y)
    assert got["accuracy"] == 1.0
    assert got["ece"] == pytest.approx(1 - logits.softmax(1).max().item(), abs=1e-5)


def test_calibrated_predictor() -> None:
    rng = torch.Generator().manual_seed(0)
    logits = 2 * torch.randn(20_000, 10, generator=rng)
    y = torch.multinomial(logits.softmax(1), 1, generator=rng)[:, 0]
    assert scores(logits, y)["ece"] < 0.015
    assert scores(3 * logits, y)["ece"] > 0.1


def test_probabilities_of_one_are_not_taken_for_logits() -> None:
    got = scores(torch.tensor([[1000.0, 0.0], [0.0, 1000.0]]), torch.tensor([0, 1]))
    assert got == {"accuracy": 1.0, "nll": 0.0, "ece": 0.0}


def test_unlabelled_rows_change_nothing_to_the_bit() -> None:
    rng = torch.Generator().manual_seed(1)
    logits, y = torch.randn(64, 7, generator=rng), torch.randint(7, (64,), generator=rng)
    rows = torch.randperm(100, generator=rng)[:64].sort().values
    more, more_y = torch.full((100, 7), torch.nan), torch.full((100,), -1)
    more[rows], more_y[rows] = logits, y
    assert scores(more, more_y) == scores(logits, y)


def test_low_precision_is_computed_in_high_precision() -> None:
    rng = torch.Generator().manual_seed(2)
    s, t = torch.randn(2, 500, 10, generator=rng).bfloat16()
    y = torch.randint(10, (500,), generator=rng)
    assert scores(s, y) == scores(s.float(), y)
    assert fidelity(s, t) == fidelity(s.float(), t.float())


def test_nan_is_not_well_calibrated() -> None:
    got = scores(torch.full((4, 3), torch.nan), torch.tensor([0, 1, 2, 0]))
    assert got["nll"] != got["nll"]
    assert got["ece"] != got["ece"]


@pytest.mark.parametrize(
    ("shape", "y", "words"),
    [
        ((2, 3), [-1, -1], "none of the 2 rows is labelled"),
        ((0, 3), [], "none of the 0 rows is labelled"),
        ((2, 3), [0, 3], r"0 \.\. 2"),
        ((2, 3), [0, -100], "-100"),
        ((2, 3), [0], r"\(2, 3\) and \(1,\)"),
    ],
)
def test_scores_refuses(shape: tuple[int, int], y: list[int], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        scores(torch.zeros(shape), torch.tensor(y))


# Fidelity ------------------------------------------------------------------------------------------------------------


def test_fidelity_by_hand() -> None:
    student = torch.tensor([[0.5, 0.5], [0.4, 0.6]]).log()
    teacher = torch.tensor([[0.75, 0.25], [0.4, 0.6]]).log()
    got = fidelity(student, teacher)
    first = 0.75 * torch.tensor(1.5).log() + 0.25 * torch.tensor(0.5).log()
    assert got["kl"] == pytest.approx(first.item() / 2, abs=1e-7)
    assert got["agreement"] == 1.0
    assert fidelity(student.flip(1), teacher)["agreement"] == 0.5


def test_kl_properties() -> None:
    rng = torch.Generator().manual_seed(3)
    for _ in range(50):
        s, t = 4 * torch.randn(2, 8, 6, generator=rng, dtype=torch.float64)
        kl = fidelity(s, t)["kl"]
        assert kl > 0
        assert fidelity(s + 3.0, t - 7.0)["kl"] == pytest.approx(kl, rel=1e-12)
        assert fidelity(s, s)["kl"] == 0.0
        assert 0 <= fidelity(s + 1.0, s)["kl"] < 1e-14


def test_masked_classes_count_as_nothing() -> None:
    s, t = torch.randn(2, 5, 4, generator=torch.Generator().manual_seed(4))
    mask = torch.full((5, 2), -torch.inf)
    assert fidelity(torch.cat([s, mask], 1), torch.cat([t, mask], 1)) == pytest.approx(fidelity(s, t), rel=1e-12)


def test_fidelity_names_both_shapes() -> None:
    with pytest.raises(ValueError, match=r"\(4, 3\).*\(4, 5\)"):
        fidelity(torch.zeros(4, 3), torch.zeros(4, 5))


# Predict -------------------------------------------------------------------------------------------------------------


def half_frozen() -> nn.Sequential:
    net = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.Linear(8, 3)).train()
    net[1].eval()
    return net


def flags(net: nn.Module) -> list[bool]:
    return [module.training for module in net.modules()]


def buffers(net: nn.Module) -> dict[str, Tensor]:
    return {name: buffer.clone() for name, buffer in net.named_buffers()}


def test_predict_in_eval_mode_and_restores() -> None:
    net = half_frozen()
    net[1].running_mean.normal_(generator=torch.Generator().manual_seed(5))
    flags_before, buffers_before = flags(net), buffers(net)
    x = torch.randn(10, 6)
    got = predict(net, x.split(4))
    assert flags(net) == flags_before
    torch.testing.assert_close(buffers(net), buffers_before, rtol=0, atol=0)
    torch.testing.assert_close(got, net.eval()(x))
    assert not got.is_inference()  # may enter autograd


def test_predict_takes_logits_and_any_dtype() -> None:
    got = predict(lambda x: SimpleNamespace(logits=x.bfloat16()), iter([torch.ones(2, 3), torch.ones(1, 3)]))
    assert got.shape == (3, 3)
    assert got.dtype == torch.float32


def test_predict_restores_after_an_error() -> None:
    net = half_frozen()
    before = flags(net)
    with pytest.raises(RuntimeError):
        predict(net, [torch.zeros(1, 99)])
    assert flags(net) == before


def test_predict_refuses() -> None:
    with pytest.raises(ValueError, match="no batch"):
        predict(nn.Identity(), [])
    with pytest.raises(TypeError, match="list"):
        predict(lambda x: [x], [torch.zeros(1, 2)])


# Cost ----------------------------------------------------------------------------------------------------------------


def quick(net: nn.Module, example: Tensor | dict[str, Tensor] | tuple[Tensor, ...]) -> dict[str, float]:
    return cost({"net": net}, example, repetitions=2, batch=4)["net"]


class Attention(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.scaled_dot_product_attention(x, x, x)


LENGTH, WIDTH, INNER = 5, 16, 32
ENCODER_FLOPS = 2 * (4 * LENGTH * WIDTH**2 + 2 * LENGTH**2 * WIDTH + 2 * LENGTH * WIDTH * INNER)


@pytest.mark.parametrize(
    ("net", "shape", "flops"),
    [
        (nn.Linear(10, 7), (1, 10), 2 * 10 * 7),
        (nn.Conv2d(3, 8, 3), (1, 3, 8, 8), 2 * 8 * 6 * 6 * 3 * 3 * 3),
        (nn.Conv2d(4, 8, 3, groups=2), (1, 4, 8, 8), 2 * 8 * 6 * 6 * 2 * 3 * 3),
        (Attention(), (1, 2, 5, 8), 2 * 2 * (2 * 5 * 5 * 8)),
        (nn.TransformerEncoderLayer(WIDTH, 2, INNER, batch_first=True), (1, LENGTH, WIDTH), ENCODER_FLOPS),
        (nn.LSTM(8, 16, batch_first=True), (1, 5, 8), 2 * 5 * (4 * 16 * 8 + 4 * 16 * 16)),
        (nn.GRU(8, 16, batch_first=True), (1, 5, 8), 2 * 5 * (3 * 16 * 8 + 3 * 16 * 16)),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, nn.Module) else "",
)
def test_flops_by_hand(net: nn.Module, shape: tuple[int, ...], flops: int) -> None:
    with torch.inference_mode():
        assert _flops(net.eval(), torch.randn(shape)) == flops


def test_counting_flops_restores_the_backends() -> None:
    def switches() -> tuple[bool, ...]:
        return (
            torch.backends.mha.get_fastpath_enabled(),
            torch.backends.cudnn.enabled,
            torch._C._get_mkldnn_enabled(),
            torch.backends.cuda.flash_sdp_enabled(),
        )

    before = switches()
    with pytest.raises(RuntimeError):
        _flops(nn.Linear(10, 7), torch.zeros(1, 99))
    assert switches() == before


def test_cost_of_a_linear() -> None:
    got = quick(nn.Linear(10, 7), torch.zeros(1, 10))
    assert got["parameters"] == 77
    assert got["flops"] == 140
    assert got["latency_ms"] > 0
    assert got["latency_ms_iqr"] >= 0
    assert got["throughput"] > 0


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(11, 6)
        self.head = nn.Linear(6, 11, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, tokens: Tensor, scale: float = 1.0) -> Tensor:
        return self.head(self.embed(tokens).mean(1)) * scale


@pytest.mark.parametrize(
    ("net", "example"),
    [
        (half_frozen(), torch.zeros(1, 6)),
        (Tied(), torch.zeros(1, 4, dtype=torch.long)),
        (nn.Conv2d(3, 8, 3).to(memory_format=torch.channels_last), torch.zeros(1, 3, 8, 8)),
        (nn.Linear(10, 7).bfloat16(), torch.zeros(1, 10).bfloat16()),
    ],
    ids=["BatchNorm", "tied", "channels last", "bfloat16"],
)
def test_bytes_are_those_of_the_file(net: nn.Module, example: Tensor, tmp_path) -> None:
    safetensors.torch.save_model(net, tmp_path / "net.safetensors")
    assert quick(net, example)["bytes"] == (tmp_path / "net.safetensors").stat().st_size


def test_bytes_of_slices_of_one_storage() -> None:
    """As cuDNN lays out an LSTM; `save_model` refuses them."""
    net, flat = nn.Linear(10, 7), torch.zeros(77)
    plain = quick(net, torch.zeros(1, 10))["bytes"]
    net.weight.data, net.bias.data = flat[:70].view(7, 10), flat[70:]
    assert quick(net, torch.zeros(1, 10))["bytes"] == plain


def test_shared_parameters_are_counted_once() -> None:
    assert quick(Tied(), torch.zeros(1, 4, dtype=torch.long))["parameters"] == 66


def test_cost_restores_every_flag_and_leaves_buffers() -> None:
    student, teacher = half_frozen(), half_frozen().eval()
    teacher[2].train()
    nets = {"student": student, "teacher": teacher, "both": nn.Sequential(student, nn.Identity())}
    before = [(flags(net), buffers(net)) for net in nets.values()]
    assert list(cost(nets, torch.randn(1, 6), repetitions=5, batch=3)) == list(nets)
    for net, (flags_before, buffers_before) in zip(nets.values(), before, strict=True):
        assert flags(net) == flags_before
        torch.testing.assert_close(buffers(net), buffers_before, rtol=0, atol=0)


def test_every_net_takes_every_turn_in_rotating_order() -> None:
    calls: list[tuple[str, int]] = []

    class Spy(nn.Module):
        def __init__(self, name: str) -> None:
            super().__init__()
            self.name = name

        def forward(self, x: Tensor) -> Tensor:
            assert torch.is_inference_mode_enabled()
            assert not self.training
            calls.append((self.name, len(x)))
            return x

    cost({"a": Spy("a"), "b": Spy("b")}, torch.zeros(1, 2), repetitions=4, batch=8)
    rounds = [calls[-16:][i : i + 4] for i in range(0, 16, 4)]
    assert all(sorted(turns) == [("a", 1), ("a", 8), ("b", 1), ("b", 8)] for turns in rounds)
    assert len({turns[0] for turns in rounds}) == 4


def test_examples_as_tensor_mapping_and_tuple() -> None:
    tokens = torch.zeros(1, 4, dtype=torch.long)
    flops = {quick(Tied(), x)["flops"] for x in (tokens, {"tokens": tokens, "scale": 2.0}, (tokens, torch.tensor(2.0)))}
    assert flops == {2 * 6 * 11}
    x = _repeat({"x": torch.arange(3)[None], "k": 5}, 128, _device(nn.Identity()))
    assert x["k"] == 5
    torch.testing.assert_close(x["x"], torch.arange(3).expand(128, 3))


def test_cost_refuses() -> None:
    with pytest.raises(ValueError, match=r"one example.*\(2, 10\)"):
        cost({"net": nn.Linear(10, 7)}, torch.zeros(2, 10))
    with pytest.raises(ValueError, match="at least 1"):
        cost({"net": nn.Linear(10, 7)}, torch.zeros(1, 10), repetitions=0)
    assert cost({}, torch.zeros(1, 10)) == {}


# Intervals -----------------------------------------------------------------------------------------------------------


def test_interval_by_hand() -> None:
    # n = 5, mean 3, s^2 = 10/4, t(0.975; 4) = 2.7764451: half = 2.7764451 * sqrt(2.5 / 5)
    mean, low, high = interval([1.0, 2.0, 3.0, 4.0, 5.0])
    assert mean == 3.0
    assert high - mean == pytest.approx(2.7764451 * 0.5**0.5, abs=1e-6)
    assert mean - low == pytest.approx(high - mean)
    # t(0.95; 1) = tan(0.45 pi) = 6.3137515, for 90 % and two values 0 and 2: s / sqrt(n) = 1
    assert interval([0.0, 2.0], level=0.9) == pytest.approx((1.0, 1 - 6.3137515, 1 + 6.3137515), abs=1e-6)


def test_interval_covers() -> None:
    draws = torch.randn(1000, 5, generator=torch.Generator().manual_seed(6), dtype=torch.float64).tolist()
    covered = sum(low <= 0.0 <= high for _, low, high in map(interval, draws))
    assert 930 <= covered <= 970


def test_interval_of_one_value_has_no_bounds() -> None:
    mean, low, high = interval([0.5])
    assert mean == 0.5
    assert low != low
    assert high != high


def test_interval_refuses() -> None:
    with pytest.raises(ValueError, match="at least one value"):
        interval([])
    with pytest.raises(ValueError, match=r"level=95"):
        interval([1.0, 2.0], level=95)


def test_paired() -> None:
    assert paired([2.0, 4.0, 7.0], [1.0, 2.0, 4.0]) == interval([1.0, 2.0, 3.0])
    with pytest.raises(ValueError, match="3 and 2"):
        paired([1.0, 2.0, 3.0], [1.0, 2.0])


def test_slow_imports_are_lazy() -> None:
    code = "import sys, limbeck.evaluate; sys.exit('torchmetrics' in sys.modules or 'scipy.stats' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0

"""The reference networks: known parameter counts, shapes, gradients, names."""

import sys
from types import ModuleType

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from limbeck import models
from limbeck.models import build, names

SIZES = [(1, 8), (1, 28), (3, 32)]
CONVOLUTIONAL = ("resnet", "wrn", "cnn")


def count(net: nn.Module) -> int:
    return sum(p.numel() for p in net.parameters())


def linear(inputs: int, outputs: int) -> int:
    return inputs * outputs + outputs


def images(channels: int, size: int) -> Tensor:
    return torch.randn(4, channels, size, size, generator=torch.Generator().manual_seed(0))


# RepDistiller's counts at 3 channels and 100 classes.
@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("resnet8x4", 1_233_540),
        ("resnet32x4", 7_433_860),
        ("resnet20", 278_324),
        ("resnet56", 861_620),
        ("resnet110", 1_736_564),
        ("wrn16x2", 703_284),
        ("wrn40x2", 2_255_156),
        ("wrn40x1", 569_780),
    ],
)
def test_known_parameter_counts(name: str, parameters: int) -> None:
    assert count(build(name, channels=3, classes=100)) == parameters


@pytest.mark.parametrize(("name", "k"), [("cnn", 1), ("cnnx2", 2), ("cnnx3", 3)])
def test_cnn_parameter_count(name: str, k: int) -> None:
    convolutions = 9 * (3 * 16 * k + 16 * k * 16 * k + 16 * k * 32 * k + 32 * k * 64 * k)
    batch_norms = 2 * (16 * k + 16 * k + 32 * k + 64 * k)
    assert count(build(name, channels=3, classes=10)) == convolutions + batch_norms + linear(64 * k, 10)


def test_mlp_parameter_count() -> None:
    expected = linear(2 * 8 * 6, 128) + linear(128, 128) + linear(128, 10)
    assert count(build("mlp", channels=2, classes=10, size=(8, 6))) == expected


@pytest.mark.parametrize(("name", "k"), [("textcnn", 32), ("textcnnx4", 128)])
def test_textcnn_parameter_count(name: str, k: int) -> None:
    windows = sum(linear(size * k, k) for size in (3, 4, 5))
    assert name in names(texts=True)
    assert count(build(name, vocabulary=50, classes=7)) == 50 * k + windows + linear(3 * k, 7)


@pytest.mark.parametrize(("name", "dim", "depth"), [("vit", 64, 4), ("vit_small", 128, 6)])
@pytest.mark.parametrize(("size", "patch", "tokens"), [(8, 2, 16), (28, 4, 49), (32, 4, 64)])
def test_vit_parameter_count(name: str, dim: int, depth: int, size: int, patch: int, tokens: int) -> None:
    norm = 2 * dim
    attention = linear(dim, 3 * dim) + linear(dim, dim)
    feedforward = linear(dim, 4 * dim) + linear(4 * dim, dim)
    entry = linear(3 * patch * patch, dim) + dim + (1 + tokens) * dim  # patches, class token, positions
    expected = entry + depth * (2 * norm + attention + feedforward) + norm + linear(dim, 10)
    assert count(build(name, channels=3, classes=10, size=size)) == expected


@pytest.mark.parametrize(("name", "dim", "depth"), [("mixer", 64, 4), ("mixer_small", 128, 6)])
@pytest.mark.parametrize(("size", "patch", "tokens"), [(8, 2, 16), (28, 4, 49), (32, 4, 64)])
def test_mixer_parameter_count(name: str, dim: int, depth: int, size: int, patch: int, tokens: int) -> None:
    norm = 2 * dim
    across_tokens = linear(tokens, dim // 2) + linear(dim // 2, tokens)
    across_channels = linear(dim, 4 * dim) + linear(4 * dim, dim)
    expected = linear(3 * patch * patch, dim) + depth * (2 * norm + across_tokens + across_channels)
    assert count(build(name, channels=3, classes=10, size=size)) == expected + norm + linear(dim, 10)


@pytest.mark.parametrize(("channels", "size"), SIZES)
@pytest.mark.parametrize("name", names())
def test_logits_and_embedding_shapes(name: str, channels: int, size: int) -> None:
    net = build(name, channels=channels, classes=7, size=size).eval()
    last = list(net.modules())[-1]
    assert isinstance(last, nn.Linear)
    assert last is net.get_submodule("fc")

    embeddings: list[Tensor] = []
    last.register_forward_pre_hook(lambda _, inputs: embeddings.append(inputs[0]))
    with torch.no_grad():
        logits = net(images(channels, size))
    assert logits.shape == (4, 7)
    assert [e.shape for e in embeddings] == [(4, last.in_features)]


def test_images_need_not_be_square() -> None:
    for name in ("resnet8", "wrn16x2", "cnn", "mlp", "vit", "mixer"):
        assert build(name, channels=1, classes=3, size=(8, 12))(torch.zeros(2, 1, 8, 12)).shape == (2, 3)


@pytest.mark.parametrize("name", [name for name in names() if name.startswith(CONVOLUTIONAL)])
def test_stages_halve_the_maps(name: str) -> None:
    net = build(name, channels=1, classes=7, size=8).eval()
    x = images(1, 8)
    for child, side in [("stem", 8), ("layer1", 8), ("layer2", 4), ("layer3", 2)]:
        x = net.get_submodule(child)(x)
        assert x.shape[2:] == (side, side)
    assert ("norm" in dict(net.named_children())) == name.startswith("wrn")


@pytest.mark.parametrize(("name", "extra"), [("vit", 1), ("mixer", 0)])
def test_token_networks_can_be_tapped(name: str, extra: int) -> None:
    net = build(name, channels=1, classes=7, size=28).eval()
    shapes: dict[str, torch.Size] = {}

    def tap(child: str) -> None:
        net.get_submodule(child).register_forward_hook(lambda _, __, out: shapes.update({child: out.shape}))

    for child in ("patch", "blocks.0", "blocks.3", "norm"):
        tap(child)
    net(images(1, 28))
    assert shapes.pop("patch") == (4, 49, 64)
    assert set(shapes.values()) == {(4, 49 + extra, 64)}


def test_vit_attention_is_softmax_attention() -> None:
    attention = build("vit", channels=1, classes=7, size=8).get_submodule("blocks.0.attention")
    x = torch.randn(2, 5, 64)
    q, k, v = attention.get_submodule("qkv")(x).split(64, dim=-1)
    heads = []
    for h in range(4):
        own = slice(16 * h, 16 * (h + 1))
        weights = (q[..., own] @ k[..., own].mT / 4).softmax(dim=-1)  # 4 = sqrt(16), the head's width
        heads.append(weights @ v[..., own])
    torch.testing.assert_close(attention(x), attention.get_submodule("out")(torch.cat(heads, dim=-1)))


@pytest.mark.parametrize("name", names())
def test_gradients_reach_every_parameter(name: str) -> None:
    torch.manual_seed(0)
    net = build(name, channels=3, classes=5, size=8)
    F.cross_entropy(net(images(3, 8)), torch.arange(4)).backward()
    missed = [key for key, p in net.named_parameters() if p.grad is None or not p.grad.any()]
    assert missed == []
    assert all(p.grad is not None and p.grad.isfinite().all() for p in net.parameters())


@pytest.mark.parametrize("name", names())
def test_no_activation_is_overwritten(name: str) -> None:
    net = build(name, channels=1, classes=5, size=8)
    assert not any(getattr(module, "inplace", False) for module in net.modules())

    kept: list[tuple[Tensor, Tensor]] = []
    for module in net.modules():
        module.register_forward_hook(lambda _, __, out: kept.append((out, out.clone())))
    with torch.no_grad():
        net(images(1, 8))
    assert all(torch.equal(out, copy) for out, copy in kept)


@pytest.mark.parametrize("name", names())
def test_same_seed_same_network(name: str) -> None:
    states = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        states.append(build(name, channels=1, classes=5, size=8).state_dict())
    first, again, other = states
    assert list(first) == list(again)
    assert all(torch.equal(first[key], again[key]) for key in first)
    assert any(not torch.equal(first[key], other[key]) for key in first)


def test_initialisation() -> None:
    torch.manual_seed(0)
    net = build("resnet8x4", channels=3, classes=10)
    for module in net.modules():
        if isinstance(module, nn.Conv2d) and module.weight.numel() > 10_000:
            fan_out = module.out_channels * module.kernel_size[0] * module.kernel_size[1]
            assert module.weight.std().item() == pytest.approx((2 / fan_out) ** 0.5, rel=0.03)
        if isinstance(module, nn.BatchNorm2d):
            assert (module.weight == 1).all()
            assert (module.bias == 0).all()


def test_unknown_name_says_what_to_write() -> None:
    with pytest.raises(LookupError) as error:
        build("resnet_8x4", channels=3, classes=10)
    text = str(error.value)
    assert "'resnet_8x4'" in text
    assert "resnet8x4" in text.replace("resnet_8x4", "")
    assert "module:function" in text

    with pytest.raises(LookupError, match="mixer_small") as error:
        build("???", channels=3, classes=10)
    assert all(name in str(error.value) for name in names())  # nothing is near, so all are shown


@pytest.mark.parametrize("name", ["", "resnet", "wrn40", "cnn3", "cnnx0", "vitx2", "resnet8x", "Resnet8"])
def test_half_a_name_is_unknown(name: str) -> None:
    with pytest.raises(LookupError, match="no model"):
        build(name, channels=3, classes=10)


@pytest.mark.parametrize(("name", "rule"), [("resnet9", r"6n \+ 2"), ("resnet2", r"6n \+ 2"), ("wrn20x2", r"6n \+ 4")])
def test_impossible_depth(name: str, rule: str) -> None:
    with pytest.raises(ValueError, match=rule):
        build(name, channels=3, classes=10)


def test_impossible_patches() -> None:
    with pytest.raises(ValueError, match="31x31"):
        build("vit", channels=3, classes=10, size=31)


def test_a_network_of_ones_own(monkeypatch: pytest.MonkeyPatch) -> None:
    def tiny2(*, channels: int, classes: int, size: tuple[int, int]) -> nn.Module:
        return nn.Sequential(nn.Flatten(), nn.Linear(channels * size[0] * size[1], classes))

    module = ModuleType("someones_networks")
    module.__dict__["tiny2"] = tiny2
    monkeypatch.setitem(sys.modules, "someones_networks", module)
    assert count(build("someones_networks:tiny2", channels=1, classes=3, size=(2, 4))) == linear(8, 3)

    monkeypatch.setattr(models, "_families", dict(models._families))
    monkeypatch.setattr(models, "_examples", dict(models._examples))
    assert models.model()(tiny2) is tiny2
    assert "tiny2" in names()
    assert count(build("tiny2", channels=1, classes=3, size=2)) == linear(4, 3)

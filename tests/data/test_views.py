"""Views keep what an image is, can be replayed, and treat each example by itself."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from limbeck.data import views
from limbeck.data.draws import uniform
from limbeck.data.views import Chain, Crop, Cutout, Draw, Flip, Identity, RandAugment, View, strong, weak

EXACT: list[View] = [Identity(), Flip(), Crop(2), Cutout(0.5), weak(pad=2)]
ALL: list[View] = [*EXACT, RandAugment(2), RandAugment(5), strong()]


def images(b: int, c: int = 3, h: int = 9, w: int = 7) -> Tensor:
    levels = torch.randint(0, 256, (b, c, h, w), generator=torch.Generator().manual_seed(b + c))
    return levels / 255


def drawing(index: Tensor, seed: int = 0) -> Draw:
    return lambda name, n: uniform(seed, index, epoch=0, stream=name, n=n)


def given(**values: list[list[float]]) -> Draw:
    """A draw that gives these rows."""

    def draw(name: str, n: int) -> Tensor:
        rows = torch.tensor(values[name])
        assert rows.shape[1] == n
        return rows

    return draw


@pytest.mark.parametrize("c", [1, 2, 3])
@pytest.mark.parametrize("b", [0, 1, 200])
@pytest.mark.parametrize("view", ALL, ids=repr)
def test_shape_type_and_range(view: View, b: int, c: int) -> None:
    x = images(b, c)
    before = x.clone()
    out = view(x, drawing(torch.arange(b)))
    assert out.shape == x.shape
    assert out.dtype == x.dtype
    assert out.isfinite().all()
    assert b == 0 or (out.min() >= 0 and out.max() <= 1)
    assert torch.equal(x, before)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("view", ALL, ids=repr)
def test_other_types(view: View, dtype: torch.dtype) -> None:
    out = view(images(100).to(dtype), drawing(torch.arange(100)))
    assert out.dtype == dtype
    assert out.isfinite().all()


@pytest.mark.parametrize("x", [torch.zeros(60, 3, 8, 8), torch.ones(60, 1, 8, 8), torch.rand(60, 3, 1, 1)])
def test_flat_and_tiny_images(x: Tensor) -> None:
    out = strong()(x, drawing(torch.arange(60)))
    assert out.isfinite().all()


@pytest.mark.parametrize("view", ALL, ids=repr)
def test_same_draws_same_images(view: View) -> None:
    x, index = images(64), torch.arange(64)
    assert torch.equal(view(x, drawing(index)), view(x, drawing(index)))


@pytest.mark.parametrize("c", [1, 3])
@pytest.mark.parametrize("view", ALL, ids=repr)
def test_each_example_by_itself(view: View, c: int) -> None:
    x, index = images(300, c), torch.arange(300)
    whole = view(x, drawing(index))
    alone = torch.cat([view(x[i : i + 1], drawing(index[i : i + 1])) for i in range(300)])
    if view in EXACT:
        assert torch.equal(whole, alone)
    else:  # no looser where a posterised last bit would jump
        torch.testing.assert_close(whole, alone, rtol=0, atol=1e-6)


@pytest.mark.parametrize("view", ALL[1:], ids=repr)
def test_other_ids_and_seeds_get_other_images(view: View) -> None:
    x = images(1).expand(64, -1, -1, -1)
    out = view(x, drawing(torch.arange(64)))
    assert len(torch.unique(out.flatten(1), dim=0)) > 1
    assert not torch.equal(out, view(x, drawing(torch.arange(64), seed=1)))


def test_flip_by_hand() -> None:
    x = images(2)
    out = Flip()(x, given(flip=[[0.49], [0.5]]))
    assert torch.equal(out, torch.stack([x[0].flip(-1), x[1]]))


def test_crop_by_hand() -> None:
    x = torch.arange(1.0, 10.0).view(1, 1, 3, 3).expand(4, 1, 3, 3)
    out = Crop(1)(x, given(crop=[[0.0, 0.0], [0.5, 0.5], [0.999, 0.4], [0.4, 0.999]]))[:, 0].tolist()
    assert out[0] == [[0, 0, 0], [0, 1, 2], [0, 4, 5]]
    assert out[1] == [[1, 2, 3], [4, 5, 6], [7, 8, 9]]
    assert out[2] == [[4, 5, 6], [7, 8, 9], [0, 0, 0]]
    assert out[3] == [[2, 3, 0], [5, 6, 0], [8, 9, 0]]


def test_crop_shifts_are_all_as_likely() -> None:
    x = torch.zeros(8100, 1, 9, 9)
    x[:, :, 4, 4] = 1
    share = Crop(4)(x, drawing(torch.arange(8100))).mean((0, 1))
    assert share.sum() == pytest.approx(1)  # never lost
    assert share.min() > 0.5 / 81
    assert share.max() < 1.6 / 81


def test_cutout_by_hand() -> None:
    x = torch.ones(2, 1, 4, 6)
    out = Cutout(0.5)(x, given(cutout=[[0.5, 0.5], [0.0, 0.999]]))[:, 0].tolist()
    assert out[0] == [[1, 1, 1, 1, 1, 1], [1, 1, 0.5, 0.5, 1, 1], [1, 1, 0.5, 0.5, 1, 1], [1, 1, 1, 1, 1, 1]]
    assert out[1] == [[1, 1, 1, 1, 0.5, 0.5], [1, 1, 1, 1, 1, 1], [1, 1, 1, 1, 1, 1], [1, 1, 1, 1, 1, 1]]
    assert torch.equal(Cutout(0.0)(x, drawing(torch.arange(2))), x)


@pytest.mark.parametrize("make", [lambda: Crop(-1), lambda: Cutout(1.5), lambda: RandAugment(-1)])
def test_impossible_settings(make: type) -> None:
    with pytest.raises(ValueError, match="needs"):
        make()


# --- chains -----------------------------------------------------------------------------------------------------------


def test_print_as_code_and_compare_by_value() -> None:
    assert repr(weak()) == "Chain(Flip(), Crop(pad=4))"
    assert repr(strong(flip=False)) == "Chain(Crop(pad=4), RandAugment(n=2), Cutout(size=0.5))"
    for view in [*ALL, Chain(), weak(False, 0), strong(True, 0)]:
        again = eval(repr(view), vars(views))
        assert again == view
        assert hash(again) == hash(view)
    assert weak() != weak(pad=3)


def test_chains_flatten() -> None:
    assert Chain(Chain(Flip(), Chain(Crop())), Identity()) == Chain(Flip(), Crop(), Identity())
    assert weak(flip=False, pad=0) == Chain()
    x = images(2)
    assert Chain()(x, drawing(torch.arange(2))) is x


def test_the_links_of_a_chain_draw_for_themselves() -> None:
    x = images(1).expand(64, -1, -1, -1)
    twice = Chain(Flip(), Flip())(x, drawing(torch.arange(64)))
    unchanged = (twice == x).flatten(1).all(1).float().mean()
    assert 0.2 < unchanged < 0.8  # would be all of them if both flipped alike


# --- RandAugment ------------------------------------------------------------------------------------------------------


def test_randaugment_uses_every_operation_and_strength() -> None:
    """The operation's draw picks among 14 for colour images and 13 for grey ones, each alike."""
    for c, count in ((3, 14), (1, 13)):
        x = 0.1 + 0.8 * images(1, c, 28, 28).expand(
            count, -1, -1, -1
        )  # pale and large, so that all have something to do
        choices = [[(i + 0.5) / count] for i in range(count)]
        out = RandAugment(1)(x, given(operation=choices, strength=[[0.2]] * count))
        assert len(torch.unique(out.flatten(1), dim=0)) == count
        assert torch.equal(out[0], x[0])  # the first is the identity
    extremes = [[0.0], [1 - 2**-24]]
    for i in range(14):
        out = RandAugment(1)(images(2), given(operation=[[(i + 0.5) / 14]] * 2, strength=extremes))
        assert out.isfinite().all()
        assert out.min() >= 0
        assert out.max() <= 1


def test_strengths_that_change_nothing() -> None:
    x = images(3)
    one = torch.ones(3, 1, 1, 1)
    for op in (views._brightness, views._color, views._contrast, views._sharpness, views._solarize):
        assert torch.equal(op(x, one), x), op
    assert torch.equal(views._posterize(x, 8 * one), x)
    for warp in views._WARPS:
        torch.testing.assert_close(views._warp(x, warp.apply(torch.zeros(3))), x, rtol=0, atol=1e-5)
    assert torch.equal(RandAugment(0)(x, drawing(torch.arange(3))), x)


def test_strengths_that_leave_nothing() -> None:
    x = images(3)
    zero = torch.zeros(3, 1, 1, 1)
    assert (views._brightness(x, zero) == 0).all()
    assert torch.equal(views._color(x, zero), views._grey(x).expand_as(x))
    assert views._contrast(x, zero).flatten(1).std(1).max() == 0


def test_warps_by_hand() -> None:
    x = torch.zeros(1, 1, 5, 7)
    x[0, 0, 1, 4] = 1

    def warped(place: int, m: float) -> Tensor:
        return views._warp(x, views._WARPS[place].apply(torch.tensor([m])))[0, 0]

    def where(image: Tensor) -> list[int]:
        assert image.max() == pytest.approx(1, abs=1e-5)
        return list(divmod(int(image.argmax()), 7))

    assert where(warped(3, 2 / 7)) == [1, 2]  # reads two pixels further right, so moves to the left
    assert where(warped(4, -1 / 5)) == [2, 4]
    assert where(warped(1, 1.0)) == [1, 5]  # row 1 is one above the centre row 2
    assert where(warped(2, 1.0)) == [0, 4]
    assert where(warped(0, 90.0)) == [1, 2]  # a quarter turn to the left
    turned = views._warp(x, views._WARPS[0].apply(torch.tensor([180.0])))
    torch.testing.assert_close(turned, x.flip(-1, -2), rtol=0, atol=1e-5)


@pytest.mark.parametrize("h", [9, 40])
def test_colours_agree_with_pil(h: int) -> None:
    """PIL rounds results to whole levels (and its grey), hence up to 1.5 levels between."""
    image = pytest.importorskip("PIL.Image")
    ops = pytest.importorskip("PIL.ImageOps")
    enhance = pytest.importorskip("PIL.ImageEnhance")
    smooth = images(4, 3, h, h) * torch.linspace(0.2, 0.8, h)  # so that there is something to stretch
    x = (smooth * 255).round() / 255
    cases = [
        (views._autocontrast, 0.0, ops.autocontrast),
        (views._equalize, 0.0, ops.equalize),
        (views._posterize, 5.5, lambda p: ops.posterize(p, 5)),
        (views._solarize, 100.5 / 255, lambda p: ops.solarize(p, 101)),
        (views._brightness, 0.3, lambda p: enhance.Brightness(p).enhance(0.3)),
        (views._color, 0.3, lambda p: enhance.Color(p).enhance(0.3)),
        (views._contrast, 0.3, lambda p: enhance.Contrast(p).enhance(0.3)),
        (views._sharpness, 0.3, lambda p: enhance.Sharpness(p).enhance(0.3)),
    ]
    for op, m, reference in cases:
        ours = op(x, torch.full((4, 1, 1, 1), m)) * 255
        for i in range(4):
            pil = image.fromarray((x[i] * 255).round().byte().permute(1, 2, 0).numpy())
            theirs = torch.from_numpy(np.array(reference(pil))).permute(2, 0, 1)
            inner = (ours[i] - theirs)[:, 1:-1, 1:-1]  # PIL does not sharpen the border
            assert inner.abs().max() <= 1.5, op


def test_rotation_keeps_its_angle_in_wide_images() -> None:
    x = torch.zeros(1, 1, 21, 61)
    x[..., 30] = 1  # an upright line through the centre
    out = views._warp(x, views._rotate(torch.tensor([20.0])))[0, 0]
    rows, columns = torch.meshgrid(torch.arange(21.0) - 10, torch.arange(61.0) - 30, indexing="ij")
    slope = (out * rows * columns).sum() / (out * rows**2).sum()
    assert math.degrees(math.atan(abs(slope))) == pytest.approx(20, abs=1)

import json
import math
from pathlib import Path

import pytest
import torch
from torch import Tensor

from limbeck.errors import SettingError
from tests.strategies import losses, normal


def case(name: str) -> dict:
    return json.loads((Path(__file__).parents[1] / "parity" / "cases" / f"{name}.json").read_text())


def contrast_by_loops(p: Tensor, noise: int) -> list[float]:
    """With plain probabilities (Tian et al. 2020, equations 9 and 19): h(positive) and 1 - h(negative)."""
    values = []
    for positive, *negatives in p.tolist():
        odds = len(negatives) / noise
        total = -math.log(positive / (positive + odds))
        total -= sum(math.log(odds / (negative + odds)) for negative in negatives)
        values.append(total)
    return values


@pytest.mark.parametrize("noise", [1, 50, 10**6])
def test_contrast_by_plain_probabilities(noise: int) -> None:
    log_p = 3 * normal(5, 7)
    expected = torch.tensor(contrast_by_loops(log_p.exp(), noise), dtype=torch.float64)
    torch.testing.assert_close(losses.contrast(log_p, noise=noise), expected)


def test_contrast_by_hand() -> None:
    # model and noise are equally likely for all three: log 2 each
    assert losses.contrast(torch.full((1, 3), math.log(2 / 9)), noise=9).item() == pytest.approx(3 * math.log(2))


def test_contrast_where_exponentials_overflow() -> None:
    log_p = torch.tensor([[900.0, -900.0], [-900.0, 900.0]])
    torch.testing.assert_close(losses.contrast(log_p, noise=1), torch.tensor([0.0, 1800.0]))


def gather(queries: Tensor, bank: Tensor, index: Tensor) -> Tensor:
    return torch.bmm(bank[index], queries.unsqueeze(2)).squeeze(2)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("b", "n", "k", "d"), [(5, 11, 7, 3), (1, 2, 1, 1), (3, 4, 50, 8)])
def test_sampled_scores_by_gathering(b: int, n: int, k: int, d: int, dtype: torch.dtype) -> None:
    bank, index = normal(n, d, seed=1).to(dtype), torch.randint(n, (b, k), generator=torch.Generator().manual_seed(2))
    weight = normal(b, k, seed=3).to(dtype)
    results = []
    for scores in (losses.sampled_scores, gather):
        queries = normal(b, d).to(dtype).requires_grad_()
        value = scores(queries, bank, index)
        results.append((value.detach(), *torch.autograd.grad((weight * value).sum(), queries)))
    torch.testing.assert_close(results[0], results[1])


def test_sampled_scores_of_lower_precision_use_the_banks() -> None:
    """As in mixed precision: the projection is bfloat16, the bank is not."""
    queries, bank, index = (
        normal(3, 4).bfloat16().requires_grad_(),
        normal(6, 4, seed=1).float(),
        torch.ones(3, 2).long(),
    )
    scores = losses.sampled_scores(queries, bank, index)
    scores.sum().backward()
    torch.testing.assert_close(scores, gather(queries.float(), bank, index))
    assert queries.grad is not None
    torch.testing.assert_close(queries.grad, (2 * bank[1]).bfloat16().expand(3, 4))


def test_the_bank_gets_no_gradient() -> None:
    bank = normal(6, 4).requires_grad_()
    assert not losses.sampled_scores(normal(3, 4), bank, torch.zeros(3, 2).long()).requires_grad


def test_gradient_of_sampled_scores_is_the_finite_difference() -> None:
    bank, index = normal(6, 4, seed=1), torch.tensor([[0, 5, 5], [2, 2, 2]])
    assert torch.autograd.gradcheck(lambda q: losses.sampled_scores(q, bank, index), normal(2, 4).requires_grad_())


# --- NT-Xent ------------------------------------------------------------------------------------------------------


def test_nt_xent_by_loops() -> None:
    s, t = normal(4, 3), normal(4, 3, seed=1)
    z = torch.nn.functional.normalize(torch.cat([s, t]), dim=1)
    each = []
    for i in range(8):
        scores = {j: (z[i] @ z[j] / 0.7).item() for j in range(8) if j != i}
        each.append(math.log(sum(map(math.exp, scores.values()))) - scores[(i + 4) % 8])
    want = [(each[i] + each[i + 4]) / 2 for i in range(4)]
    torch.testing.assert_close(losses.nt_xent(s, t, tau=0.7), torch.tensor(want, dtype=torch.float64))
    torch.testing.assert_close(losses.nt_xent(9 * s, t, tau=0.7), losses.nt_xent(s, t, tau=0.7))


def test_nt_xent_of_the_case_and_of_one_example() -> None:
    known = case("vidlankd")
    s, t = (torch.tensor(known["inputs"][f"z_{side}"], dtype=torch.float64) for side in ("student", "teacher"))
    rows = losses.nt_xent(s.requires_grad_(), t, tau=known["params"]["contrastive_temperature"])
    value = rows.mean() / (2 * len(rows))  # the authors divide again
    assert value.item() == pytest.approx(known["contrastive"]["output"])
    want = torch.tensor(known["contrastive"]["grad_student"], dtype=torch.float64)
    torch.testing.assert_close(torch.autograd.grad(value, s)[0], want, rtol=1e-6, atol=1e-12)
    assert losses.nt_xent(s[:1], t[:1]).item() == 0  # nobody to tell it from
    with pytest.raises(SettingError, match=r"tau=0\.0"):
        losses.nt_xent(s, t, tau=0.0)

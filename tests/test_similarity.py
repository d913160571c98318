import torch

from limbeck.losses.correlation import pearson
from limbeck.similarity import correlations, parc, similarity_weights
from tests.strategies import normal


def test_parc_ranks_sources() -> None:
    y = torch.arange(3).repeat_interleave(10)
    fits = 5 * torch.eye(3, dtype=torch.float64)[y] + normal(30, 3)
    fits_badly = torch.eye(3, dtype=torch.float64)[y] + normal(30, 3)
    scores = [parc(f, y) for f in (fits, fits_badly, normal(30, 3, seed=1))]
    assert scores[0] > scores[1] > scores[2]
    assert abs(scores[2]) < 0.2
    assert all(-1 <= score <= 1 for score in scores)


def test_parc_ignores_units() -> None:
    y, features = torch.arange(2).repeat(8), normal(16, 4)
    assert parc(features, y) == parc(features * torch.tensor([1.0, 10.0, 0.1, 3.0]) + 7, y)


def test_parc_of_many_features() -> None:
    y = torch.arange(3).repeat_interleave(10)
    assert parc(5 * torch.eye(3)[y].repeat(1, 20).double() + normal(30, 60), y, dims=4) > 0.4


def test_parc_without_anything_to_tell_apart() -> None:
    assert parc(normal(4, 3), torch.zeros(4, dtype=torch.long)) == 0
    assert parc(torch.ones(4, 3), torch.tensor([0, 1, 0, 1])) == 0
    assert parc(normal(1, 3), torch.tensor([0])) == 0


def test_correlations() -> None:
    x = normal(4, 6)
    torch.testing.assert_close(correlations(x), torch.corrcoef(x))
    torch.testing.assert_close(correlations(x)[0, 1], pearson(x[0], x[1]), atol=1e-7, rtol=0)


def test_shares() -> None:
    e = torch.tensor([0.4, -0.3, 0.2])
    torch.testing.assert_close(similarity_weights(e, power=1.0), torch.tensor([2 / 3, 0, 1 / 3]))
    torch.testing.assert_close(similarity_weights(e, power=2.0), torch.tensor([0.8, 0, 0.2]))
    assert similarity_weights(e, power=None).tolist() == [1, 0, 0]
    torch.testing.assert_close(similarity_weights(e, power=0.0), torch.full((3,), 1 / 3))
    torch.testing.assert_close(similarity_weights(-e.abs(), power=4.0), torch.full((3,), 1 / 3))
    assert similarity_weights(e, power=1e4).tolist() == [1, 0, 0]

import numpy as np
import pytest

from limbeck.errors import DataError
from limbeck.laws import capacity_gap_law

STUDENTS, RATIOS = (1e6, 2e6, 5e6), (1, 2, 4, 8, 16)


def curves(noise: float = 0.0, seed: int = 0) -> dict[float, dict[float, float]]:
    """The best teacher is 3 S - 0.5 million."""
    rng = np.random.default_rng(seed)
    return {
        s: {r * s: 1 - 0.1 * np.log(r * s / (3 * s - 5e5)) ** 2 + noise * rng.normal() for r in RATIOS}
        for s in STUDENTS
    }


def test_a_planted_law_is_found_exactly() -> None:
    law = capacity_gap_law(curves())
    assert (law.slope, law.intercept, law.r2) == pytest.approx((3, -5e5, 1))
    assert law.best == pytest.approx({s: 3 * s - 5e5 for s in STUDENTS})
    assert law(1e7) == pytest.approx(3e7 - 5e5)


@pytest.mark.parametrize("seed", range(5))
def test_and_under_noise_to_a_tenth(seed: int) -> None:
    law = capacity_gap_law(curves(noise=0.003, seed=seed))
    assert law.best == pytest.approx({s: 3 * s - 5e5 for s in STUDENTS}, rel=0.1)
    assert law(4e6) == pytest.approx(1.15e7, rel=0.1)


def test_no_law_where_there_is_no_top() -> None:
    rising = curves() | {1e6: {1e6: 0.1, 2e6: 0.2, 4e6: 0.35}}
    with pytest.raises(DataError, match="1e\\+06 parameters no teacher from 1e\\+06 to 4e\\+06"):
        capacity_gap_law(rising)
    with pytest.raises(DataError, match="three teachers"):
        capacity_gap_law(curves() | {1e6: {1e6: 0.1, 2e6: 0.2}})

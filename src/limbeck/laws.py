"""Laws fitted to several runs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from limbeck.errors import DataError


@dataclass(frozen=True)
class CapacityGap:
    """best teacher = slope * student + intercept, in parameters; r2: the share of the variance that the line explains.

    best: the fitted optimum for each student size.
    """

    slope: float
    intercept: float
    r2: float
    best: Mapping[float, float]

    def __call__(self, student: float) -> float:
        """Parameters of the best teacher for a student."""
        return self.slope * student + self.intercept


def capacity_gap_law(quality: Mapping[float, Mapping[float, float]]) -> CapacityGap:
    """The law of capacity gap from one's own runs: for each student a parabola over the logarithm of the teacher's
    size, whose top is the best teacher, and a line through these, both by least squares (Zhang et al. 2023, MiniMA,
    arXiv:2311.07052; they take the best of the sizes tried instead of a parabola's top). Theirs has slope 2.498,
    intercept -11.5 million and r2 0.9957, of students made by `procedures.cut.cut` and taught by
    kd(tau=1.0, alpha=0.5).

    quality: {student's parameters: {teacher's parameters: the student's quality, higher is better}}, at equal data,
        tokens and tokenizer. At least two students with three teachers each. Means over seeds: the top is noisy.

    Raises DataError where a student's curve has no top among the teachers tried: no law is to be had from it.
    """
    if len(quality) < 2 or any(len(curve) < 3 for curve in quality.values()):
        tried = {student: len(curve) for student, curve in quality.items()}
        raise DataError(f"a law takes two students at least, with three teachers each; got {tried}")
    best = {}
    for student, curve in quality.items():
        sizes = np.log(np.array(list(curve)))
        bend, rise, _ = np.polyfit(sizes - sizes.mean(), list(curve.values()), 2)
        top = float(sizes.mean() - rise / (2 * bend)) if bend < 0 else np.inf
        if not sizes.min() <= top <= sizes.max():
            raise DataError(
                f"for the student of {student:g} parameters no teacher from {min(curve):g} to {max(curve):g} is best "
                f"between the others: try more sizes, or leave this student out"
            )
        best[student] = float(np.exp(top))
    x, y = np.array(list(best)), np.array(list(best.values()))
    slope, intercept = np.polyfit(x, y, 1)
    unexplained, spread = ((y - slope * x - intercept) ** 2).sum(), ((y - y.mean()) ** 2).sum()
    return CapacityGap(float(slope), float(intercept), float(1 - unexplained / spread) if spread > 0 else 1.0, best)

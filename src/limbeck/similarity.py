"""How well a model of another task suits this one, judged by few labelled examples."""

from __future__ import annotations

import torch
from torch import Tensor

from limbeck.losses.correlation import centred
from limbeck.targets import one_hot


def parc(features: Tensor, y: Tensor, *, dims: int = 32) -> float:
    """Do examples that lie apart have different labels? Spearman's correlation, in [-1, 1], of the examples' pairwise
    distances 1 - Pearson by features (n, d) and by one-hot labels y (n,) (Bolya et al. 2021, PARC).

    The features are standardised; more than `dims` are then reduced to their first principal components. 0 where one
    side has no two different distances, as with a single class. Take equally many examples of each class.
    """
    from scipy.stats import spearmanr  # type: ignore[import-untyped]  # slow to import
    from sklearn.decomposition import PCA

    x = features.detach().cpu().double()
    x = (x - x.mean(0)) / x.std(0, correction=0).clamp(min=1e-12)
    if x.shape[1] > dims:
        x = torch.from_numpy(PCA(min(dims, len(x)), svd_solver="full").fit_transform(x.numpy()))
    truth = one_hot(y.cpu(), int(y.max()) + 1, torch.float64)
    below = torch.tril_indices(len(x), len(x), -1)
    # distances that are equal but for rounding are ties
    far, unlike = ((1 - correlations(rows)[below[0], below[1]]).round(decimals=9).numpy() for rows in (x, truth))
    if any((side == side[:1]).all() for side in (far, unlike)):
        return 0.0
    return float(spearmanr(far, unlike).statistic)


def correlations(x: Tensor) -> Tensor:
    """(n, n) Pearson correlations between the rows of x (n, d); 0 with a constant row."""
    rest, length, flat = centred(x)
    directions = rest / length.masked_fill(flat, torch.inf)
    return directions @ directions.T


def similarity_weights(similarities: Tensor, *, power: float | None) -> Tensor:
    """(s,) shares of the sources: e**power / sum with e = max(0, similarity); None: all to the most similar (Borup et
    al. 2023, DistillWeighted and DistillNearest). power = 0, or no similarity above 0, is the same share for each.
    """
    e = similarities.clamp(min=0)
    if power is None:
        return torch.zeros_like(e).index_fill(0, e.argmax(), 1.0)
    e = e / e.max() if e.max() > 0 else torch.ones_like(e)
    e = e**power  # 0**0 is 1
    return e / e.sum()

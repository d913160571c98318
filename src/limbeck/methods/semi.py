"""Methods for few labels and many unlabelled examples."""

from __future__ import annotations

from limbeck.blocks.semi import EMAPseudoLabel, PseudoLabel
from limbeck.objective import Objective
from limbeck.registry import method


@method(paper="Sohn et al. 2020, arXiv:2001.07685", needs=("labels", "unlabelled", "strong"))
def fixmatch(*, threshold: float = 0.95, weight: float = 1.0) -> Objective:
    """Learn, on a strongly augmented view, the label that the student itself is sure of on a weak one.

    The paper takes 7 unlabelled examples per labelled one (`unlabelled=7`) and evaluates an average of the weights;
    here the last weights are evaluated. The authors' unlabelled examples are all images, the labelled ones' too, here
    only those without a label; and here the labelled ones' strong views are in the forward as well, with no loss.
    """
    return PseudoLabel(threshold, weight)


@method(
    paper="Tarvainen & Valpola 2017, arXiv:1703.01780; Sohn et al. 2020, arXiv:2001.07685",
    needs=("labels", "unlabelled", "strong"),
)
def ema_pseudo_label(*, threshold: float = 0.95, decay: float = 0.999, weight: float = 1.0) -> Objective:
    """As fixmatch, with an average of the student's past weights as the labeller."""
    return EMAPseudoLabel(threshold, decay, weight)

"""Published systems that are functions, not losses."""

from limbeck.data.domains import dc_pdd, zip_fit
from limbeck.laws import capacity_gap_law
from limbeck.losses.linear import linear_cross_entropy
from limbeck.registry import tool

tool(
    zip_fit,
    does="Choose the texts that gzip finds most alike to a task's.",
    paper="Obbad et al. 2024, ZIP-FIT, arXiv:2410.18194",
)
tool(dc_pdd, does="Tell texts that a model was trained on.", paper="Zhang et al. 2024, DC-PDD, EMNLP")
tool(
    capacity_gap_law,
    does="Fit which size of teacher is best for a student.",
    paper="Zhang et al. 2023, MiniMA, arXiv:2311.07052",
)
tool(
    linear_cross_entropy,
    name="cce",
    does="Cross-entropy of a large vocabulary without its logits.",
    paper="Wijmans et al. 2025, Cut Cross-Entropy, arXiv:2411.09009",
)

"""Pictures for the report, as text that can stand inside an HTML page.

matplotlib draws in placeholder colours; the finished SVG names CSS variables instead, so that one drawing suits light
and dark pages alike. The drawings hold numbers only: every name stands in the page's own, escaped text.
"""

from __future__ import annotations

import base64
import html
import io
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Points = Sequence[tuple[float, float]]

SLOTS = {"teacher": "teacher", "student alone": "alone", "student distilled": "distilled"}

# Colours that nothing else in a drawing has, each standing for the CSS variable of the same name.
_PLACEHOLDER = {
    "teacher": "#0000f1",
    "alone": "#0000f2",
    "distilled": "#0000f3",
    "other": "#0000f4",
    "muted": "#0000f5",
    "line": "#0000f6",
}
_STYLE = {
    "svg.fonttype": "none",
    "svg.hashsalt": "limbeck",
    "font.size": 10.5,
    "axes.edgecolor": _PLACEHOLDER["line"],
    "axes.labelcolor": _PLACEHOLDER["muted"],
    "axes.spines.left": False,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.axisbelow": True,
    "grid.color": _PLACEHOLDER["line"],
    "xtick.color": _PLACEHOLDER["muted"],
    "ytick.color": _PLACEHOLDER["muted"],
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "ytick.minor.size": 0,
    "xtick.major.pad": 6,
}
# Dashes tell the models apart where colours cannot; page.html.j2 repeats them in its legend.
_DASHES: dict[str, Any] = {
    "teacher": (0, (1, 1.5)),
    "alone": (0, (4, 1.6)),
    "distilled": "-",
    "other": (0, (6, 2, 1, 2)),
}


def slot(model: str) -> str:
    """Which colour and line style a model has throughout the page."""
    return SLOTS.get(model, "other")


def curves(
    key: str, label: str, series: Mapping[str, Points], level: float | None = None, percent: bool = False
) -> str:
    """Lines against the epoch, one per model, and the teacher's `level` as a horizontal line."""
    from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter

    with _axes(height=2.75) as (figure, axes):
        for model, points in series.items():
            x, y = zip(*points, strict=True)
            color = _PLACEHOLDER[slot(model)]
            # Broken lines above unbroken ones, so that neither hides the other where they meet.
            dashes = _DASHES[slot(model)]
            axes.plot(x, y, color=color, linestyle=dashes, linewidth=1.8, zorder=2 if dashes == "-" else 2.1)
            axes.plot(x[-1:], y[-1:], color=color, marker="o", markersize=4.5, clip_on=False)
        if level is not None:
            axes.axhline(level, color=_PLACEHOLDER["teacher"], linestyle=_DASHES["teacher"], linewidth=1.8)
        axes.set_xlabel("epoch", loc="right")
        last = max(points[-1][0] for points in series.values())
        axes.set_xlim(0, 1.03 * max(last, 1))
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        axes.yaxis.set_major_locator(MaxNLocator(5))
        values = [y for points in series.values() for _, y in points]
        if percent:
            # The first epochs start far below and may leave the picture: what matters are the differences at the end.
            late = [y for points in series.values() for _, y in points[len(points) // 5 :]]
            late += [] if level is None else [level]
            margin = 0.08 * (max(late) - min(late)) or 0.01
            axes.set_ylim(min(late) - margin, max(late) + margin)
            axes.yaxis.set_major_formatter(lambda value, _: f"{100 * value:g}%")
        elif min(values) > 0 and max(values) > 30 * min(values):
            # On a linear axis such a fall looks like a step down to zero.
            axes.set_yscale("log")
            between = (1, 3) if max(values) < 1000 * min(values) else (1,)
            axes.yaxis.set_major_locator(LogLocator(subs=between, numticks=7))
            axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
            axes.yaxis.set_minor_formatter(NullFormatter())
        return _svg(figure, key, label)


def reliability(key: str, label: str, model: str, bins: Sequence[tuple[float, float, float]]) -> str:
    """Accuracy against confidence, one dot per bin, its area the share of the examples."""
    color = _PLACEHOLDER[slot(model)]
    with _axes(height=3.3) as (figure, axes):
        confidence, accuracy, share = zip(*bins, strict=True)
        axes.plot([0, 1], [0, 1], color=_PLACEHOLDER["muted"], linewidth=1)
        axes.vlines(confidence, confidence, accuracy, color=color, linewidth=1.4)
        # A dot for one example in a thousand must still be seen.
        sizes = [max(12.0, 420.0 * part) for part in share]
        axes.scatter(confidence, accuracy, s=sizes, color=color, linewidth=0, clip_on=False, zorder=3)
        axes.set(xlim=(0, 1), ylim=(0, 1.02))
        axes.set_xlabel("confidence", loc="right")
        axes.set_xticks([0.25, 0.5, 0.75, 1], ["25%", "50%", "75%", "100%"])
        axes.set_yticks([0, 0.25, 0.5, 0.75, 1], ["0%", "25%", "50%", "75%", "100%"])
        return _svg(figure, key, label)


def png(image: Sequence[Any]) -> str:
    """An image of H x W or C x H x W values in 0..255 as a PNG data URI."""
    import numpy as np
    from matplotlib.image import imsave

    pixels = np.clip(np.rint(np.asarray(image, dtype=float)), 0, 255).astype(np.uint8)
    if pixels.ndim == 3:
        pixels = np.moveaxis(pixels, 0, -1)
        pixels = pixels if pixels.shape[-1] in (3, 4) else pixels[..., 0]
    buffer = io.BytesIO()
    imsave(buffer, pixels, format="png", cmap="gray", vmin=0, vmax=255)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


@contextmanager
def _axes(height: float) -> Iterator[tuple[Figure, Axes]]:
    """One drawing in the report's style, whatever the user's own matplotlib settings say."""
    from matplotlib import style
    from matplotlib.figure import Figure

    with style.context(["default", _STYLE]):
        # 4.1 inches are about 300 points: at that width the text reads well in a third of a page and on a phone.
        figure = Figure(figsize=(4.1, height))
        axes = figure.add_axes((0.13, 0.42 / height, 0.81, 1 - 0.52 / height))
        yield figure, axes


def _svg(figure: Figure, key: str, label: str) -> str:
    """The drawing as an `<svg>` element in the page's colours, its ids begun with `key`."""
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    svg = re.sub(r"\s*<metadata>.*?</metadata>", "", buffer.getvalue(), flags=re.DOTALL)
    body = svg[svg.index(">", svg.index("<svg")) + 1 :]
    # matplotlib numbers its groups anew in each drawing, so plain ids would clash on one page.
    body = re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{key}-", body)
    for name, color in _PLACEHOLDER.items():
        body = body.replace(color, f"var(--{name})")
    width, height = (72 * inches for inches in figure.get_size_inches())
    return (
        f'<svg role="img" aria-label="{html.escape(label)}" viewBox="0 0 {width:g} {height:g}" '
        f'xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink">{body.strip()}'
    )

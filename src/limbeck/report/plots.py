"""Pictures for the report, as text that can stand inside an HTML page.

matplotlib draws in placeholder colours; the finished SVG names CSS variables instead, so that one drawing suits light
and dark pages alike. Names, too, come in afterwards, escaped: whatever is in them, matplotlib never sees it.
"""

from __future__ import annotations

import base64
import html
import io
import math
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Points = Sequence[tuple[float, float]]

# Colours that nothing else in a drawing has, each standing for the CSS variable of the same name.
_PLACEHOLDER = {
    "teacher": "#0000f1",
    "alone": "#0000f2",
    "distilled": "#0000f3",
    "other": "#0000f4",
    "muted": "#0000f5",
    "line": "#0000f6",
    "ink": "#0000f7",
    "paper": "#0000f8",
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
    "xtick.minor.size": 0,
    "ytick.minor.size": 0,
    "xtick.major.pad": 6,
}
# Dashes tell the models apart where colours cannot; style.css repeats them in the legend.
_DASHES: dict[str, Any] = {
    "teacher": (0, (1, 1.5)),
    "alone": (0, (4, 1.6)),
    "distilled": "-",
    "other": (0, (6, 2, 1, 2)),
}
_MARKERS = {"teacher": "D", "alone": "s", "distilled": "o", "other": "^"}


@dataclass(frozen=True)
class Dot:
    """A row of a dot plot: a mean with its interval, the seeds' own values, and a filled or hollow marker."""

    name: str
    mean: float
    low: float | None
    high: float | None
    seeds: Sequence[float]
    slot: str
    filled: bool = True


@dataclass(frozen=True)
class Spot:
    """A model in a drawing of quality against cost."""

    name: str
    x: float
    mean: float
    low: float | None
    high: float | None
    slot: str


def curves(
    key: str,
    label: str,
    series: Sequence[tuple[str, Points]],
    level: float | None = None,
    *,
    percent: bool = False,
    scale: Sequence[Points] | None = None,
) -> str:
    """Lines against the epoch, each with its slot, and the teacher's `level` as a horizontal line.

    scale: lines that the axis of percents is made for, where several drawings are to be compared; None: these.
    """
    from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter

    with _axes(height=2.75) as (figure, axes):
        for slot, points in series:
            x, y = zip(*points, strict=True)
            color = _PLACEHOLDER[slot]
            # Broken lines above unbroken ones, so that neither hides the other where they meet.
            dashes = _DASHES[slot]
            axes.plot(x, y, color=color, linestyle=dashes, linewidth=1.8, zorder=2 if dashes == "-" else 2.1)
            axes.plot(x[-1:], y[-1:], color=color, marker="o", markersize=4.5, clip_on=False)
        if level is not None:
            axes.axhline(level, color=_PLACEHOLDER["teacher"], linestyle=_DASHES["teacher"], linewidth=1.8)
        axes.set_xlabel("epoch", loc="right")
        last = max(points[-1][0] for _, points in series)
        axes.set_xlim(0, 1.03 * max(last, 1))
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        axes.yaxis.set_major_locator(MaxNLocator(5))
        values = [y for _, points in series for _, y in points]
        if percent:
            # The first epochs start far below and may leave the picture: what matters are the differences at the end.
            scale = scale or [points for _, points in series]
            late = [y for points in scale for _, y in points[len(points) // 5 :]]
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


def reliability(key: str, label: str, slot: str, bins: Sequence[tuple[float, float, float]]) -> str:
    """Accuracy against confidence, one dot per bin, its area the share of the examples."""
    color = _PLACEHOLDER[slot]
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


def dots(key: str, label: str, rows: Sequence[Dot], *, zero: bool = False) -> str:
    """Shares in percent, a row each: the mean, its interval, and the seeds' values as ticks below; a line at `zero`."""
    from matplotlib.ticker import MaxNLocator

    with _axes(height=0.5 + 0.47 * len(rows), left=0.02) as (figure, axes):
        axes.grid(visible=True, axis="x")
        axes.grid(visible=False, axis="y")
        for place, row in enumerate(rows):
            color = _PLACEHOLDER[row.slot]
            if zero:  # in pieces, which leave the names free
                axes.vlines(0, place - 0.16, place + 0.36, color=_PLACEHOLDER["muted"], linewidth=1.2, zorder=1)
            if row.low is not None and row.high is not None:
                axes.plot([row.low, row.high], [place, place], color=color, linewidth=2, linestyle=_DASHES[row.slot])
            inside = color if row.filled else _PLACEHOLDER["paper"]
            axes.plot(row.mean, place, _MARKERS[row.slot], color=color, markerfacecolor=inside, markersize=7)
            axes.plot(row.seeds, [place + 0.22] * len(row.seeds), "|", color=color, markersize=6, markeredgewidth=1.3)
            axes.text(
                0,
                place - 0.24,
                _token(place),
                transform=axes.get_yaxis_transform(),
                color=_PLACEHOLDER["ink"],
                fontsize=10,
            )
        axes.set_ylim(len(rows) - 0.5, -0.65)
        axes.set_yticks([])
        axes.xaxis.set_major_locator(MaxNLocator(5))
        axes.xaxis.set_major_formatter(lambda value, _: f"{100 * value:{'+' if zero and value else ''}.4g}")
        return _svg(figure, key, label, [row.name for row in rows])


def sizes(key: str, label: str, spots: Sequence[Spot], form: Callable[[float], str]) -> str:
    """Accuracy against what a model costs, on a logarithmic axis; spots of the same name stand side by side."""
    from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter
    from matplotlib.transforms import ScaledTranslation

    with _axes(height=3.0) as (figure, axes):
        axes.set_xscale("log")
        names = list(dict.fromkeys(spot.name for spot in spots))
        alike = {name: [spot for spot in spots if spot.name == name] for name in names}
        for group in alike.values():
            for place, spot in enumerate(group):
                color = _PLACEHOLDER[spot.slot]
                aside = ScaledTranslation(8 / 72 * (place - (len(group) - 1) / 2), 0, figure.dpi_scale_trans)
                style: dict[str, Any] = {"color": color, "transform": axes.transData + aside}
                if spot.low is not None and spot.high is not None:
                    axes.plot([spot.x, spot.x], [spot.low, spot.high], linewidth=1.4, **style)
                axes.plot(spot.x, spot.mean, _MARKERS[spot.slot], markersize=6.5, **style)
        every = [y for spot in spots for y in (spot.low, spot.mean, spot.high) if y is not None]
        margin = 0.16 * (max(every) - min(every)) or 0.01
        axes.set_ylim(min(every) - margin, max(every) + margin)
        low = min(spot.x for spot in spots)
        span = max(max(spot.x for spot in spots) / low, 2)
        axes.set_xlim(low / span**0.18, low * span**1.18)
        for place, group in enumerate(alike.values()):
            top = max(spot.high or spot.mean for spot in group)
            across = math.log(group[0].x / low, span)
            axes.annotate(
                _token(place),
                (group[0].x, top),
                xytext=(0, 7),
                textcoords="offset points",
                ha="left" if across < 0.1 else "right" if across > 0.9 else "center",
                color=_PLACEHOLDER["ink"],
                fontsize=10,
            )
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5), numticks=8))
        axes.xaxis.set_major_formatter(lambda value, _: form(value))
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.yaxis.set_major_locator(MaxNLocator(5))
        axes.yaxis.set_major_formatter(lambda value, _: f"{100 * value:g}%")
        return _svg(figure, key, label, names)


def png(image: Any) -> str:
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
def _axes(height: float, left: float = 0.13) -> Iterator[tuple[Figure, Axes]]:
    """One drawing in the report's style, whatever the user's own matplotlib settings say."""
    from matplotlib import style
    from matplotlib.figure import Figure

    with style.context(["default", _STYLE]):
        # 4.1 inches are about 300 points: at that width the text reads well in a third of a page and on a phone.
        figure = Figure(figsize=(4.1, height))
        axes = figure.add_axes((left, 0.42 / height, 0.94 - left, 1 - 0.52 / height))
        yield figure, axes


def _token(place: int) -> str:
    """Stands for a name until the drawing is done."""
    return f"~name{place}~"


def _svg(figure: Figure, key: str, label: str, names: Sequence[str] = ()) -> str:
    """The drawing as an `<svg>` element in the page's colours, its ids begun with `key`, long names cut."""
    from rich.cells import cell_len, set_cell_size

    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    svg = re.sub(r"\s*<metadata>.*?</metadata>", "", buffer.getvalue(), flags=re.DOTALL)
    body = svg[svg.index(">", svg.index("<svg")) + 1 :]
    # matplotlib numbers its groups anew in each drawing, so plain ids would clash on one page.
    body = re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{key}-", body)
    for name, color in _PLACEHOLDER.items():
        body = body.replace(color, f"var(--{name})")
    for place, name in enumerate(names):
        short = name if cell_len(name) <= 44 else set_cell_size(name, 43) + "\N{HORIZONTAL ELLIPSIS}"
        body = body.replace(_token(place), html.escape(short))
    width, height = (72 * inches for inches in figure.get_size_inches())
    return (
        f'<svg role="img" aria-label="{html.escape(label)}" viewBox="0 0 {width:g} {height:g}" '
        f'xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink">{body.strip()}'
    )

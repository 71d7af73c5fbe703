"""Charts: a report as an SVG that a person reads at a glance. Equal reports make equal bytes.

matplotlib is imported when something is drawn, and its pyplot, which keeps figures for the whole process, never.
"""

from __future__ import annotations

import io
import math
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from onnx_fleet.entities.latency_report import by_origin

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from onnx_fleet.entities.latency_report import GenerationRow, Interval, LatencyReport, LatencyRow
    from onnx_fleet.entities.validation_report import CheckRow, ValidationReport

_STYLE: dict[Any, Any] = {
    "svg.hashsalt": "onnx-fleet",
    "svg.fonttype": "none",
    "text.parse_math": False,
    "font.family": "sans-serif",
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlelocation": "left",
    "axes.titlesize": 10,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
}
_GREY, _PALE, _RED, _GREEN = "#8a8f98", "#e4e6ea", "#c0392b", "#1b7f5c"
_VARIANT_COLOURS = ("#0b5fa5", "#e08214", "#1b7f5c", "#8e44ad", "#b03060")
"""The variants' colours, which differ in lightness so that they can be told apart without colour vision."""

_LABELLED_SERIES = 2
"""The most series whose figures are written beside their points; the labels of more would overlap."""
_MOST_BARS = 48
"""The most bars in a chart: nobody reads a longer one, and the report has every row."""
_LAYER = re.compile(r"\.\d+\.")
_LEAST_SHARE = 1e-6


@dataclass(frozen=True, slots=True, kw_only=True)
class _Dot:
    """One figure of one series at one point of a grid."""

    series: str
    batch_size: int
    sequence_length: int | None
    value: float
    interval: Interval | None = None
    tail: float | None = None
    """The p95 of a latency."""
    text: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Bar:
    """The share of its tolerance that one output used in one check."""

    label: str
    used: float | None
    """The share of the tolerance; None where the check could not subtract the values."""
    text: str
    passed: bool


_EAGER = "PyTorch eager"


def latency(report: LatencyReport) -> bytes:
    """Draw latency against batch and length, one panel per phase: variants side by side, PyTorch eager beside them."""
    panels = list(_panels(report))
    series = tuple(dict.fromkeys(dot.series for _, dots in panels for dot in dots))
    points = len({(dot.batch_size, dot.sequence_length) for _, dots in panels for dot in dots})
    across = min(len(panels), 3 if points * len(series) <= 12 else 2)
    down = math.ceil(len(panels) / across)
    with _figure(width=max(8.0, 3.4 * across), height=1.1 + 2.7 * down) as (figure, save):
        axes = list(figure.subplots(down, across, squeeze=False).flat)
        for panel, (title, dots) in zip(axes, panels, strict=False):
            _draw_dots(panel, title, dots, series=series)
        for panel in axes[len(panels) :]:
            panel.set_axis_off()
        figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower left", ncols=len(series), frameon=False)
        _head(figure, report.model_id, report.version, _circumstances(report))
        return save()


def validation(report: ValidationReport) -> bytes:
    """Draw how much of its tolerance each output used at worst, check by check."""
    bars = _bars(report)
    shown = sorted(bars, key=lambda bar: (bar.passed, -(bar.used or 0.0)))[:_MOST_BARS]
    shown = [bar for bar in bars if bar in shown]
    with _figure(width=9.0, height=1.3 + 0.2 * len(shown)) as (figure, save):
        panel = figure.subplots()
        _draw_bars(panel, shown)
        failed = sum(not row.passed for row in report.rows)
        said = f"on {report.provider}: {len(report.rows)} comparisons, {failed} failed"
        if len(shown) < len(bars):
            said += f"; the {len(shown)} of {len(bars)} outputs that are closest to their limits"
        if report.rests_on:
            said += f"\nrests on the whole proof of {report.rests_on.origin}"
        _head(figure, report.model_id, report.version, said)
        return save()


@contextmanager
def _figure(*, width: float, height: float) -> Iterator[tuple[Figure, Callable[[], bytes]]]:
    """Make an empty figure of a size in inches, together with the function that returns its SVG."""
    import matplotlib as mpl
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(width, height), layout="constrained")
        FigureCanvasSVG(figure)

        def save() -> bytes:
            written = io.BytesIO()
            figure.savefig(written, format="svg", metadata={"Date": None, "Creator": None})
            return written.getvalue()

        yield figure, save


def _head(figure: Figure, model_id: str, version: str, line: str) -> None:
    figure.suptitle(f"{model_id} @ {version}\n{line}", x=0.01, ha="left", fontsize=9)


def _panels(report: LatencyReport) -> Iterator[tuple[str, list[_Dot]]]:
    """Return title and dots of each panel, one per phase of a graph; of models that generate, what users wait for."""
    found = dict.fromkeys((row.role, row.phase) for row in report.rows)
    phases = [phase for _, phase in found]
    for role, phase in found:
        rows = [row for row in report.rows if (row.role, row.phase) == (role, phase)]
        title = f"{phase}, ms" if phases.count(phase) == 1 else f"{role}: {phase}, ms"
        eager = [
            _dot(row, row.torch_latency_ms_p50, series=_EAGER, interval=row.torch_latency_ms_p50_interval)
            for row in rows
            if row.variant == rows[0].variant
        ]
        yield (
            title,
            eager
            + [
                _dot(
                    row,
                    row.latency_ms_p50,
                    interval=row.latency_ms_p50_interval,
                    tail=row.latency_ms_p95,
                    text=f"{row.ratio_to_torch:.2f}×",
                )
                for row in rows
            ],
        )
    rates = report.generation
    if len({row.role for row in report.rows}) > 1 and rates:
        eager = [_dot(row, row.torch_first_token_ms_p50, series=_EAGER) for row in rates]
        yield (
            "first token, ms",
            eager + [_dot(row, row.first_token_ms_p50, interval=row.first_token_ms_p50_interval) for row in rates],
        )
    if rates:
        eager = [_dot(row, row.torch_tokens_per_s, series=_EAGER) for row in rates]
        yield (
            "tokens a second",
            eager
            + [
                _dot(row, row.tokens_per_s, interval=row.tokens_per_s_interval, text=f"{row.tokens_per_s:,.0f}")
                for row in rates
            ],
        )


def _dot(row: LatencyRow | GenerationRow, value: float, *, series: str = "", **figures: Any) -> _Dot:
    return _Dot(
        series=series or row.variant,
        batch_size=row.batch_size,
        sequence_length=row.sequence_length,
        value=value,
        **figures,
    )


def _draw_dots(panel: Axes, title: str, dots: Sequence[_Dot], *, series: Sequence[str]) -> None:
    points = sorted({(dot.batch_size, dot.sequence_length or 0) for dot in dots})
    step = 0.7 / len(series)
    for number, name in enumerate(series):
        own = [dot for dot in dots if dot.series == name]
        at = [
            points.index((dot.batch_size, dot.sequence_length or 0)) + (number - (len(series) - 1) / 2) * step
            for dot in own
        ]
        colour = _GREY if name == _EAGER else _VARIANT_COLOURS[(number - 1) % len(_VARIANT_COLOURS)]
        spans = [dot.interval or (dot.value, dot.value) for dot in own]
        tailed = [(x, dot.value, dot.tail) for x, dot in zip(at, own, strict=True) if dot.tail is not None]
        if tailed:
            places, values, tails = zip(*tailed, strict=True)
            _draw_lines(panel, places, list(zip(values, tails, strict=True)), colour, width=0.6)
            panel.plot(places, tails, linestyle="", marker="_", color=colour, markersize=8)
        _draw_lines(panel, at, spans, colour, width=2)
        panel.plot(
            at, [dot.value for dot in own], "s" if name == _EAGER else "o", color=colour, markersize=5, label=name
        )
        for x, dot, (low, _) in zip(at, own, spans, strict=True):
            if len(series) <= _LABELLED_SERIES:
                panel.annotate(
                    dot.text,
                    (x, low),
                    xytext=(0, -12),
                    textcoords="offset points",
                    ha="center",
                    fontsize=8,
                    color=colour,
                )
    _dress(panel, title, points)


def _draw_lines(
    panel: Axes, places: Sequence[float], spans: Sequence[tuple[float, float]], colour: str, *, width: float
) -> None:
    """Draw a line between two values at each place, all as one path: a grid of some size stays a small file."""
    gap = math.nan
    across = [x for place in places for x in (place, place, gap)]
    panel.plot(across, [y for low, high in spans for y in (low, high, gap)], color=colour, linewidth=width)


def _dress(panel: Axes, title: str, points: Sequence[tuple[int, int]]) -> None:
    """Set up a logarithmic axis in plain numbers; below it stand the lengths, and under them the batch of each."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    panel.set_title(title)
    panel.set_yscale("log")
    panel.margins(y=0.2)
    panel.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    panel.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,g}"))
    panel.yaxis.set_minor_locator(NullLocator())
    panel.grid(axis="y", color=_PALE)
    panel.set_axisbelow(True)
    panel.set_xlim(-0.6, len(points) - 0.4)
    if not any(length for _, length in points):
        panel.set_xticks(range(len(points)), [f"batch {rows}" for rows, _ in points])
        return
    panel.set_xticks(range(len(points)), [str(length) for _, length in points])
    batches = {rows: [x for x, (other, _) in enumerate(points) if other == rows] for rows, _ in points}
    under = panel.secondary_xaxis(location=0)
    under.set_xticks(
        [sum(places) / len(places) for places in batches.values()], [f"\nbatch {rows}, tokens" for rows in batches]
    )
    for places in list(batches.values())[1:]:
        panel.axvline(places[0] - 0.5, color=_PALE, linewidth=0.8)


def _circumstances(report: LatencyReport) -> str:
    """Describe where and with what the report was measured, and whether to believe it."""
    about = [
        str(report.hardware.get("gpu_model") or report.hardware.get("cpu_model", report.provider)),
        f"{report.threads} thread" + ("s" if report.threads > 1 else ""),
        *(f"{name} {report.runtime[name]}" for name in ("onnxruntime", "torch") if name in report.runtime),
        *([f"{report.noise.verdict} machine"] if report.noise else []),
    ]
    runs = {row.timed_runs for row in report.rows}
    counted = f"{min(runs)}" if len(runs) == 1 else f"{min(runs)} to {max(runs)}"
    taken = "".join(
        f"\n{', '.join(variants)}: taken over from {origin}, and confirmed"
        for origin, variants in by_origin(report.taken_over).items()
    )
    return (
        " · ".join(about) + f"{taken}\nmedian of {counted} runs, with its 95 % interval; – p95; "
        "× the time of PyTorch eager, measured in turn with it"
    )


def _bars(report: ValidationReport) -> list[_Bar]:
    """Return one bar per check, graph and output; the outputs of a cache's layers share one."""
    groups: dict[tuple[str, str, str], list[CheckRow]] = {}
    for row in report.rows:
        groups.setdefault((row.check, row.graph, _LAYER.sub(".*.", row.output)), []).append(row)
    several = len({graph for _, graph, _ in groups}) > 1
    bars = []
    for (check, graph, output), rows in groups.items():
        figures = [(used, row) for row in rows if (used := _used(row)) is not None]
        failed = next((row for row in rows if not row.passed), None)
        name = graph.rpartition("/")[2].removesuffix(".onnx")
        label = " · ".join(part for part in (check, name if several else "", output) if part)
        if failed and failed.max_abs_diff is None:
            bars.append(_Bar(label=label, used=None, text=failed.finding, passed=False))
        elif figures:
            used, worst = max(figures, key=lambda found: found[0])
            bars.append(_Bar(label=label, used=used, text=f"{worst.max_abs_diff:.1e}", passed=failed is None))
    return bars


def _used(row: CheckRow) -> float | None:
    """Return the share of the tolerance that a row used; of atol, where the check judged by atol alone."""
    if row.tolerance_used is not None or row.max_abs_diff is None or not row.atol:
        return row.tolerance_used
    return row.max_abs_diff / row.atol


def _draw_bars(panel: Axes, bars: Sequence[_Bar]) -> None:
    from matplotlib.ticker import FuncFormatter, NullLocator

    used = [bar.used for bar in bars if bar.used]
    left = 10.0 ** math.floor(math.log10(max(_LEAST_SHARE, min((*used, 0.1)))))
    right = max(10.0, 10.0 ** math.ceil(math.log10(max((*used, 1.0)) * 1.01)))
    panel.set_xscale("log")
    panel.set_xlim(left, right)
    panel.axvspan(1, right, color=_RED, alpha=0.08, linewidth=0)
    panel.axvline(1, color=_RED, linewidth=1.2)
    for place, bar in enumerate(bars):
        colour = _GREEN if bar.passed else _RED
        end = right if bar.used is None else max(left, bar.used)
        panel.plot((left, end), (place, place), color=colour, linewidth=1.2, alpha=0.5)
        panel.plot(end, place, marker="x" if bar.used is None else "o", color=colour, markersize=5, clip_on=False)
        panel.annotate(
            bar.text, (end, place), xytext=(6, 0), textcoords="offset points", va="center", fontsize=7, color=colour
        )
    panel.xaxis.set_major_formatter(FuncFormatter(lambda value, _: _of_limit(value)))
    panel.xaxis.set_minor_locator(NullLocator())
    panel.set_yticks(range(len(bars)), [bar.label for bar in bars])
    panel.set_ylim(len(bars) - 0.4, -0.6)
    panel.grid(axis="x", color=_PALE)
    panel.set_axisbelow(True)
    panel.set_xlabel("share of its tolerance that the worst value uses; beside each dot, the worst absolute difference")


def _of_limit(share: float) -> str:
    if math.isclose(share, 1):
        return "limit"
    return f"1/{1 / share:,.0f}" if share < 1 else f"{share:,.0f}×"

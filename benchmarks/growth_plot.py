"""The picture of how an export's cost grows with depth."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from benchmarks.export import GROWTH_WAYS, WAY_TITLES
from benchmarks.results import ExportResult, ExportRun, Spread

_COLOURS = ("#1f77b4", "#2ca02c", "#7f7f7f")


def draw(result: ExportResult, path: Path) -> None:
    """Write an SVG: wall time and peak memory over the number of layers, medians with their least and most.

    The same figures give the same bytes.
    """
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams.update({"svg.hashsalt": "growth", "svg.fonttype": "none", "font.family": "sans-serif"})
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, 2, figsize=(9, 3.6), layout="constrained")
    panels: tuple[tuple[str, Callable[[ExportRun], float]], ...] = (
        ("wall time, s", lambda run: run.cost.wall_s),
        ("peak memory, GB", lambda run: run.cost.peak_bytes / 1e9),
    )
    for panel, (title, of) in zip(axes, panels, strict=True):
        for way, colour in zip(GROWTH_WAYS, _COLOURS, strict=True):
            points = [
                (subject.layers, Spread.of(map(of, runs)))
                for subject in sorted(result.subjects, key=lambda subject: subject.layers or 0)
                if (runs := result.of(subject.name, way)) and subject.layers is not None
            ]
            if points:
                layers, spreads = zip(*points, strict=True)
                below = [spread.median - spread.least for spread in spreads]
                above = [spread.most - spread.median for spread in spreads]
                medians = [spread.median for spread in spreads]
                panel.errorbar(
                    layers, medians, yerr=(below, above), label=WAY_TITLES[way], color=colour, marker="o", capsize=3
                )
        panel.set_xlabel("layers")
        panel.set_title(title, loc="left", fontsize=11)
        panel.set_ylim(bottom=0)
        panel.set_xlim(left=0)
        panel.grid(axis="y", alpha=0.3)
        panel.spines[["top", "right"]].set_visible(False)
    axes[0].legend(frameon=False, fontsize=9)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, format="svg", metadata={"Date": None})
    pyplot.close(figure)

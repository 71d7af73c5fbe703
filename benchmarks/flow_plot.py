"""The picture of where the seconds of a model's whole flow go."""

from __future__ import annotations

from pathlib import Path

from benchmarks.results import STEPS, FlowResult, Spread

_COLOURS = ("#1f77b4", "#2ca02c", "#ff7f0e", "#9467bd", "#8c564b")
_BETWEEN = "#c7c7c7"
_TITLES = {"first": "first of its kind", "repeated": "a fine-tune of it", "optimum": "optimum-cli"}


def draw(result: FlowResult, path: Path) -> None:
    """Write an SVG: a bar for each flow, with its steps one behind the other, and what lies between them.

    The same figures give the same bytes.
    """
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams.update({"svg.hashsalt": "flows", "svg.fonttype": "none", "font.family": "sans-serif"})
    from matplotlib import pyplot

    flows = list(dict.fromkeys((run.way, run.variants) for run in result.runs))
    flows.sort(key=lambda flow: (flow[0] != "optimum", len(flow[1]), flow[0]))
    figure, axes = pyplot.subplots(figsize=(9, 0.55 * len(flows) + 1.1), layout="constrained")
    for place, flow in enumerate(flows):
        runs, left = result.of(*flow), 0.0
        for step, colour in zip(STEPS, _COLOURS, strict=True):
            seconds = Spread.of(run.seconds.get(step, 0.0) for run in runs).median
            axes.barh(place, seconds, left=left, color=colour, label=step if not place else None)
            left += seconds
        whole = Spread.of(run.cost.wall_s for run in runs).median
        axes.barh(place, whole - left, left=left, color=_BETWEEN, label=None if place else "all else")
        axes.annotate(f" {whole:.0f} s", (whole, place), va="center", fontsize=9)
    named = [
        f"{_TITLES[way]}, {variants[0] if len(variants) == 1 else f'{len(variants)} precisions'}"
        for way, variants in flows
    ]
    axes.set_yticks(range(len(flows)), named)
    axes.tick_params(axis="y", length=0)
    axes.invert_yaxis()
    axes.set_xlabel(f"{result.subject.title}: seconds of wall time")
    axes.margins(x=0.08)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.legend(frameon=False, fontsize=9, ncols=6, loc="lower right", bbox_to_anchor=(1, 1))
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, format="svg", metadata={"Date": None})
    pyplot.close(figure)

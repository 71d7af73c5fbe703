"""The picture of what a run takes around the work on its models, and of how a plan grows with the catalogue."""

from __future__ import annotations

from pathlib import Path

from benchmarks.results import ScaleResult

_WALL, _CPU = "#1f77b4", "#2ca02c"


def draw(result: ScaleResult, path: Path) -> None:
    """Write an SVG: seconds a model by deployment, and seconds of a plan over the number of models.

    The same figures give the same bytes.
    """
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams.update({"svg.hashsalt": "scale", "svg.fonttype": "none", "font.family": "sans-serif"})
    from matplotlib import pyplot

    figure, (runs, plans) = pyplot.subplots(1, 2, figsize=(9, 3.6), layout="constrained")
    names = [f"{run.scenario} ({run.models})" for run in result.runs]
    places = range(len(names))
    for offset, label, colour, seconds in (
        (-0.2, "wall", _WALL, [run.wall_s / run.models for run in result.runs]),
        (0.2, "CPU", _CPU, [sum(run.cpu_s.values()) / run.models for run in result.runs]),
    ):
        runs.barh([place + offset for place in places], seconds, height=0.4, label=label, color=colour)
    runs.set_yticks(places, names)
    runs.invert_yaxis()
    runs.set_title("seconds a model around its steps", loc="left", fontsize=11)
    runs.legend(frameon=False, fontsize=9)

    scans = sorted(result.scans, key=lambda scan: scan.models)
    models = [scan.models for scan in scans]
    plans.plot(models, [scan.first.wall_s for scan in scans], label="first", color=_WALL, marker="o")
    plans.plot(models, [scan.again.wall_s for scan in scans], label="again", color=_CPU, marker="o")
    plans.set_xscale("log")
    plans.set_yscale("log")
    plans.set_xlabel("models in the catalogue")
    plans.set_title("seconds of a plan", loc="left", fontsize=11)
    plans.legend(frameon=False, fontsize=9)
    for panel, axis in ((runs, "x"), (plans, "y")):
        panel.grid(axis=axis, alpha=0.3)
        panel.spines[["top", "right"]].set_visible(False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, format="svg", metadata={"Date": None})
    pyplot.close(figure)

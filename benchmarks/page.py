"""Write docs/benchmarks.md and its picture from what was measured.

python -m benchmarks.page
"""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path

from benchmarks import export, fleet, flow_plot, generate, growth_plot, options, results
from benchmarks.results import ExportResult, FleetResult, FlowResult, GenerateResult, Machine
from benchmarks.tables import table

PAGE = Path(__file__).resolve().parents[1] / "docs" / "benchmarks.md"
PICTURE = Path("pictures") / "growth.svg"
FLOWS = Path("pictures") / "flows.svg"
WHY = Path(__file__).with_name("misses.md")
"""Why targets are missed: written by hand, kept when the page is made anew."""

_INTRODUCTION = """\
# Benchmarks

This page shows what an export costs in comparison with `optimum-cli export onnx`, and how fast the graphs generate in
comparison with optimum's. `make bench` makes it and measures everything again;
[benchmarks/](../benchmarks/README.md) says how to run parts of it.

The checkpoints have real sizes and random weights. Every figure of an export is for a whole process with everything
that it starts, including interpreter and imports. Both sides begin with the files of the checkpoint on disk, and take
turns. A ratio is computed within a turn; its least, median and most over the turns are given, and a target is met if
the median meets it. Memory is the peak of the sum of the resident set sizes of all processes of a side, sampled every
50 ms; its anonymous part belongs to no file.

*first* is an export into an empty store. *repeated* is an export of another checkpoint of the same configuration, into
the store that the first one has used. optimum-cli always validates what it made; *without its validation* it is called
from Python. The targets compare `onnx-fleet export` with optimum-cli as its users run it. The table "Like for like"
compares both sides without a validation, and both with one; ours checks far more, in a process of its own.
"""


def page(
    *,
    exports: ExportResult | None,
    growth: ExportResult | None,
    generated: GenerateResult | None,
    flows: FlowResult | None,
    fine_tunes: FleetResult | None,
    why: str = "",
) -> str:
    """The whole page; what was not measured says so.

    Args:
        why: Markdown, why targets are missed.
    """
    taken = [(name, result.machine) for name, result in (
        ("export", exports), ("growth", growth), ("generate", generated), ("flows", flows), ("fleet", fine_tunes)
    ) if result is not None]  # fmt: skip
    parts = [_INTRODUCTION]
    if exports is None:
        parts.append("## Export\n\n" + _missing("export"))
    else:
        parts += [
            f"## Export: the targets\n\n{export.verdicts(exports)}",
            f"## Export: the figures\n\nMedians of {_turns(exports)}.\n\n{export.figures(exports)}",
            "## Like for like\n\n" + _like_for_like(exports),
        ]
    parts.append("## Growth with depth\n\n" + (_missing("export --growth") if growth is None else _growth(growth)))
    parts.append("## Generating\n\n" + (_missing("generate") if generated is None else _generating(generated)))
    parts.append("## A model's whole flow\n\n" + (_missing("fleet") if flows is None else _flows(flows)))
    parts.append("## A fleet of fine-tunes\n\n" + (_missing("fleet") if fine_tunes is None else _fleet(fine_tunes)))
    missed = [line for line in "\n".join(parts).splitlines() if "**missed**" in line]
    if missed:
        counted = f"{len(missed)} of the rows above {'misses' if len(missed) == 1 else 'miss'} the target."
        parts.append(f"## What is missed, and why\n\n{counted}\n\n{why.strip() or 'Not explained yet.'}")
    if taken:
        parts.append("## The machine\n\n" + _machine(taken))
    return "\n\n".join(part.strip() for part in parts) + "\n"


def _like_for_like(exports: ExportResult) -> str:
    """Says so where the other ways were left out: `--ways`."""
    compared = export.like_for_like(exports)
    if " / " not in compared:
        return _missing("export")
    return f"Wall time divided by optimum's: least / median / most.\n\n{compared}"


def _missing(what: str) -> str:
    return f"Not measured yet: `python -m benchmarks.{what}`."


def _turns(result: ExportResult | FlowResult) -> str:
    count = len({run.turn for run in result.runs})
    return "one turn" if count == 1 else f"{count} turns"


def _filled(text: str) -> str:
    return textwrap.fill(text, 120, break_long_words=False, break_on_hyphens=False)


def _growth(result: ExportResult) -> str:
    said = f"The same Llama with more layers, {_turns(result)}."
    picture = f"![wall time and peak memory over the number of layers]({PICTURE.as_posix()})"
    return f"{said}\n\n{picture}\n\n{export.figures(result)}"


def _generating(result: GenerateResult) -> str:
    said = (
        f"Tokens per second in one plain onnxruntime loop: greedy, one row, {result.prompt_tokens} prompt tokens, "
        f"{result.runs[0].new_tokens} new ones, {result.threads} threads, in turn. Ratios are ours divided by optimum's"
        ": more is better. The last column says how many tokens, at least, are the same in both texts."
    )
    return f"{_filled(said)}\n\n{generate.report(result)}"


def _flows(result: FlowResult) -> str:
    said = (
        f"`onnx-fleet run` of one {result.subject.title} and then of a fine-tune of it, with an empty store and "
        f"default settings, {_turns(result)}: it resolves, exports, validates, measures and publishes. optimum-cli "
        "exports and validates fp32. Memory is of the step that has the most, in GB, without the pages of mapped files."
    )
    picture = f"![where the seconds of a whole flow go]({FLOWS.as_posix()})"
    steps = "Medians. Behind the seconds of a step stands its most memory in GB:"
    verdicts, figures = fleet.flows_verdicts(result), fleet.flows_figures(result)
    return f"{_filled(said)}\n\n{verdicts}\n\n{picture}\n\n{steps}\n\n{figures}"


def _fleet(result: FleetResult) -> str:
    said = (
        f"One `onnx-fleet run` with an empty store resolves, exports, validates, measures and publishes "
        f"{len(result.seconds)} fine-tunes of one {result.title}, with other weights and other labels, with default "
        "settings. optimum-cli exports and validates."
    )
    return f"{_filled(said)}\n\n{fleet.fleet_report(result)}"


def _machine(taken: Sequence[tuple[str, Machine]]) -> str:
    """Facts once, and when each benchmark was run with what load."""
    facts = taken[0][1]
    hardware = facts.hardware
    lines = [
        f"- {hardware['cpu_model']}, {hardware['cores_usable']} usable cores, "
        f"{int(hardware['memory_bytes']) / 1e9:.0f} GB of memory, {hardware['system']}",
        f"- ours: {_versions(facts)}",
        f"- optimum's: {_versions(facts, peer=True) or 'not run'}",
    ]
    rows = [(name, machine.taken_at, f"{machine.load_average_1m:.2f}") for name, machine in taken]
    others = {str(machine.hardware) for _, machine in taken}
    if len(others) > 1:
        lines.append(f"- **not all of it was measured on one machine**: {' and '.join(sorted(others))}")
    return "\n".join(lines) + "\n\n" + table(("benchmark", "begun (UTC)", "load average then"), rows, names=2)


def _versions(facts: Machine, *, peer: bool = False) -> str:
    return ", ".join(f"{name} {version}" for name, version in (facts.peer if peer else facts.ours).items())


def main(arguments: Sequence[str] | None = None) -> None:
    """Write the page and the picture."""
    parser = options.parser("page", __doc__)
    parser.add_argument(
        "--out", type=Path, default=PAGE, help="the page to write; its picture lies in pictures/ beside"
    )
    chosen = parser.parse_args(arguments)
    kept = chosen.folder / "results"
    growth = results.read(ExportResult, kept / "growth.json")
    if growth is not None:
        growth_plot.draw(growth, chosen.out.parent / PICTURE)
    flows = results.read(FlowResult, kept / "flows.json")
    if flows is not None:
        flow_plot.draw(flows, chosen.out.parent / FLOWS)
    text = page(
        exports=results.read(ExportResult, kept / "export.json"),
        growth=growth,
        generated=results.read(GenerateResult, kept / "generate.json"),
        flows=flows,
        fine_tunes=results.read(FleetResult, kept / "fleet.json"),
        why=WHY.read_text(encoding="utf-8") if WHY.is_file() else "",
    )
    chosen.out.parent.mkdir(parents=True, exist_ok=True)
    chosen.out.write_text(text, encoding="utf-8")
    print(f"wrote {chosen.out}")


if __name__ == "__main__":
    main()

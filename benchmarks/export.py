"""Export the same checkpoints with onnx-fleet and with optimum-cli in turn: wall, CPU, peak memory, bytes written.

    python -m benchmarks.export [--runs 3] [--growth] [NAME ...]

Every figure is of a whole process with all that it starts. Both sides begin with the checkpoint's files on disk.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

from benchmarks import checkpoints, machine, options, results, workplace
from benchmarks.checkpoints import Checkpoint
from benchmarks.results import ExportResult, ExportRun, Spread, Subject, Way, ratios
from benchmarks.tables import judged, megabytes, table
from benchmarks.workplace import Workplace

WAYS: tuple[Way, ...] = get_args(Way)
GROWTH_WAYS: tuple[Way, ...] = ("first", "repeated", "optimum")
_OTHER_WEIGHTS = 1
"""The seed of the checkpoint that a repeated export is of."""

WAY_TITLES: Mapping[Way, str] = {
    "first": "onnx-fleet export, first",
    "repeated": "onnx-fleet export, repeated",
    "validate": "onnx-fleet validate",
    "optimum": "optimum-cli export onnx",
    "optimum-unchecked": "optimum without its validation",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """A ratio ours / optimum-cli that is to be reached."""

    way: Way
    what: str
    of: Callable[[ExportRun], float]
    at_most: float


TARGETS = (
    Target(way="repeated", what="wall", of=lambda run: run.cost.wall_s, at_most=0.1),
    Target(way="repeated", what="peak memory", of=lambda run: run.cost.peak_bytes, at_most=0.15),
    Target(way="first", what="wall", of=lambda run: run.cost.wall_s, at_most=1.0),
    Target(way="first", what="peak memory", of=lambda run: run.cost.peak_bytes, at_most=0.4),
)
WRITTEN_AT_MOST = 1.02
"""What a bundle may take, by the checkpoint's weights."""


def measure(
    chosen: Sequence[Checkpoint],
    *,
    place: Workplace,
    turns: int,
    ways: Sequence[Way] = WAYS,
    say: Callable[[str], None] = print,
) -> ExportResult:
    """Run every way of every checkpoint, turn by turn.

    Args:
        ways: "repeated" and "validate" build on "first".
        say: told of every process that has ended.
    Raises:
        CommandFailed: one did not end well.
    """
    needs_peer = any(way.startswith("optimum") for way in ways)
    facts = machine.facts(peer_python=options.require_peer(place.peer_venv) if needs_peer else None)
    subjects = []
    for checkpoint in chosen:
        folder = place.have(checkpoint)
        if "repeated" in ways:
            place.have(checkpoint.sibling(_OTHER_WEIGHTS))
        subjects.append(
            Subject(
                name=checkpoint.name,
                title=checkpoint.title,
                weight_bytes=checkpoints.weight_bytes(folder),
                layers=checkpoint.layers,
            )
        )
    runs = []
    for turn in range(turns):
        for checkpoint in chosen:
            for run in _turn(checkpoint, turn, place=place, ways=ways):
                runs.append(run)
                say(
                    f"{turn + 1}/{turns} {run.subject:9} {run.way:17} {run.cost.wall_s:7.1f} s wall "
                    f"{run.cost.cpu_s:7.1f} s CPU {megabytes(run.cost.peak_bytes):>6} MB peak "
                    f"{megabytes(run.written_bytes):>6} MB written"
                )
    return ExportResult(machine=facts, subjects=tuple(subjects), runs=tuple(runs))


def _turn(checkpoint: Checkpoint, turn: int, *, place: Workplace, ways: Sequence[Way]) -> Iterable[ExportRun]:
    """One turn: ours and the peer's, each second time the other way round."""
    sides = (_ours, _peer) if turn % 2 == 0 else (_peer, _ours)
    for side in sides:
        yield from side(checkpoint, turn, place=place, ways=ways)


def _ours(checkpoint: Checkpoint, turn: int, *, place: Workplace, ways: Sequence[Way]) -> Iterable[ExportRun]:
    folder = place.fresh(f"ours-{checkpoint.name}")
    store, other = folder / "store", checkpoint.sibling(_OTHER_WEIGHTS)
    store.mkdir()
    ordered: tuple[Way, ...] = ("first", "repeated", "validate")
    for way in ordered:
        if way not in ways:
            continue
        out = folder / ("repeated" if way == "repeated" else "first")
        exported = other if way == "repeated" else checkpoint
        arguments = ("validate", out) if way == "validate" else ("export", exported.repo_id, "--out", out)
        cost = place.onnx_fleet(*arguments, store=store, log=f"{checkpoint.name}-{way}")
        written = 0 if way == "validate" else workplace.size_bytes(out)
        yield ExportRun(subject=checkpoint.name, way=way, turn=turn, cost=cost, written_bytes=written)
    place.fresh(folder.name)


def _peer(checkpoint: Checkpoint, turn: int, *, place: Workplace, ways: Sequence[Way]) -> Iterable[ExportRun]:
    ordered: tuple[Way, ...] = ("optimum", "optimum-unchecked")
    for way in ordered:
        if way in ways:
            out = place.fresh(f"peer-{checkpoint.name}") / "made"
            unchecked = way == "optimum-unchecked"
            cost = place.optimum(checkpoint, out, log=f"{checkpoint.name}-{way}", unchecked=unchecked)
            written = workplace.size_bytes(out)
            yield ExportRun(subject=checkpoint.name, way=way, turn=turn, cost=cost, written_bytes=written)
    place.fresh(f"peer-{checkpoint.name}")


def figures(result: ExportResult) -> str:
    """A table of medians, a row for every checkpoint and way."""
    rows = []
    for subject in result.subjects:
        for way in WAYS:
            if runs := result.of(subject.name, way):
                written = Spread.of(run.written_bytes for run in runs).median
                rows.append(
                    (
                        f"{subject.title} ({megabytes(subject.weight_bytes)} MB)",
                        WAY_TITLES[way],
                        f"{Spread.of(run.cost.wall_s for run in runs).median:.1f}",
                        f"{Spread.of(run.cost.cpu_s for run in runs).median:.1f}",
                        megabytes(Spread.of(run.cost.peak_bytes for run in runs).median),
                        megabytes(Spread.of(run.cost.peak_anonymous_bytes for run in runs).median),
                        megabytes(written) if written else "–",
                    )
                )
    header = ("checkpoint", "process", "wall s", "CPU s", "peak MB", "of which anonymous", "written MB")
    return table(header, rows, names=2)


def verdicts(result: ExportResult) -> str:
    """A table of ratios to optimum-cli, a row for every checkpoint and target."""
    rows = []
    for subject in result.subjects:
        peer = result.of(subject.name, "optimum")
        for target in TARGETS:
            ours = result.of(subject.name, target.way)
            if ours and peer:
                found = ratios(map(target.of, ours), map(target.of, peer))
                rows.append((subject.title, f"{target.way}: {target.what}", *judged(found, at_most=target.at_most)))
        if ours := result.of(subject.name, "first"):
            found = Spread.of(run.written_bytes / subject.weight_bytes for run in ours)
            rows.append((subject.title, "bytes by the checkpoint's weights", *judged(found, at_most=WRITTEN_AT_MOST)))
    return table(("checkpoint", "what", "least", "median", "most", "target", ""), rows, names=2)


def like_for_like(result: ExportResult) -> str:
    """A table of wall ratios where both sides do the same: export alone, and export with a validation."""
    rows = []
    for subject in result.subjects:
        first, repeated, validate, checked, unchecked = (
            [run.cost.wall_s for run in result.of(subject.name, way)] for way in WAYS
        )
        cells = []
        for ours in (first, repeated):
            cells.append(str(ratios(ours, unchecked)) if ours and unchecked else "–")
            proven = [made + proof for made, proof in zip(ours, validate, strict=False)]
            cells.append(str(ratios(proven, checked)) if proven and checked else "–")
        rows.append((subject.title, *cells))
    header = ("checkpoint", "first, neither validates", "first, both", "repeated, neither", "repeated, both")
    return table(header, rows)


def report(result: ExportResult) -> str:
    """Everything, for a terminal."""
    return "\n\n".join((figures(result), verdicts(result), like_for_like(result)))


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print, and keep the result."""
    parser = options.parser("export", __doc__, names="checkpoints")
    parser.add_argument("--runs", type=int, default=3, help="turns of each (default 3)")
    parser.add_argument("--growth", action="store_true", help="how cost grows with depth: 12, 30 and 60 layers")
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=None, help="only these")
    options.add_peer(parser)
    chosen = parser.parse_args(arguments)
    names = chosen.names or (checkpoints.GROWTH if chosen.growth else checkpoints.MAIN)
    ways = chosen.ways or (GROWTH_WAYS if chosen.growth else WAYS)
    with workplace.opened(chosen.folder, peer_venv=chosen.peer_venv) as place:
        result = measure(checkpoints.named(names), place=place, turns=chosen.runs, ways=ways)
        kept: Path = place.results / ("growth.json" if chosen.growth else "export.json")
        results.write(result, kept)
    print(f"\n{report(result)}\n\nkept in {kept}")


if __name__ == "__main__":
    main()

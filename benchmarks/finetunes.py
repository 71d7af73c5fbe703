"""A fleet of fine-tunes of one small architecture through one `onnx-fleet run`, and optimum-cli over a sample of them.

    python -m benchmarks.finetunes [--count 50] [--sample 3]

The run starts with an empty store, and resolves, exports, validates, measures and publishes every model. optimum-cli
exports and validates.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence

from benchmarks import checkpoints, machine, options, results, workplace
from benchmarks.checkpoints import Checkpoint
from benchmarks.processes import CommandFailed
from benchmarks.results import FleetResult, Spread
from benchmarks.tables import megabytes, table
from benchmarks.workplace import Workplace

COUNT = 50
SAMPLE = 3

_STEPS = ("export", "validate", "measure", "compare", "publish")

_CATALOGUE = """\
defaults:
  # As little as may be: a latency is no part of what is compared here.
  latency: {{batch_sizes: [1], sequence_lengths: [16], warmup_runs: 1, timed_runs: 2}}
models:
{models}
"""


def measure(
    fleet: Sequence[Checkpoint], *, place: Workplace, sample: int, say: Callable[[str], None] = print
) -> FleetResult:
    """Run the whole fleet once, then the peer over a few of it.

    Args:
        sample: how many models the peer exports; 0 leaves it out.
    Raises:
        CommandFailed: a run did not end well, or not every model was published.
    """
    facts = machine.facts(peer_python=options.require_peer(place.peer_venv) if sample else None)
    for checkpoint in fleet:
        folder = place.have(checkpoint)
    say(f"{len(fleet)} checkpoints are there; running")
    work = place.fresh("fleet")
    store, catalogue = work / "store", work / "catalogue.yaml"
    store.mkdir()
    models = "\n".join(f"  - {checkpoint.repo_id}" for checkpoint in fleet)
    catalogue.write_text(_CATALOGUE.format(models=models), encoding="utf-8")
    ours = place.onnx_fleet("run", "--catalogue", catalogue, "--json", store=store, log="fleet")
    seconds = _seconds(printed=(place.scratch / "logs" / "fleet.log").read_text(), expected=len(fleet))
    say(f"ours: {ours.wall_s:.1f} s for {len(fleet)}, {ours.wall_s / len(fleet):.2f} s each")
    store_bytes = workplace.size_bytes(store)
    place.fresh("fleet")
    peer, peer_bytes = [], []
    for checkpoint in fleet[:sample]:
        out = place.fresh("fleet-peer") / "made"
        peer.append(place.optimum(checkpoint, out, log="fleet-peer"))
        peer_bytes.append(workplace.size_bytes(out))
        say(f"optimum-cli: {peer[-1].wall_s:.1f} s")
    place.fresh("fleet-peer")
    return FleetResult(
        machine=facts,
        title=fleet[0].title,
        weight_bytes=checkpoints.weight_bytes(folder),
        ours=ours,
        seconds=seconds,
        store_bytes=store_bytes,
        peer=tuple(peer),
        peer_bytes=tuple(peer_bytes),
    )


def _seconds(*, printed: str, expected: int) -> tuple[Mapping[str, float], ...]:
    """Each model's steps, out of the report that the run printed."""
    records = json.loads(printed[printed.index("{") :])["records"]
    lost = [record["model_id"] for record in records if record["state"] != "published"]
    if lost or len(records) != expected:
        raise CommandFailed(f"{len(records)} of {expected} models have a record, and were not published: {lost}")
    return tuple(record["seconds"] for record in records)


def report(result: FleetResult) -> str:
    """A table of what one model costs, and one of our steps."""
    count = len(result.seconds)
    rows = [
        (
            f"onnx-fleet run, {count} models",
            f"{result.ours.wall_s / count:.2f}",
            f"{result.ours.cpu_s / count:.2f}",
            megabytes(result.ours.peak_bytes),
            f"{result.store_bytes / count / result.weight_bytes:.3f}",
            f"{result.ours.wall_s:.0f}",
        )
    ]
    if result.peer:
        wall_s = Spread.of(cost.wall_s for cost in result.peer).median
        rows.append(
            (
                f"optimum-cli in a loop, {len(result.peer)} of them",
                f"{wall_s:.2f}",
                f"{Spread.of(cost.cpu_s for cost in result.peer).median:.2f}",
                megabytes(max(cost.peak_bytes for cost in result.peer)),
                f"{Spread.of(result.peer_bytes).median / result.weight_bytes:.3f}",
                f"{wall_s * count:.0f} (for {count}, by the median)",
            )
        )
        rows.append(("ratio", f"{result.ours.wall_s / count / wall_s:.2f}", "", "", "", ""))
    header = ("", "wall s a model", "CPU s a model", "peak MB", "bytes by the weights", "wall s in all")
    steps = sorted(result.seconds[0], key=_STEPS.index)
    by_step = [
        (step, f"{result.seconds[0][step]:.2f}", *_cells(model[step] for model in result.seconds[1:])) for step in steps
    ]
    return "\n\n".join(
        (table(header, rows), table(("step", "first model, s", "the others: least", "median", "most"), by_step))
    )


def _cells(values: Iterable[float]) -> tuple[str, str, str]:
    listed = list(values)
    if not listed:
        return "–", "–", "–"
    found = Spread.of(listed)
    return f"{found.least:.2f}", f"{found.median:.2f}", f"{found.most:.2f}"


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print, and keep the result."""
    parser = options.parser("finetunes", __doc__)
    parser.add_argument("--count", type=int, default=COUNT, help=f"how many fine-tunes (default {COUNT})")
    parser.add_argument("--sample", type=int, default=SAMPLE, help=f"how many for optimum-cli (default {SAMPLE})")
    options.add_peer(parser)
    chosen = parser.parse_args(arguments)
    with workplace.opened(chosen.folder, peer_venv=chosen.peer_venv) as place:
        result = measure(checkpoints.fine_tunes(chosen.count), place=place, sample=chosen.sample)
        kept = place.results / "finetunes.json"
        results.write(result, kept)
    print(f"\n{report(result)}\n\nkept in {kept}")


if __name__ == "__main__":
    main()

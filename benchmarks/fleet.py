"""What the whole flow of a model costs beside optimum-cli: of one model of a real size, and of a fleet of fine-tunes.

    python -m benchmarks.fleet [--only flows|fleet] [--runs 2] [--count 50] [--sample 3]

Both sides have their default settings. `onnx-fleet run` resolves, exports, validates, measures and publishes;
optimum-cli exports and validates.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks import checkpoints, machine, options, results, workplace
from benchmarks.checkpoints import Checkpoint
from benchmarks.processes import CommandFailed, Cost
from benchmarks.results import STEPS, FleetResult, FlowResult, FlowRun, FlowWay, Spread, Subject, ratios
from benchmarks.tables import judged, megabytes, spread, table, verdict
from benchmarks.workplace import Workplace
from onnx_fleet.entities.variant import NAMES

MODEL = "bert"
"""The checkpoint that single flows are measured with."""
ALL: tuple[str, ...] = NAMES
FP32_ALONE = ("fp32",)
COUNT = 50
SAMPLE = 3

AT_MOST: Mapping[tuple[str, tuple[str, ...]], float] = {
    ("first", FP32_ALONE): 3,
    ("repeated", FP32_ALONE): 0.7,
    ("first", ALL): 8,
    ("repeated", ALL): 3,
}
"""The wall time by optimum-cli's that is to be reached, by the way and the precisions of a flow."""
THROUGHPUT_AT_LEAST = 8

_TITLES = {"first": "first of its kind", "repeated": "a fine-tune of it", "optimum": "optimum-cli export onnx"}


def memory_target(weight_bytes: int) -> float:
    """The most memory that a step may have, in bytes, by that of the float32 weights."""
    return 1.5 * weight_bytes + 0.7e9


def measure_flows(
    checkpoint: Checkpoint, *, place: Workplace, turns: int, say: Callable[[str], None] = print
) -> FlowResult:
    """Take one model and then a fine-tune of it through all steps, with one precision and with all; the peer in turn.

    Raises:
        CommandFailed: a run did not end well, or a model was not published.
    """
    facts = machine.facts(peer_python=options.require_peer(place.peer_venv))
    folder = place.have(checkpoint)
    place.have(checkpoint.sibling(1))
    subject = Subject(name=checkpoint.name, title=checkpoint.title, weight_bytes=checkpoints.weight_bytes(folder))
    runs = []
    for turn in range(turns):
        for side in (_flows, _peer) if turn % 2 == 0 else (_peer, _flows):
            for run in side(checkpoint, turn, place=place):
                runs.append(run)
                steps = ", ".join(f"{step} {seconds:.1f}" for step, seconds in run.seconds.items())
                say(f"{turn + 1}/{turns} {run.way:9} {'+'.join(run.variants):33} {run.cost.wall_s:7.1f} s  {steps}")
    return FlowResult(machine=facts, subject=subject, runs=tuple(runs))


def _flows(checkpoint: Checkpoint, turn: int, *, place: Workplace) -> Iterator[FlowRun]:
    for variants in (FP32_ALONE, ALL):
        work = place.fresh("flows")
        (work / "store").mkdir()
        models: tuple[tuple[FlowWay, Checkpoint], ...] = (("first", checkpoint), ("repeated", checkpoint.sibling(1)))
        for way, model in models:
            listed = f"  - {{repo_id: {model.repo_id}, variants: [{', '.join(variants)}]}}"
            cost, records = _run([listed], place=place, work=work, log=f"flow-{way}-{len(variants)}")
            yield FlowRun(
                way=way,
                variants=variants,
                turn=turn,
                cost=cost,
                seconds=records[0]["seconds"],
                memory_bytes=records[0]["memory_bytes"],
            )
    place.fresh("flows")


def _peer(checkpoint: Checkpoint, turn: int, *, place: Workplace) -> Iterator[FlowRun]:
    cost = place.optimum(checkpoint, place.fresh("flows-peer") / "made", log="flow-optimum")
    place.fresh("flows-peer")
    yield FlowRun(way="optimum", variants=FP32_ALONE, turn=turn, cost=cost)


def measure_fleet(
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
    (work / "store").mkdir()
    listed = [f"  - {checkpoint.repo_id}" for checkpoint in fleet]
    ours, records = _run(listed, place=place, work=work, log="fleet")
    say(f"ours: {ours.wall_s:.1f} s for {len(fleet)}, {ours.wall_s / len(fleet):.2f} s each")
    store_bytes = workplace.size_bytes(work / "store")
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
        seconds=tuple(record["seconds"] for record in records),
        store_bytes=store_bytes,
        peer=tuple(peer),
        peer_bytes=tuple(peer_bytes),
    )


def _run(listed: Sequence[str], *, place: Workplace, work: Path, log: str) -> tuple[Cost, list[dict[str, Any]]]:
    """Run a catalogue with the store of a folder, and return the records of its models in the order of the run."""
    catalogue = work / "catalogue.yaml"
    catalogue.write_text("\n".join(("models:", *listed, "")), encoding="utf-8")
    cost = place.onnx_fleet("run", "--catalogue", catalogue, "--json", store=work / "store", log=log)
    printed = (place.scratch / "logs" / f"{log}.log").read_text()
    records = json.loads(printed[printed.index("{") :])["records"]
    lost = [record["model_id"] for record in records if record["state"] != "published"]
    if lost or len(records) != len(listed):
        raise CommandFailed(f"{len(records)} of {len(listed)} models have a record, and were not published: {lost}")
    return cost, records


def flows_verdicts(result: FlowResult) -> str:
    """A table of wall ratios to optimum-cli's, and of the memory of the step that has the most."""
    rows = []
    peer = [run.cost.wall_s for run in result.of("optimum", FP32_ALONE)]
    for (way, variants), at_most in AT_MOST.items():
        ours = result.of(way, variants)
        if ours and peer:
            what = f"{_TITLES[way]}, {_precisions(variants)}: wall by optimum-cli's"
            found = ratios((run.cost.wall_s for run in ours), peer)
            rows.append((what, *judged(found, at_most=at_most)))
    allowed_gb = memory_target(result.subject.weight_bytes) / 1e9
    for way, variants in AT_MOST:
        if ours := result.of(way, variants):
            what = f"{_TITLES[way]}, {_precisions(variants)}: memory of a step, GB"
            found = Spread.of(max(run.memory_bytes.values()) / 1e9 for run in ours)
            rows.append((what, *judged(found, at_most=allowed_gb)))
    return table((result.subject.title, "least", "median", "most", "target", ""), rows)


def flows_figures(result: FlowResult) -> str:
    """A table of medians: what each flow takes in all, and the seconds and the memory of each of its steps."""
    steps = [step for step in STEPS if any(step in run.seconds for run in result.runs)]
    rows = []
    for way, variants in (*AT_MOST, ("optimum", FP32_ALONE)):
        if runs := result.of(way, variants):
            medians = (_step(runs, step) for step in steps)
            wall_s, cpu_s = (Spread.of(getattr(run.cost, name) for run in runs).median for name in ("wall_s", "cpu_s"))
            rows.append((_TITLES[way], _precisions(variants), f"{wall_s:.1f}", f"{cpu_s:.1f}", *medians))
    return table(("flow", "precisions", "wall s", "CPU s", *steps), rows, names=2)


def _step(runs: Sequence[FlowRun], step: str) -> str:
    if step not in runs[0].seconds:
        return "–"
    seconds = Spread.of(run.seconds[step] for run in runs).median
    return f"{seconds:.1f} ({max(run.memory_bytes[step] for run in runs) / 1e9:.1f})"


def _precisions(variants: Sequence[str]) -> str:
    return variants[0] if len(variants) == 1 else f"{len(variants)} precisions"


def fleet_report(result: FleetResult) -> str:
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
        throughput = wall_s * count / result.ours.wall_s
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
        judged = f"target >= {THROUGHPUT_AT_LEAST}: {verdict(met=throughput >= THROUGHPUT_AT_LEAST)}"
        rows.append(("throughput by optimum-cli's", f"{throughput:.2f}", "", "", "", judged))
    header = ("", "wall s a model", "CPU s a model", "peak MB", "bytes by the weights", "wall s in all")
    by_step = [
        (step, f"{result.seconds[0][step]:.2f}", *_cells([model[step] for model in result.seconds[1:]]))
        for step in STEPS
        if step in result.seconds[0]
    ]
    return "\n\n".join(
        (table(header, rows), table(("step", "first model, s", "the others: least", "median", "most"), by_step))
    )


def _cells(values: Sequence[float]) -> tuple[str, str, str]:
    return spread(Spread.of(values)) if values else ("–", "–", "–")


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print, and keep the results."""
    parser = options.parser("fleet", __doc__)
    parser.add_argument("--only", choices=("flows", "fleet"), help="only the flows of one model, or the fleet")
    parser.add_argument("--runs", type=int, default=2, help="turns of the flows (default 2)")
    parser.add_argument("--count", type=int, default=COUNT, help=f"how many fine-tunes (default {COUNT})")
    parser.add_argument("--sample", type=int, default=SAMPLE, help=f"how many for optimum-cli (default {SAMPLE})")
    options.add_peer(parser)
    chosen = parser.parse_args(arguments)
    with workplace.opened(chosen.folder, peer_venv=chosen.peer_venv) as place:
        if chosen.only != "fleet":
            flows = measure_flows(checkpoints.CHECKPOINTS[MODEL], place=place, turns=chosen.runs)
            results.write(flows, place.results / "flows.json")
            print(f"\n{flows_verdicts(flows)}\n\n{flows_figures(flows)}\n")
        if chosen.only != "flows":
            fleet = measure_fleet(checkpoints.fine_tunes(chosen.count), place=place, sample=chosen.sample)
            results.write(fleet, place.results / "fleet.json")
            print(f"\n{fleet_report(fleet)}\n")
        print(f"kept in {place.results}")


if __name__ == "__main__":
    main()

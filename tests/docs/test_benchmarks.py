"""The benchmarks: that they run what they say, and that the figures they print follow from what was measured.

No time is asserted, and the peer is not run. The loop that generates stands beside our own, in test_decoder.py and
test_seq2seq.py, where there are graphs to run it on.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from tokenizers import Tokenizer

from benchmarks import (
    checkpoints,
    export,
    fleet,
    flow_plot,
    growth_plot,
    page,
    results,
    scale,
    scale_plot,
    tables,
    vocabulary,
    workplace,
)
from benchmarks.checkpoints import CHECKPOINTS, Checkpoint
from benchmarks.processes import CommandFailed, Cost, measured
from benchmarks.results import (
    ExportResult,
    ExportRun,
    FleetResult,
    FlowResult,
    FlowRun,
    FlowWay,
    GenerateResult,
    GenerateRun,
    Machine,
    ScaleResult,
    ScaleRun,
    Scan,
    Spread,
    Subject,
    Way,
)
from benchmarks.workplace import Workplace
from onnx_fleet import jsonio

TINY = Checkpoint(
    name="tiny",
    title="a tiny BERT",
    model_class="BertForSequenceClassification",
    config={
        "vocab_size": 200,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "max_position_embeddings": 64,
        "initializer_range": 0.2,
        "pad_token_id": vocabulary.PAD_ID,
    },
    task="text-classification",
    peer_task="text-classification",
)

MACHINE = Machine(
    hardware={"cpu_model": "A CPU", "cores_usable": 2, "memory_bytes": 8_000_000_000, "system": "Linux 6"},
    load_average_1m=0.5,
    taken_at="2026-11-22 06:00",
    ours={"torch": "2"},
    peer={"optimum": "1"},
)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workplace]:
    """A workplace without a peer."""
    with workplace.opened(tmp_path_factory.mktemp("bench"), peer_venv=Path("no-peer")) as opened:
        yield opened


def _run(way: Way, *, turn: int = 0, wall_s: float = 1.0, peak: int = 1000, subject: str = "bert") -> ExportRun:
    cost = Cost(wall_s=wall_s, cpu_s=wall_s, peak_bytes=peak, peak_anonymous_bytes=peak // 2)
    return ExportRun(subject=subject, way=way, turn=turn, cost=cost, written_bytes=101 if way != "validate" else 0)


def _exports(*runs: ExportRun) -> ExportResult:
    subject = Subject(name="bert", title="BERT-base", weight_bytes=100)
    return ExportResult(machine=MACHINE, subjects=(subject,), runs=runs)


def _cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_a_tokenizer_has_as_many_tokens_as_the_model_and_reads_a_text(tmp_path: Path) -> None:
    vocabulary.write_tokenizer(tmp_path, size=5000, framed=True, max_length=512)
    tokenizer = Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    encoded = tokenizer.encode("hello there")

    assert tokenizer.get_vocab_size() == 5000
    assert (encoded.ids[0], encoded.ids[-1]) == (vocabulary.BEGIN_ID, vocabulary.END_ID)
    assert len(encoded.ids) < len("hello there")
    assert tokenizer.decode(encoded.ids) == "hello there"


def test_checkpoints_of_one_architecture_differ_in_their_weights_and_labels_alone(tmp_path: Path) -> None:
    one, other = (checkpoints.make(each, tmp_path) for each in checkpoints.fine_tunes(2, of=TINY))
    configs = [json.loads((folder / "config.json").read_bytes()) for folder in (one, other)]
    labels = [config.pop("id2label") for config in configs]
    for config in configs:
        config.pop("label2id")

    assert configs[0] == configs[1]
    assert labels[0] != labels[1]
    assert (one / "model.safetensors").read_bytes() != (other / "model.safetensors").read_bytes()
    assert (one / "tokenizer.json").read_bytes() == (other / "tokenizer.json").read_bytes()


def test_a_checkpoint_is_made_once_and_the_same_each_time(tmp_path: Path) -> None:
    folder = checkpoints.make(TINY, tmp_path / "one")
    made = (folder / "model.safetensors").stat()
    again = checkpoints.make(TINY, tmp_path / "one")
    elsewhere = checkpoints.make(TINY, tmp_path / "two")

    assert (again / "model.safetensors").stat().st_mtime_ns == made.st_mtime_ns
    assert (elsewhere / "model.safetensors").read_bytes() == (folder / "model.safetensors").read_bytes()
    assert checkpoints.weight_bytes(folder) == made.st_size


def test_every_group_of_checkpoints_names_ones_that_there_are() -> None:
    names = {*checkpoints.MAIN, *checkpoints.GROWTH, *checkpoints.GENERATING}
    assert names == set(CHECKPOINTS)
    assert all(CHECKPOINTS[name].generates for name in checkpoints.GENERATING)
    assert [CHECKPOINTS[name].layers for name in checkpoints.GROWTH] == [12, 30, 60]
    with pytest.raises(SystemExit, match="no checkpoint is called nowhere"):
        checkpoints.named(["bert", "nowhere"])


def test_a_process_is_measured_with_what_it_starts(tmp_path: Path) -> None:
    child = (
        "import time; held = bytearray(150_000_000); end = time.process_time() + 0.5\n"
        "while time.process_time() < end: pass"
    )
    parent = "import subprocess, sys; subprocess.run([sys.executable, '-c', sys.argv[1]], check=True); print('said')"
    cost = measured([sys.executable, "-c", parent, child], environment=os.environ, log=tmp_path / "log")

    assert cost.wall_s >= 0.5
    assert cost.cpu_s >= 0.5
    assert 150_000_000 <= cost.peak_anonymous_bytes < cost.peak_bytes < 300_000_000
    assert (tmp_path / "log").read_text() == "said\n"


def test_a_command_that_fails_is_no_figure(tmp_path: Path) -> None:
    with pytest.raises(CommandFailed, match=r"exit status 3(.|\n)*what happened"):
        measured(
            [sys.executable, "-c", "print('what happened'); raise SystemExit(3)"],
            environment=os.environ,
            log=tmp_path / "log",
        )


def test_our_side_exports_a_checkpoint_and_another_of_its_configuration(place: Workplace) -> None:
    said: list[str] = []
    found = export.measure([TINY], place=place, turns=1, ways=("first", "repeated"), say=said.append)

    assert [(run.way, run.turn) for run in found.runs] == [("first", 0), ("repeated", 0)]
    assert all(run.written_bytes > found.subjects[0].weight_bytes for run in found.runs)
    assert all(run.cost.peak_bytes > 50_000_000 for run in found.runs)
    assert len(said) == 2
    results.write(found, place.results / "export.json")
    assert results.read(ExportResult, place.results / "export.json") == found


def test_a_fleet_of_fine_tunes_goes_through_one_run(place: Workplace) -> None:
    found = fleet.measure_fleet(checkpoints.fine_tunes(1, of=TINY), place=place, sample=0, say=lambda _: None)

    assert [set(seconds) for seconds in found.seconds] == [{"export", "validate", "measure", "compare", "publish"}]
    assert found.store_bytes > found.weight_bytes
    assert found.peer == ()


def test_ratios_are_taken_within_a_turn() -> None:
    found = results.ratios([1.0, 4.0, 9.0], [2.0, 4.0, 3.0])
    assert (found.least, found.median, found.most) == (0.5, 1.0, 3.0)
    assert str(found) == "0.50 / 1.00 / 3.00"
    assert Spread.of([4.0, 1.0]).median == 2.5
    with pytest.raises(ValueError, match="shorter"):
        results.ratios([1.0, 2.0], [1.0])


def test_a_table_is_aligned_markdown() -> None:
    made = tables.table(("what", "s"), [("one", "1.0"), ("another", "10.0")])
    assert made.splitlines() == [
        "| what    |    s |",
        "| ------- | ---: |",
        "| one     |  1.0 |",
        "| another | 10.0 |",
    ]


def test_each_target_is_judged_by_its_median() -> None:
    peer = [_run("optimum", turn=turn, wall_s=10, peak=1000) for turn in range(3)]
    first = [_run("first", turn=turn, wall_s=wall_s, peak=390) for turn, wall_s in enumerate((9.0, 10.5, 30.0))]
    repeated = [_run("repeated", turn=turn, wall_s=wall_s, peak=160) for turn, wall_s in enumerate((0.9, 1.0, 1.5))]
    lines = export.verdicts(_exports(*peer, *first, *repeated)).splitlines()[2:]

    assert [_cells(line)[1:] for line in lines] == [
        ["repeated: wall", "0.09", "0.10", "0.15", "<= 0.1", "met"],
        ["repeated: peak memory", "0.16", "0.16", "0.16", "<= 0.15", "**missed**"],
        ["first: wall", "0.90", "1.05", "3.00", "<= 1", "**missed**"],
        ["first: peak memory", "0.39", "0.39", "0.39", "<= 0.4", "met"],
        ["bytes by the checkpoint's weights", "1.01", "1.01", "1.01", "<= 1.02", "met"],
    ]


def test_like_is_compared_with_like() -> None:
    found = _exports(
        _run("first", wall_s=6), _run("repeated", wall_s=2), _run("validate", wall_s=4),
        _run("optimum", wall_s=20), _run("optimum-unchecked", wall_s=12),
    )  # fmt: skip
    (line,) = export.like_for_like(found).splitlines()[2:]
    assert [cell.split(" / ")[1] for cell in _cells(line)[1:]] == ["0.50", "0.50", "0.17", "0.30"]


def test_ways_that_were_not_run_are_left_out() -> None:
    alone = _exports(_run("first", wall_s=6))
    assert export.figures(alone).count("\n") == 2
    assert "wall" not in export.verdicts(alone)
    assert _cells(export.like_for_like(alone).splitlines()[2])[1:] == ["–"] * 4


def test_the_page_shows_what_was_measured_and_marks_what_is_missed() -> None:
    turn = GenerateRun(
        subject="bert", turn=0, ours_tokens_per_s=9.0, peer_tokens_per_s=10.0, new_tokens=8, agreeing_tokens=8
    )
    generated = GenerateResult(machine=MACHINE, subjects=_exports().subjects, threads=2, prompt_tokens=4, runs=(turn,))
    made = page.page(
        exports=_exports(_run("first"), _run("optimum", wall_s=2)),
        growth=None,
        generated=generated,
        flows=None,
        fine_tunes=None,
        why="Because.",
    )

    assert "Not measured yet: `python -m benchmarks.fleet`." in made
    assert "2 of the rows above miss the target.\n\nBecause." in made
    assert "A CPU, 2 usable cores, 8 GB of memory" in made
    assert "optimum's: optimum 1" in made


def test_a_fleets_cost_is_told_by_model_beside_the_peers_throughput() -> None:
    cost = Cost(wall_s=30.0, cpu_s=20.0, peak_bytes=500_000_000, peak_anonymous_bytes=1)
    steps = {"export": 2.0, "validate": 3.0, "measure": 4.0, "compare": 0.0, "publish": 1.0}
    found = FleetResult(
        machine=MACHINE,
        title="BERT-mini",
        weight_bytes=100,
        ours=cost,
        seconds=(steps, {**steps, "export": 0.5}, {**steps, "export": 0.7}),
        store_bytes=309,
        peer=(replace(cost, wall_s=20.0),),
        peer_bytes=(104,),
    )
    lines = fleet.fleet_report(found).splitlines()

    assert _cells(lines[2]) == ["onnx-fleet run, 3 models", "10.00", "6.67", "500", "1.030", "30"]
    assert _cells(lines[4])[:2] == ["throughput by optimum-cli's", "2.00"]
    assert "**missed**" in lines[4]
    assert _cells(lines[-5]) == ["export", "2.00", "0.50", "0.60", "0.70"]
    assert jsonio.from_json(FleetResult, jsonio.to_json(found)) == found


def _flow(way: FlowWay, wall_s: float, *, memory: int = 0, variants: tuple[str, ...] = ("fp32",)) -> FlowRun:
    cost = Cost(wall_s=wall_s, cpu_s=wall_s, peak_bytes=1, peak_anonymous_bytes=1)
    steps = {} if way == "optimum" else {"validate": wall_s - 1}
    return FlowRun(
        way=way, variants=variants, turn=0, cost=cost, seconds=steps, memory_bytes=dict.fromkeys(steps, memory)
    )


@pytest.fixture
def flows() -> FlowResult:
    """A first flow and a fine-tune's with one precision, a first one with all, and the peer's."""
    runs = (
        _flow("first", 20.0, memory=2_100_000_000),
        _flow("repeated", 7.2, memory=2_300_000_000),
        _flow("first", 90.0, variants=fleet.ALL),
        _flow("optimum", 10.0),
    )
    subject = Subject(name="bert", title="BERT-base", weight_bytes=1_000_000_000)
    return FlowResult(machine=MACHINE, subject=subject, runs=runs)


def test_a_flow_is_held_to_its_targets_by_way_and_precisions(flows: FlowResult) -> None:
    rows = [_cells(line) for line in fleet.flows_verdicts(flows).splitlines()[2:]]
    assert [(row[0], row[2], row[-1]) for row in rows] == [
        ("first of its kind, fp32: wall by optimum-cli's", "2.00", "met"),
        ("a fine-tune of it, fp32: wall by optimum-cli's", "0.72", "**missed**"),
        ("first of its kind, 5 precisions: wall by optimum-cli's", "9.00", "**missed**"),
        ("first of its kind, fp32: memory of a step, GB", "2.10", "met"),
        ("a fine-tune of it, fp32: memory of a step, GB", "2.30", "**missed**"),
        ("first of its kind, 5 precisions: memory of a step, GB", "0.00", "met"),
    ]
    assert _cells(fleet.flows_figures(flows).splitlines()[2]) == [
        "first of its kind", "fp32", "20.0", "20.0", "19.0 (2.1)",
    ]  # fmt: skip
    assert jsonio.from_json(FlowResult, jsonio.to_json(flows)) == flows


def test_where_the_seconds_of_a_flow_go_is_drawn_the_same_each_time(flows: FlowResult, tmp_path: Path) -> None:
    for name in ("one.svg", "two.svg"):
        flow_plot.draw(flows, tmp_path / name)

    drawn = (tmp_path / "one.svg").read_text()
    assert all(said in drawn for said in ("first of its kind, 5 precisions", "optimum-cli, fp32", "validate", " 90 s"))
    assert (tmp_path / "one.svg").read_bytes() == (tmp_path / "two.svg").read_bytes()


def test_what_a_run_and_a_plan_take_is_told_for_a_model_and_drawn_the_same_each_time(tmp_path: Path) -> None:
    run = ScaleRun(scenario="cli", models=4, step_s=0.0, wall_s=10.0, cpu_s={"cli": 6.0}, peak_bytes={}, store_bytes=9)
    cost = _run("first").cost
    scan = Scan(models=2, first=cost, again=replace(cost, wall_s=0.5), hub_requests=3)
    result = ScaleResult(machine=MACHINE, runs=(run,), scans=(scan,))

    of_run, of_scan = scale.report(result).split("\n\n")
    assert _cells(of_run.splitlines()[2])[:4] == ["cli", "4", "2.50", "1.50"]
    assert _cells(of_scan.splitlines()[2])[:5] == ["2", "1.0", "0.5", "500", "1.5"]
    for name in ("one.svg", "two.svg"):
        scale_plot.draw(result, tmp_path / name)
    assert "cli (4)" in (tmp_path / "one.svg").read_text()
    assert (tmp_path / "one.svg").read_text() == (tmp_path / "two.svg").read_text()


def test_growth_is_drawn_the_same_each_time(tmp_path: Path) -> None:
    subjects = tuple(Subject(name=f"llama-{n}", title="Llama", weight_bytes=1, layers=n) for n in (30, 12))
    runs = tuple(_run("first", subject=subject.name, wall_s=3.0) for subject in subjects)
    for name in ("one.svg", "two.svg"):
        growth_plot.draw(ExportResult(machine=MACHINE, subjects=subjects, runs=runs), tmp_path / name)

    drawn = (tmp_path / "one.svg").read_text()
    assert drawn == (tmp_path / "two.svg").read_text()
    assert "onnx-fleet export, first" in drawn
    assert "optimum-cli" not in drawn

"""Gates: a version that is worse than the one in use is published, and its channel stays where it was."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from fixtures.exported import Exported
from fixtures.moved import BY, REASON
from fixtures.open_sessions import OpenSessions
from fixtures.stages import PROVENANCE
from fixtures.worse_stages import (
    Change,
    larger,
    next_version,
    slower,
    with_another_output_name,
    with_one_length,
    with_other_weights,
    with_subnormal_weights,
)
from onnx_fleet import jsonio
from onnx_fleet.bundles import bundle, channels, events
from onnx_fleet.bundles.publish import Publication
from onnx_fleet.bundles.stage import Stage
from onnx_fleet.entities.entry import Entry, Gates, LatencyGrid, Tolerances
from onnx_fleet.entities.latency_report import LatencyReport, TakenOver
from onnx_fleet.entities.regression_report import RegressionReport
from onnx_fleet.graphs import session
from onnx_fleet.measurement import io_contract, latency, latency_ratio, version_diff
from onnx_fleet.measurement.version_diff import DifferencesRequest, Side
from onnx_fleet.processes.isolation import Limits
from onnx_fleet.runs import pipeline, run_report, steps
from onnx_fleet.runs.record import Record
from onnx_fleet.runs.services import Services
from onnx_fleet.source.hub_client import Hub, HubSettings
from onnx_fleet.store import ObjectStore

BLOCK = Gates(policy="block")
GRID = LatencyGrid(batch_sizes=(1, 4), sequence_lengths=(8, 32), warmup_runs=3, timed_runs=50, threads=1, reuse="never")
"""With it, versions are timed beside each other also where their graphs are the same."""
NOW = datetime(2026, 11, 22, 9, 0, tzinfo=UTC)


@pytest.fixture(scope="module")
def timed(questions: Exported, tmp_path_factory: pytest.TempPathFactory) -> Exported:
    """A stage that was measured, so that it says at which sizes."""
    copied = questions.copy(tmp_path_factory.mktemp("timed"))
    copied.with_entry(lambda entry: replace(entry, latency=GRID, gates=BLOCK))
    latency.measure(copied.stage, source_dir=copied.source_dir, now=NOW)
    return copied


@pytest.fixture
def services(tmp_path: Path, local_store: ObjectStore) -> Services:
    limits = Limits(timeout_s=300)
    return Services(store=local_store, hub=Hub(HubSettings()), work_dir=tmp_path / "work", limits=limits)


@pytest.fixture
def in_use(timed: Exported, tmp_path: Path, services: Services) -> Publication:
    """The first version, which latest points at."""
    return published(next_version(timed.stage_dir, tmp_path / "in-use", digit="a"), services)


def published(stage_dir: Path, services: Services) -> Publication:
    return steps.publish(Stage.open(stage_dir), services=services, provenance=PROVENANCE)


def kept(stage_dir: Path) -> RegressionReport:
    return jsonio.parse(RegressionReport, (stage_dir / "reports" / "regression.json").read_bytes())


def latest(services: Services, done: Publication) -> str:
    return channels.read(services.store, done.model_id, "latest").version


def settled(stage_dir: Path, services: Services) -> Record:
    """What the next run makes of a version that is published."""
    [record] = pipeline.settle_unchanged([Stage.open(stage_dir).item], services=services, by=BY)
    return record


def test_a_first_version_is_compared_with_nothing(in_use: Publication, services: Services) -> None:
    assert (in_use.regression, in_use.held, latest(services, in_use)) == (None, False, in_use.version)


def test_an_equal_version_passes_and_takes_the_channel(
    timed: Exported, tmp_path: Path, services: Services, in_use: Publication
) -> None:
    stage_dir = next_version(timed.stage_dir, tmp_path / "next", digit="b")
    done = published(stage_dir, services)

    assert (done.held, latest(services, done)) == (False, done.version)
    report = kept(stage_dir)
    assert (report.verdict, report.status, report.alike) == ("passed", "compared", True)
    assert report.latencies_of == "", "each has figures of its own"
    assert report.compared_with == in_use.version
    assert {row.output for row in report.measured.outputs} == {"start_logits", "end_logits"}
    assert {row.case.partition(",")[0] for row in report.measured.outputs} == {
        "batch_size 2",
        "5 texts",
        "2 pairs of texts",
    }
    assert max(row.max_abs_diff or 0.0 for row in report.measured.outputs) == 0.0
    assert [(row.batch_size, row.sequence_length) for row in report.measured.latency] == [(1, 8), (4, 32)]
    for row in report.measured.latency:
        assert row.ratio_low <= row.ratio <= row.ratio_high
        assert (row.rounds, row.runs) == (latency_ratio.ROUNDS, 50)
    assert [size.ratio for size in report.measured.sizes] == [1.0]
    assert [ops.changed for ops in report.measured.ops] == [{}]
    assert not list(services.work_dir.rglob("*.onnx")), "the bundle in use is not left on the disk"


def test_a_slower_version_whose_figures_are_those_of_the_version_in_use_is_found_and_they_are_named(
    timed: Exported, tmp_path: Path, services: Services, in_use: Publication
) -> None:
    """Figures that were taken over cannot differ: the comparison times both versions, and says so."""
    stage_dir = next_version(timed.stage_dir, tmp_path / "next", digit="b", changes=[slower])
    stage = Stage.open(stage_dir)
    report = stage.read_report("latency", LatencyReport)
    assert report is not None
    taken = TakenOver(
        variant="fp32",
        model_id=in_use.model_id,
        version=in_use.version,
        measured_at=NOW,
        hardware=report.hardware,
        confirmations=(),
    )
    stage.write_report("latency", replace(report, taken_over=(taken,)))
    done = published(stage_dir, services)

    assert kept(stage_dir).latencies_of == f"{in_use.model_id}@{in_use.version}"
    assert (done.held, latest(services, done)) == (True, in_use.version)


def test_graphs_that_are_the_same_but_for_their_weights_are_not_timed(
    timed: Exported, tmp_path: Path, services: Services, in_use: Publication
) -> None:
    stage_dir = next_version(
        timed.stage_dir, tmp_path / "next", digit="b", entry=reusing, commit="b" * 40, changes=[with_other_weights]
    )
    done = published(stage_dir, services)

    report = kept(stage_dir)
    assert (report.status, report.reason, report.verdict) == ("compared", "", "passed")
    assert (report.measured.latency, report.measured.equal_graphs) == ((), ("onnx/model.onnx",))
    assert {row.max_abs_diff for row in report.measured.outputs} != {0.0}, "outputs are compared all the same"
    assert (done.held, latest(services, done)) == (False, done.version)


@pytest.mark.parametrize("change", [slower, with_subnormal_weights])
def test_graphs_that_differ_or_whose_values_matter_are_timed(
    timed: Exported, tmp_path: Path, services: Services, in_use: Publication, change: Change
) -> None:
    stage_dir = next_version(
        timed.stage_dir, tmp_path / "next", digit="b", entry=reusing, commit="b" * 40, changes=[change]
    )
    published(stage_dir, services)

    assert kept(stage_dir).measured.equal_graphs == ()
    assert len(kept(stage_dir).measured.latency) == 2


def reusing(entry: Entry) -> Entry:
    return replace(entry, latency=replace(entry.latency, reuse="same_graph"))


def test_a_slower_version_is_published_and_the_channel_stays(
    timed: Exported, tmp_path: Path, services: Services, in_use: Publication
) -> None:
    stage_dir = next_version(timed.stage_dir, tmp_path / "next", digit="b", changes=[slower])
    done = published(stage_dir, services)

    assert (done.state, done.held, latest(services, done)) == ("published", True, in_use.version)
    standing = bundle.find(f"{done.model_id}@{done.version}", store=services.store).manifest
    assert standing.regression == done.regression
    assert standing.regression is not None
    assert {finding.gate for finding in standing.regression.findings} == {"latency"}
    assert {file.path: file.role for file in standing.files}["reports/regression.json"] == "report"
    report = kept(stage_dir)
    assert {row.max_abs_diff for row in report.measured.outputs} == {0.0}, "the detour is exact"
    assert all(row.ratio_low > BLOCK.max_slowdown for row in report.measured.latency)
    told = [event for _, event in events.since(services.store)]
    published_to = {event.version: event.channel for event in told if event.kind == "published"}
    assert published_to == {in_use.version: "latest", done.version: None}
    [held] = (event for event in told if event.kind == "held")
    assert (held.version, held.channel, held.from_version) == (done.version, "latest", in_use.version)
    assert "held back by its gates" in held.why
    assert report.measured.ops[0].changed["MatMul"][1] - report.measured.ops[0].changed["MatMul"][0] == 200


def test_a_held_version_stays_held_until_a_person_moves_the_channel_or_a_newer_one_passes(
    timed: Exported, tmp_path: Path, services: Services, in_use: Publication
) -> None:
    stage_dir = next_version(timed.stage_dir, tmp_path / "held", digit="b", changes=[larger])
    held = published(stage_dir, services)
    for _ in range(2):
        again = settled(stage_dir, services)
        assert (again.state, again.compared_with) == ("held", in_use.version)
        assert f"onnx-fleet channel set {held.model_id} latest {held.version}" in again.message
        assert latest(services, held) == in_use.version
    assert published(stage_dir, services).held, "nor does publishing the same folder again move it"

    channels.move(services.store, held.model_id, "latest", held.version, reason=REASON, now=NOW)
    assert settled(stage_dir, services).state == "unchanged"
    assert latest(services, held) == held.version

    channels.move(services.store, held.model_id, "latest", in_use.version, reason=REASON, now=NOW)
    newer = published(next_version(timed.stage_dir, tmp_path / "newer", digit="c"), services)
    assert (newer.held, latest(services, newer)) == (False, newer.version)
    assert settled(stage_dir, services).state == "held", "a version that was held is not taken back to by a run"
    assert latest(services, newer) == newer.version


def test_a_person_who_holds_the_channel_is_not_told_of_a_held_version_at_every_run(
    timed: Exported, tmp_path: Path, services: Services, in_use: Publication
) -> None:
    stage_dir = next_version(timed.stage_dir, tmp_path / "held", digit="b", changes=[larger])
    published(stage_dir, services)
    channels.move(services.store, in_use.model_id, "latest", in_use.version, reason=REASON, now=NOW, held=True)
    assert (settled(stage_dir, services).state, latest(services, in_use)) == ("unchanged", in_use.version)


def test_a_held_version_fails_the_gate_of_its_run_and_the_report_says_why(
    timed: Exported, tmp_path: Path, services: Services, in_use: Publication
) -> None:
    stage_dir = next_version(timed.stage_dir, tmp_path / "held", digit="b", changes=[larger])
    published(stage_dir, services)
    ended = pipeline.record_of_bundle(Stage.open(stage_dir).item, services=services)
    made = run_report.build([ended], run_id="r", now=NOW)

    assert made.counts["held"] == 1
    assert run_report.gate(made).reason == f"1 model held back (allowed: 0): {in_use.model_id}"
    assert run_report.gate(made, max_failed=1).passed
    page = run_report.markdown(made)
    assert f"compared with {in_use.version}: size: fp32: graphs and weights are" in page
    assert f"onnx-fleet channel set {in_use.model_id} latest" in page


@pytest.mark.parametrize(
    ("policy", "held", "verdict"), [("block", True, "held"), ("warn", False, "warned"), ("off", False, "passed")]
)
def test_the_policy_says_what_a_larger_bundle_comes_to(
    timed: Exported, tmp_path: Path, services: Services, in_use: Publication, policy: str, held: bool, verdict: str
) -> None:
    wanted = Gates(policy=policy)  # type: ignore[arg-type]
    stage_dir = next_version(timed.stage_dir, tmp_path / "next", digit="b", gates=wanted, changes=[larger])
    done = published(stage_dir, services)
    assert (done.held, kept(stage_dir).verdict) == (held, verdict)
    assert latest(services, done) == (in_use.version if held else done.version)


@pytest.mark.parametrize(("breaking", "held"), [("block", True), ("warn", False)])
def test_a_renamed_output_is_called_out_whatever_the_policy(
    timed: Exported, tmp_path: Path, services: Services, in_use: Publication, breaking: str, held: bool
) -> None:
    wanted = Gates(policy="off", breaking=breaking)  # type: ignore[arg-type]
    changes = [with_another_output_name]
    stage_dir = next_version(timed.stage_dir, tmp_path / "next", digit="b", gates=wanted, changes=changes)
    done = published(stage_dir, services)

    assert done.held == held
    assert done.regression is not None
    (finding,) = done.regression.findings
    assert finding.gate == "contract"
    assert "output start_logits is gone" in finding.message
    assert kept(stage_dir).status == "contract_only"


def test_other_weights_under_the_same_commit_are_held(
    timed: Exported, tmp_path: Path, services: Services, in_use: Publication
) -> None:
    stage_dir = next_version(timed.stage_dir, tmp_path / "next", digit="b", changes=[with_other_weights])
    done = published(stage_dir, services)
    assert done.held
    assert [finding.gate for finding in kept(stage_dir).findings] == ["outputs", "outputs"]
    assert "start_logits differs from the version in use by up to 1.0e-02" in kept(stage_dir).findings[0].message


def test_other_weights_of_another_commit_are_reported_and_hold_nothing(
    timed: Exported, tmp_path: Path, services: Services, in_use: Publication
) -> None:
    stage_dir = next_version(
        timed.stage_dir, tmp_path / "next", digit="b", commit="f" * 40, changes=[with_other_weights]
    )
    done = published(stage_dir, services)
    report = kept(stage_dir)
    assert (done.held, report.verdict, report.alike) == (False, "passed", False)
    assert max(row.max_abs_diff or 0.0 for row in report.measured.outputs) == pytest.approx(0.01, rel=1e-3)


def test_a_corrupt_bundle_in_use_is_said_and_stops_nothing(
    timed: Exported, tmp_path: Path, services: Services, in_use: Publication
) -> None:
    graph = Path(in_use.location) / "onnx" / "model.onnx"
    graph.chmod(0o644)
    graph.write_bytes(graph.read_bytes()[:-1] + b"\x00")
    stage_dir = next_version(timed.stage_dir, tmp_path / "next", digit="b")
    done = published(stage_dir, services)

    assert (done.state, done.held, latest(services, done)) == ("published", False, done.version)
    (finding,) = kept(stage_dir).findings
    assert (finding.gate, finding.holds) == ("comparison", False)
    assert "the version in use cannot be run" in finding.message


def test_a_version_in_use_that_takes_less_is_compared_as_far_as_it_goes(
    timed: Exported, tmp_path: Path, services: Services
) -> None:
    published(next_version(timed.stage_dir, tmp_path / "in-use", digit="a", changes=[with_one_length]), services)
    stage_dir = next_version(timed.stage_dir, tmp_path / "next", digit="b")
    assert not published(stage_dir, services).held
    report = kept(stage_dir)
    assert {row.finding for row in report.measured.outputs if row.check == "drift"} == {"equal"}
    assert [finding.gate for finding in report.findings] == ["comparison"]
    assert "the version in use does not run here" in report.findings[0].message


def test_a_bundle_in_use_without_its_manifest_is_said_and_stops_nothing(
    timed: Exported, tmp_path: Path, services: Services, in_use: Publication
) -> None:
    (Path(in_use.location) / "manifest.json").unlink()
    stage_dir = next_version(timed.stage_dir, tmp_path / "next", digit="b")
    assert not published(stage_dir, services).held
    assert kept(stage_dir).status == "not_compared"
    assert kept(stage_dir).verdict == "warned"


def test_a_comparison_that_breaks_off_holds_the_channel_where_the_policy_is_to_block(
    timed: Exported, tmp_path: Path, services: Services, in_use: Publication
) -> None:
    hurried = replace(services, limits=Limits(timeout_s=0.2))
    stage_dir = next_version(timed.stage_dir, tmp_path / "next", digit="b")
    done = published(stage_dir, hurried)
    assert done.held
    assert "StepTimedOut" in kept(stage_dir).findings[0].message

    lenient = next_version(timed.stage_dir, tmp_path / "lenient", digit="c", gates=Gates())
    assert not published(lenient, hurried).held


def test_a_stage_is_compared_with_what_the_channel_points_at_when_it_is_published(
    timed: Exported, tmp_path: Path, services: Services, in_use: Publication
) -> None:
    stage_dir = next_version(timed.stage_dir, tmp_path / "next", digit="b")
    steps.compare(Stage.open(stage_dir), services=services)
    other = published(next_version(timed.stage_dir, tmp_path / "other", digit="c"), services)
    done = published(stage_dir, services)
    assert done.regression is not None
    assert done.regression.compared_with == other.version


def test_torch_is_never_imported_to_compare(timed: Exported, tmp_path: Path) -> None:
    stage_dir = next_version(timed.stage_dir, tmp_path / "next", digit="b")
    sides = [Side(folder=each, graphs=Stage.open(each).read_export().graphs) for each in (timed.stage_dir, stage_dir)]
    grid = replace(GRID, timed_runs=2)
    request = DifferencesRequest(old=sides[0], new=sides[1], tolerances=Tolerances(), grid=grid)
    code = (
        "import sys; from onnx_fleet import jsonio; "
        "from onnx_fleet.measurement import version_diff; "
        "version_diff.find(jsonio.parse(version_diff.DifferencesRequest, sys.argv[1])); "
        "print('torch' in sys.modules)"
    )
    asked = json.dumps(jsonio.to_json(request))
    done = subprocess.run([sys.executable, "-c", code, asked], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


def test_each_version_is_in_memory_once(timed: Exported, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each round has sessions of its own: beside those of the round before, a model would need its size four times."""
    stage_dir = next_version(timed.stage_dir, tmp_path / "next", digit="b")
    sides = [Side(folder=each, graphs=Stage.open(each).read_export().graphs) for each in (timed.stage_dir, stage_dir)]
    grid = replace(GRID, timed_runs=2)
    sessions = OpenSessions(session, monkeypatch)
    version_diff.find(DifferencesRequest(old=sides[0], new=sides[1], tolerances=Tolerances(), grid=grid))

    assert len(sessions.opened) == 2 * (1 + latency_ratio.ROUNDS), "for the outputs, and for each round"
    assert sessions.most == 2


@pytest.mark.parametrize(
    ("model", "phases"),
    [("gpt2", {"prompt", "step"}), ("t5", {"encode", "prompt", "step"}), ("patches", {"forward"})],
)
def test_graphs_of_every_kind_equal_themselves(
    model: str, phases: set[str], request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    made: Exported = request.getfixturevalue(model).copy(tmp_path)
    small = LatencyGrid(batch_sizes=(1,), sequence_lengths=(4,), warmup_runs=1, timed_runs=2, threads=1, reuse="never")
    made.with_entry(lambda entry: replace(entry, latency=small))
    latency.measure(made.stage, source_dir=made.source_dir, now=NOW)
    side = Side(folder=made.stage_dir, graphs=made.stage.read_export().graphs)
    found = version_diff.find(DifferencesRequest(old=side, new=side, tolerances=Tolerances(), grid=small))

    assert {row.finding for row in found.outputs} == {"equal"}
    assert {row.phase for row in found.latency} == phases
    assert {row.output for row in found.outputs} == {spec.name for info in side.graphs for spec in info.outputs}
    assert io_contract.changes(side.graphs, side.graphs) == ()

"""Two fine-tunes of one architecture: the second takes over the latencies of the first, once they are confirmed."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from threading import Barrier

import pytest

from fixtures.exported import Exported
from fixtures.fine_tuned import TASK, fine_tuned
from fixtures.kept_latency import confirmed_by_any_call
from onnx_fleet.bundles import report_summaries
from onnx_fleet.bundles.kept_documents import LATENCIES
from onnx_fleet.bundles.stage import Stage
from onnx_fleet.cli.tables import show_latency
from onnx_fleet.entities.entry import Entry, LatencyGrid
from onnx_fleet.entities.kept_latency import KeptLatency
from onnx_fleet.entities.latency_report import LatencyReport, Noise
from onnx_fleet.measurement import latency_key, reuse
from onnx_fleet.measurement.confirmation import allowed_ratio
from onnx_fleet.processes.machine_lock import Machine
from onnx_fleet.runs import measuring
from onnx_fleet.runs.services import Services
from onnx_fleet.store.local import LocalStore

GRID = LatencyGrid(batch_sizes=(1, 2), sequence_lengths=(8,), warmup_runs=1, timed_runs=12, threads=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """Two fine-tunes, measured one after the other, and the store that both were measured with."""

    services: Services
    first: Stage
    first_report: LatencyReport
    second: Stage
    second_report: LatencyReport

    def copy(self, folder: Path, **grid: object) -> tuple[Stage, Services]:
        """The second model's stage, and the store, to be changed.

        Args:
            grid: other settings of its entry's ``latency``.
        """
        copied, item = Path(shutil.copytree(self.second.folder, folder / "stage")), self.second.item
        entry = replace(item.model.entry, latency=replace(GRID, **grid))  # type: ignore[arg-type]
        store = Path(shutil.copytree(self.services.work_dir.parent / "store", folder / "store"))
        stage = Stage.make(copied, replace(item, model=replace(item.model, entry=entry)))
        return stage, replace(self.services, store=LocalStore(store))


def kept_of(stage: Stage, services: Services) -> KeptLatency:
    """What the store keeps for a stage's only variant."""
    (found,) = LATENCIES.find(latency_key.of_variants(stage).values(), store=services.store)
    return found


@pytest.fixture(scope="module")
def pair(questions: Exported, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    """Through the real steps; whatever the second one's calls take confirms the figures."""
    entry = Entry(repo_id="", task=TASK, latency=GRID)
    with fine_tuned(questions, tmp_path_factory.mktemp("pair"), entry=entry) as made:
        first_report = measuring.measure(made.first, services=made.services)
        kept = kept_of(made.first, made.services)
        assert kept.rows == first_report.rows
        LATENCIES.keep(confirmed_by_any_call(kept), store=made.services.store)
        second_report = measuring.measure(made.second, services=made.services)
        yield Pair(
            services=made.services,
            first=made.first,
            first_report=first_report,
            second=made.second,
            second_report=second_report,
        )


# Through the real steps


def test_the_first_of_its_kind_is_measured_and_kept(pair: Pair) -> None:
    assert (pair.first_report.status, pair.first_report.taken_over) == ("measured", ())
    kept = kept_of(pair.first, pair.services)
    assert (kept.model_id, kept.measured_at) == ("acme/one", pair.first_report.measured_at)
    assert pair.second.read_export().traced == "cached", "the second has the first one's graphs"


def test_the_second_takes_the_figures_over_and_names_the_first(pair: Pair) -> None:
    report = pair.second_report
    (taken,) = report.taken_over

    assert (taken.variant, taken.model_id, taken.version) == ("fp32", "acme/one", pair.first.item.version)
    assert taken.measured_at == pair.first_report.measured_at
    assert taken.hardware["cpu_model"] == report.hardware["cpu_model"]
    assert (report.model_id, report.rows, report.footprints) == (
        "beta/two", kept_of(pair.first, pair.services).rows, pair.first_report.footprints,
    )  # fmt: skip
    assert {(row.batch_size, row.agrees) for row in taken.confirmations} == {(1, True), (2, True)}
    assert kept_of(pair.second, pair.services).model_id == "acme/one", "what is taken over is not kept as its own"


def test_picture_terminal_and_manifest_say_whose_figures_they_are(
    pair: Pair, capsys: pytest.CaptureFixture[str]
) -> None:
    origin = f"acme/one@{pair.first.item.version}"

    assert origin in (pair.second.folder / "reports" / "latency.svg").read_text()
    assert "taken over" not in (pair.first.folder / "reports" / "latency.svg").read_text()
    show_latency(pair.second_report)
    said = capsys.readouterr()
    assert f"fp32: taken over from {origin}" in " ".join((said.out + said.err).split())
    (sealed,) = report_summaries.latency(pair.second)
    assert sealed.taken_over == pair.second_report.taken_over


def test_figures_that_a_few_calls_contradict_are_measured_anew_and_replaced(pair: Pair, tmp_path: Path) -> None:
    stage, services = pair.copy(tmp_path)
    kept = kept_of(stage, services)
    wrong = replace(
        kept,
        rows=tuple(
            replace(row, latency_ms_p50=row.latency_ms_p50 / 10, latency_ms_p50_interval=None) for row in kept.rows
        ),
        noise=None,  # figures of a quiet machine would stay, where this one is noisy now
    )
    LATENCIES.keep(wrong, store=services.store)

    report = measuring.measure(stage, services=services)

    assert report.taken_over == ()
    (anew,) = report.measured_anew
    assert anew.reason.startswith(f"the figures of acme/one@{kept.version}, measured on")
    assert "were not confirmed: onnx/model.onnx at batch 1 × 8 tokens took" in anew.reason
    assert not all(row.agrees for row in anew.confirmations)
    assert report.rows != wrong.rows
    assert all(
        row.torch_latency_ms_p50 != old.torch_latency_ms_p50 for row, old in zip(report.rows, kept.rows, strict=True)
    )
    assert kept_of(stage, services).model_id == "beta/two"


def test_figures_that_are_too_old_are_measured_anew_and_replaced(pair: Pair, tmp_path: Path) -> None:
    stage, services = pair.copy(tmp_path, max_age_days=7)
    kept = kept_of(stage, services)
    LATENCIES.keep(replace(kept, measured_at=kept.measured_at - timedelta(days=8)), store=services.store)

    report = measuring.measure(stage, services=services)

    assert (report.taken_over, [each.confirmations for each in report.measured_anew]) == ((), [()])
    assert report.measured_anew[0].reason.endswith("are more than 7 days old")
    assert kept_of(stage, services).model_id == "beta/two"


@pytest.mark.parametrize("asked_by", ["the command", "force"])
def test_a_measurement_that_somebody_asks_for_is_made_and_kept(pair: Pair, tmp_path: Path, asked_by: str) -> None:
    stage, services = pair.copy(tmp_path)
    if asked_by == "force":
        stage = Stage.make(stage.folder, replace(stage.item, rebuild="as asked"))

    report = measuring.measure(stage, services=services, anew=asked_by == "the command")

    assert (report.taken_over, report.measured_anew) == ((), ())
    assert kept_of(stage, services).model_id == "beta/two"


def test_an_entry_that_says_never_has_figures_of_its_own_and_keeps_none(pair: Pair, tmp_path: Path) -> None:
    stage, services = pair.copy(tmp_path, reuse="never")
    before = {info.key: info.etag for info in services.store.list("latencies/")}

    report = measuring.measure(stage, services=services)

    assert (report.status, report.taken_over, report.measured_anew) == ("measured", (), ())
    assert {info.key: info.etag for info in services.store.list("latencies/")} == before


def test_models_alike_that_are_to_be_measured_at_the_same_time_are_measured_once(pair: Pair, tmp_path: Path) -> None:
    """The first one of a fleet has kept nothing yet when the second one begins."""
    second, services = pair.copy(tmp_path)
    first = Stage.make(Path(shutil.copytree(pair.first.folder, tmp_path / "first")), pair.first.item)
    shutil.rmtree(tmp_path / "store" / "latencies")
    both = Barrier(2, timeout=60)

    class Meeting(Machine):
        def turn(self, name: str) -> AbstractContextManager[None]:
            both.wait()
            return super().turn(name)

    def measured(stage: Stage) -> LatencyReport:
        return measuring.measure(stage, services=services, machine=Meeting(tmp_path))

    with ThreadPoolExecutor(2) as pool:
        reports = list(pool.map(measured, (first, second)))

    found_figures = [bool(report.taken_over or report.measured_anew) for report in reports]
    assert sorted(found_figures) == [False, True]


# What figures are of


@pytest.mark.parametrize(
    "differing",
    [
        {"batch_sizes": (1, 4)},
        {"sequence_lengths": (9,)},
        {"threads": 2},
        {"timed_runs": 13},
        {"warmup_runs": 2},
        {"io_binding": True},
    ],
    ids=lambda differing: next(iter(differing)),
)
def test_other_points_threads_or_runs_are_another_measurement(
    pair: Pair, tmp_path: Path, differing: dict[str, object]
) -> None:
    stage, _ = pair.copy(tmp_path, **differing)

    assert latency_key.of_variants(stage)["fp32"] != latency_key.of_variants(pair.second)["fp32"]


def test_weights_and_the_age_that_is_allowed_make_no_other_measurement(pair: Pair, tmp_path: Path) -> None:
    stage, _ = pair.copy(tmp_path, max_age_days=2)

    assert latency_key.of_variants(stage) == latency_key.of_variants(pair.first)


def test_another_runtime_is_another_measurement(pair: Pair, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A version as the installer writes it, in a folder that is looked into first."""
    before = latency_key.of_variants(pair.second)
    told = tmp_path / "site" / "onnxruntime-99.0.dist-info" / "METADATA"
    told.parent.mkdir(parents=True)
    told.write_text("Metadata-Version: 2.1\nName: onnxruntime\nVersion: 99.0\n")
    monkeypatch.syspath_prepend(tmp_path / "site")

    assert latency_key.of_variants(pair.second)["fp32"] != before["fp32"]


def test_another_variant_is_another_measurement(pair: Pair, tmp_path: Path) -> None:
    stage, _ = pair.copy(tmp_path)
    record = stage.read_export()
    (graph,) = record.graphs
    shutil.copy(stage.folder / graph.path, stage.folder / "onnx" / "model_fp16.onnx")
    stage.write_export(replace(record, graphs=(graph, replace(graph, variant="fp16", path="onnx/model_fp16.onnx"))))
    keys = latency_key.of_variants(stage)

    assert keys["fp32"] == latency_key.of_variants(pair.first)["fp32"]
    assert keys["fp16"] != keys["fp32"]


def test_a_folder_that_was_changed_by_hand_has_figures_of_its_own(pair: Pair, tmp_path: Path) -> None:
    stage, _ = pair.copy(tmp_path)
    later = time.time() + 10
    os.utime(stage.folder / "onnx" / "model.onnx", (later, later))

    assert latency_key.of_variants(stage) == {}


def test_graphs_that_no_key_tells_have_figures_of_their_own(pair: Pair, tmp_path: Path) -> None:
    stage, _ = pair.copy(tmp_path)
    stage.write_export(replace(stage.read_export(), graph_key=None))

    assert latency_key.of_variants(stage) == {}


# What is kept, and how much may differ


def noise(verdict: str, *, spread: float = 0.1, waiting: float = 0.0) -> Noise:
    return Noise(
        verdict=verdict,  # type: ignore[arg-type]
        reason="",
        spread=spread,
        waiting_share=waiting,
        kernel_ms_fastest=4.0,
        kernel_runs=3,
        threads=1,
    )


def test_figures_of_a_model_whose_values_matter_are_not_kept(pair: Pair) -> None:
    report = replace(pair.first_report, values_matter="it is a mixture of experts")

    assert list(reuse.to_keep(report, keys={"fp32": "a" * 64})) == []


def test_a_noisy_machine_that_contradicts_a_quiet_one_replaces_nothing(pair: Pair, tmp_path: Path) -> None:
    kept = kept_of(pair.first, pair.services)
    (taken,) = pair.second_report.taken_over
    anew = reuse.MeasuredAnew(variant="fp32", reason="not confirmed", confirmations=taken.confirmations)
    report = replace(pair.first_report, measured_anew=(anew,), noise=noise("noisy"))
    keys = {"fp32": kept.key}

    assert list(reuse.to_keep(report, keys=keys, standing=[replace(kept, noise=noise("quiet"))])) == []
    assert len(list(reuse.to_keep(report, keys=keys, standing=[replace(kept, noise=noise("noisy"))]))) == 1


def test_as_much_may_differ_as_the_noise_then_and_now_explains() -> None:
    assert allowed_ratio([None, None]) == pytest.approx(1.25)
    assert allowed_ratio([noise("quiet"), noise("noisy", spread=0.6)]) == pytest.approx(1.6)
    assert allowed_ratio([noise("noisy", waiting=0.2), None]) == pytest.approx(1.25 / 0.8)
    assert allowed_ratio([noise("noisy", spread=9.0, waiting=0.9)]) == pytest.approx(4.0)

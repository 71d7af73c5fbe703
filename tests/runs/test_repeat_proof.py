"""A fine-tune rests on the whole proof of the first model with its graphs, and is compared in part."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path

import pytest
from safetensors.numpy import load_file

from fixtures.exported import Exported
from fixtures.fine_tuned import TASK, FineTuned, fine_tuned
from onnx_fleet.bundles import report_summaries
from onnx_fleet.bundles.kept_documents import PROOFS
from onnx_fleet.bundles.stage import Stage
from onnx_fleet.cli.tables import show_validation
from onnx_fleet.entities.entry import Entry, ProofExtent
from onnx_fleet.entities.kept_proof import KeptProof
from onnx_fleet.entities.validation_report import ValidationReport
from onnx_fleet.runs import proving
from onnx_fleet.runs.services import Services
from onnx_fleet.source import download
from onnx_fleet.store.local import LocalStore
from onnx_fleet.validation import proof_key
from onnx_fleet.validation.checks import CHECKS

ONCE = {check.name for check in CHECKS["encoder"] if check.once}


@dataclass(frozen=True, slots=True, kw_only=True)
class Proven:
    """Two fine-tunes, proven one after the other."""

    made: FineTuned
    first_report: ValidationReport
    second_report: ValidationReport

    def copy(self, folder: Path, *, proof: ProofExtent = "repeat") -> tuple[Stage, Services]:
        """The second model's stage, and the store, to be changed."""
        copied, item = Path(shutil.copytree(self.made.second.folder, folder / "stage")), self.made.second.item
        entry = replace(item.model.entry, proof=proof)
        services = self.made.services
        store = Path(shutil.copytree(services.work_dir.parent / "store", folder / "store"))
        stage = Stage.make(copied, replace(item, model=replace(item.model, entry=entry)))
        return stage, replace(services, store=LocalStore(store))


def kept_of(stage: Stage, services: Services) -> KeptProof:
    """What the store keeps for a stage's graphs."""
    key = proof_key.of_stage(stage, source_dir=download.download(stage.item.model, hub=services.hub))
    assert key is not None
    (found,) = PROOFS.find([key], store=services.store)
    return found


@pytest.fixture(scope="module")
def proven(questions: Exported, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proven]:
    """Through the real steps."""
    with fine_tuned(questions, tmp_path_factory.mktemp("proven"), entry=Entry(repo_id="", task=TASK)) as made:
        first = proving.validate_graphs(made.first, services=made.services)
        second = proving.validate_graphs(made.second, services=made.services)
        yield Proven(made=made, first_report=first, second_report=second)


def test_the_first_of_its_kind_is_compared_whole_and_kept(proven: Proven) -> None:
    report = proven.first_report

    assert (report.status, report.rests_on, report.why_full) == ("passed", None, "")
    assert {row.check for row in report.rows} >= ONCE
    assert kept_of(proven.made.first, proven.made.services).report == report


def test_the_second_repeats_in_part_and_names_the_first(proven: Proven) -> None:
    report, first = proven.second_report, proven.first_report
    assert report.passed
    assert report.rests_on is not None

    assert (report.rests_on.model_id, report.rests_on.version) == ("acme/one", first.version)
    assert report.rests_on.comparisons == len(first.rows)
    checks = {row.check for row in report.rows}
    assert checks.isdisjoint(ONCE)
    assert checks == {row.check for row in first.rows} - ONCE, "whatever the weights and the files decide is asked"
    assert kept_of(proven.made.second, proven.made.services).report == first, "what is repeated is not kept"


def test_terminal_and_manifest_say_what_it_rests_on(proven: Proven, capsys: pytest.CaptureFixture[str]) -> None:
    show_validation(proven.second_report)
    said = " ".join(capsys.readouterr().err.split())
    assert f"rests on the whole proof of acme/one@{proven.first_report.version}" in said

    sealed = report_summaries.validation(proven.made.second)
    assert [provider.rests_on for provider in sealed.providers] == [proven.second_report.rests_on]
    assert "rests on" in (proven.made.second.folder / "reports" / "validation.svg").read_text()


def test_the_catalogue_switches_it_off(proven: Proven, tmp_path: Path) -> None:
    stage, services = proven.copy(tmp_path, proof="full")

    report = proving.validate_graphs(stage, services=services)

    assert (report.rests_on, report.why_full) == (None, "its entry says proof: full")
    assert {row.check for row in report.rows} >= ONCE
    assert kept_of(stage, services).report == report


def test_a_whole_proof_is_taken_again_after_a_week(proven: Proven, tmp_path: Path) -> None:
    stage, services = proven.copy(tmp_path)
    kept = kept_of(stage, services)
    PROOFS.keep(replace(kept, proven_at=kept.proven_at - timedelta(days=8)), store=services.store)

    report = proving.validate_graphs(stage, services=services)

    assert report.rests_on is None
    assert "more than 7 days old" in report.why_full
    assert kept_of(stage, services).report == report


def test_where_the_repeat_finds_a_fault_everything_is_compared(proven: Proven, tmp_path: Path) -> None:
    """The source has another tensor than the bundle: both proofs see it, and the whole one is the report."""
    stage, services = proven.copy(tmp_path)
    source = download.download(stage.item.model, hub=services.hub) / "model.safetensors"
    weights = load_file(source)
    data = stage.folder / "onnx" / "model.onnx_data"
    broken = data if data.exists() else stage.folder / "onnx" / "model.onnx"
    assert weights
    _flip_a_bit(broken, of=weights["bert.encoder.layer.0.attention.self.query.weight"].tobytes())

    report = proving.validate_graphs(stage, services=services)

    assert not report.passed
    assert report.rests_on is None
    assert "repeated with these weights, failed" in report.why_full
    assert "weights" in {row.check for row in report.rows if not row.passed}


def _flip_a_bit(path: Path, *, of: bytes) -> None:
    """Flip one bit in a tensor of a file, whose time stays as it was: a disk does not say when it fails."""
    import os

    data, before = bytearray(path.read_bytes()), path.stat()
    data[data.index(of) + 3] ^= 1
    path.unlink()  # it may be a link to the source's own file
    path.write_bytes(data)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def test_one_in_twenty_is_compared_whole() -> None:
    """By the model's id and version alone, so that every worker decides alike."""
    names = [f"acme/model-{number}@0123abcd-4567ef01" for number in range(2000)]

    assert 70 <= sum(map(proving.is_sampled, names)) <= 130

"""The proof of encoders: sound graphs pass, and the report says what was compared. test_mutations.py breaks them."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import onnxruntime
import pytest

from fixtures.exported import Exported
from mutations import encoder
from mutations.mutation import change_graph
from onnx_fleet import jsonio
from onnx_fleet.bundles.stage import Stage
from onnx_fleet.entities import validation_report
from onnx_fleet.entities.entry import Tolerances
from onnx_fleet.entities.validation_report import CheckRow, ValidationReport
from onnx_fleet.errors import BundleNotFound, ExportUnsupported, GpuUnavailable, ValidationFailed
from onnx_fleet.graphs import session
from onnx_fleet.source import reference
from onnx_fleet.validation import validator
from onnx_fleet.validation.checks import CHECKS, CheckContext, tokenized_texts
from onnx_fleet.validation.checks.predictions import SINGLE


def validate(exported: Exported, *, provider: str = "cpu") -> ValidationReport:
    return validator.validate(exported.stage, source_dir=exported.source_dir, provider=provider)


def rows_of(report: ValidationReport, check: str) -> list[CheckRow]:
    return [row for row in report.rows if row.check == check]


@pytest.fixture(scope="session")
def questions_report(questions: Exported) -> ValidationReport:
    return validate(questions)


@pytest.fixture(scope="session")
def embeddings_report(embeddings: Exported) -> ValidationReport:
    return validate(embeddings)


def test_a_sound_graph_passes_every_check(
    questions_report: ValidationReport, embeddings_report: ValidationReport
) -> None:
    for report in (questions_report, embeddings_report):
        assert report.status == "passed", report.reason
        assert {row.check for row in report.rows} == {check.name for check in CHECKS["encoder"]} - {"recipe_cases"}
        assert report.nodes_by_provider["CPUExecutionProvider"] > 20
        assert report.worst_abs_diff is not None
        assert report.worst_abs_diff < 1e-5
        validation_report.require_passed(report)


def test_the_report_lies_in_the_stage_whole(questions: Exported, questions_report: ValidationReport) -> None:
    written = json.loads((questions.stage_dir / "reports" / "validation.json").read_bytes())

    assert jsonio.from_json(ValidationReport, written) == questions_report
    assert "reports/validation.json" in questions.stage.published_files()


def test_every_size_and_output_has_its_row(questions_report: ValidationReport) -> None:
    cases = {(row.case, row.output) for row in rows_of(questions_report, "parity")}

    assert cases == {
        (f"batch_size {batch_size}, sequence_length {length}, seed 20", output)
        for batch_size in (1, 2, 7)
        for length in (1, 2, 17, 64, 66)
        for output in ("start_logits", "end_logits")
    }


def test_positions_kept_for_padding_are_not_fed(embeddings_report: ValidationReport) -> None:
    """RoBERTa's table of 66 holds 64 positions: the first two rows are the padding's."""
    assert any("sequence_length 64" in row.case for row in rows_of(embeddings_report, "parity"))


def test_the_comparisons_could_tell(questions_report: ValidationReport, embeddings_report: ValidationReport) -> None:
    """Outputs that hardly depend on the mask would let a graph without one pass."""
    for report in (questions_report, embeddings_report):
        assert {row.finding for row in rows_of(report, "sensitivity")} == {"sensitive"}


def test_padding_that_the_model_itself_does_not_bear_is_said_and_not_failed(
    questions_report: ValidationReport, embeddings_report: ValidationReport
) -> None:
    """BERT counts positions from the left edge; RoBERTa from the first token that is no padding."""

    def alone(report: ValidationReport) -> set[str]:
        return {row.finding for row in rows_of(report, "padding_left") if "that row alone" in row.case}

    assert alone(questions_report) == {"skipped"}
    assert alone(embeddings_report) == {"equal"}


def test_a_lost_mask_hides_from_full_rows(questions: Exported, tmp_path: Path) -> None:
    """Why batches are padded: without padding the broken graph is equal to PyTorch."""
    broken = questions.copy(tmp_path)
    change_graph(broken.graph, encoder.mask_dropped)

    report = validate(broken)

    assert {row.passed for row in rows_of(report, "parity")} == {True}
    assert {row.passed for row in rows_of(report, "padding_right")} == {False}


def test_the_message_gives_the_worst_rows_and_the_place_of_the_others(questions: Exported, tmp_path: Path) -> None:
    broken = questions.copy(tmp_path)
    change_graph(broken.graph, encoder.logits_scaled)
    report = validate(broken)

    with pytest.raises(ValidationFailed) as failure:
        validation_report.require_passed(report)

    message = str(failure.value)
    assert f"{report.model_id}@{report.version} on cpu" in message
    assert "reports/validation.json" in message
    assert "start_logits: different by up to" in message
    assert "end_logits" not in message


def test_a_failure_says_whether_the_graph_or_pytorch_is_off(questions: Exported, tmp_path: Path) -> None:
    broken = questions.copy(tmp_path)
    change_graph(broken.graph, encoder.logits_scaled)

    (row, *_) = (row for row in rows_of(validate(broken), "parity") if not row.passed)

    said = re.fullmatch(
        r"against PyTorch in float64 the graph is off by (\S+) and PyTorch in float32 by (\S+)", row.detail
    )
    assert said is not None, row.detail
    assert float(said[1]) == pytest.approx(row.max_abs_diff, rel=0.1)
    assert float(said[2]) < 1e-5


def test_answers_are_those_of_transformers_own_pipeline(labels: Exported, tmp_path: Path) -> None:
    """The source's side of the check is no pipeline: it has to read what one does."""
    from transformers import pipeline

    item = labels.stage.item
    subject = CheckContext(
        stage=Stage(labels.stage_dir, item),
        source_dir=labels.source_dir,
        graphs={info.role: info for info in labels.stage.read_export().graphs},
        sessions={"model": session.open_session(labels.graph, threads=1)},
        reference=reference.load(item, source_dir=labels.source_dir),
    )
    classify = pipeline("text-classification", model=str(labels.source_dir), device="cpu")

    read = [
        [side.label(int(place)) for place in run(subject.feeds(side.encode(SINGLE)))["logits"].argmax(axis=-1)]
        for side, run in (
            (tokenized_texts.of_source(subject), subject.reference),
            (tokenized_texts.of_stage(subject), subject.session().run),
        )
    ]

    assert read[0] == read[1] == [classify(text)[0]["label"] for text, _ in SINGLE]
    assert not any(label.startswith("LABEL_") for label in read[0])


def test_a_tokenizer_as_published_reads_the_texts_of_both_sides(questions: Exported, tmp_path: Path) -> None:
    """The file keeps capitals, and the class that transformers builds lowers them."""
    copied = questions.copy(tmp_path)
    source = tmp_path / "source" / "questions"
    shutil.copytree(questions.source_dir, source)
    for folder in (copied.stage_dir, source):
        data = json.loads((folder / "tokenizer.json").read_text())
        data["normalizer"] = {**(data["normalizer"] or {}), "type": "BertNormalizer", "clean_text": True,
                              "handle_chinese_chars": True, "strip_accents": None, "lowercase": False}  # fmt: skip
        (folder / "tokenizer.json").write_text(json.dumps(data))
        settings = json.loads((folder / "tokenizer_config.json").read_text())
        (folder / "tokenizer_config.json").write_text(json.dumps({**settings, "do_lower_case": True}))
    exact = validator.validate(copied.stage, source_dir=source)
    assert {row.check for row in exact.rows if not row.passed} >= {"tokenizer"}

    published = copied.with_entry(lambda entry: replace(entry, tokenizer="as-published"))
    report = validator.validate(published.stage, source_dir=source)

    assert report.passed, report.reason
    (row,) = rows_of(report, "tokenizer")
    assert "the source's published file" in row.detail
    assert "equal" in {row.finding for row in rows_of(report, "answers")}


def test_without_a_tokenizer_numbers_alone_are_fed_and_rows_of_text_say_so(questions: Exported, tmp_path: Path) -> None:
    copied = questions.copy(tmp_path).with_entry(lambda entry: replace(entry, tokenizer="none"))
    (copied.stage_dir / "tokenizer.json").unlink()

    report = validate(copied)

    assert report.passed, report.reason
    skipped = {row.check: row.detail for row in report.rows if "tokenizer: none" in row.detail}
    assert skipped.keys() == {"tokenizer", "text", "answers"}
    assert {row.finding for row in rows_of(report, "parity")} == {"equal"}


def test_tolerances_are_the_entrys(questions: Exported, tmp_path: Path) -> None:
    broken = questions.copy(tmp_path)
    change_graph(broken.graph, encoder.logits_scaled)

    loose = broken.with_entry(lambda entry: replace(entry, tolerances=Tolerances(atol=1e-4, rtol=0.02)))

    assert validate(loose).status == "passed"


@pytest.mark.parametrize("mode", ["mean", "cls", ["mean", "max"]])
def test_a_recipe_is_held_to_the_sources_own_pooling(
    mode: str | list[str], embeddings: Exported, tmp_path: Path
) -> None:
    """The recipe here is ``mean``; what the source wants else is refused, and not left unproven."""
    source = Path(shutil.copytree(embeddings.source_dir, tmp_path / "source"))
    modules = [
        {"name": "0", "type": "sentence_transformers.models.Transformer", "path": ""},
        {"name": "1", "type": "sentence_transformers.models.Pooling", "path": "1_Pooling"},
    ]
    (source / "modules.json").write_text(json.dumps(modules))
    (source / "1_Pooling").mkdir()
    config = {"word_embedding_dimension": 48, "pooling_mode": mode}
    (source / "1_Pooling" / "config.json").write_text(json.dumps(config))
    copied = replace(embeddings.copy(tmp_path), source_dir=source)

    if mode == "mean":
        assert [row.finding for row in rows_of(validate(copied), "sentences")] == ["equal"]
        return
    with pytest.raises(ExportUnsupported, match="the recipe 'mean' pools otherwise than the source"):
        validate(copied)


def test_a_recipe_for_a_plain_model_is_held_to_the_librarys_pooling(embeddings_report: ValidationReport) -> None:
    assert [row.finding for row in rows_of(embeddings_report, "sentences")] == ["equal"]


def test_a_graph_that_does_not_load_is_a_finding(questions: Exported, tmp_path: Path) -> None:
    broken = questions.copy(tmp_path)
    broken.graph.write_bytes(broken.graph.read_bytes()[:5000])

    report = validate(broken)

    assert [(row.check, row.finding) for row in report.rows] == [("load", "error")]
    assert "does not load" in report.reason


@pytest.mark.skipif(
    "CUDAExecutionProvider" in onnxruntime.get_available_providers(), reason="this onnxruntime has CUDA"
)
def test_cuda_without_cuda_is_not_run_and_never_the_cpu(questions: Exported, tmp_path: Path) -> None:
    copied = questions.copy(tmp_path)

    report = validate(copied, provider="cuda")

    assert report.status == "not_run"
    assert "requirements-gpu.txt" in report.reason
    assert report.rows == ()
    assert (copied.stage_dir / "reports" / "validation_cuda.json").is_file()
    with pytest.raises(GpuUnavailable, match=r"not validated: CUDAExecutionProvider was asked for"):
        validation_report.require_passed(report)


def test_a_session_whose_nodes_fell_back_to_the_cpu_fails(questions: Exported, tmp_path: Path) -> None:
    """Live, with the second provider that the CPU wheel has: right numbers, from the wrong place."""
    report = validate(questions.copy(tmp_path), provider="azure")

    assert report.status == "failed"
    assert {row.check for row in report.rows if not row.passed} == {"placement"}
    with pytest.raises(GpuUnavailable, match="MatMul"):
        validation_report.require_passed(report)


def test_a_stage_without_graphs_is_not_proven(questions: Exported, tmp_path: Path) -> None:
    empty = questions.copy(tmp_path)
    empty.stage.write_export(replace(empty.stage.read_export(), graphs=()))

    report = validate(empty)

    assert report.status == "failed"
    assert "nothing was compared" in report.reason


def test_a_folder_that_is_no_stage_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BundleNotFound, match="onnx-fleet export"):
        validator.validate(Stage.open(tmp_path), source_dir=tmp_path)

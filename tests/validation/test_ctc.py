"""Models of sound without a decoder: what their graphs take, that padding is right, and that a broken one is caught."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from fixtures.exported import Exported, export_from_zoo
from mutations.mutation import change_graph
from mutations.speech import letters_moved, mask_of_sound_ignored
from onnx_fleet.entities.validation_report import ValidationReport
from onnx_fleet.graphs import audio_inputs
from onnx_fleet.validation import validator


def test_a_waveform_of_any_length_gives_logits_of_every_frame(plain: Exported) -> None:
    assert shapes(plain) == {
        "input_values": ("batch_size", "num_samples"),
        "logits": ("batch_size", "num_frames", 32),
    }
    report = validate(plain)
    assert report.passed, report.reason
    lengths = {row.case for row in report.rows if row.check == "parity"}
    assert "batch_size 2, 400 samples of noise, seed 20" in lengths


def test_the_mask_is_an_input_where_the_feature_extractor_gives_one(masked: Exported) -> None:
    assert shapes(masked) == {
        "input_values": ("batch_size", "num_samples"),
        "attention_mask": ("batch_size", "num_samples"),
        "logits": ("batch_size", 5),
    }


def test_padded_sounds_are_proven_equal_to_themselves_alone(masked: Exported) -> None:
    report = validate(masked)

    assert report.passed, report.reason
    assert [(row.case.partition(": ")[2], row.finding) for row in report.rows if row.check == "padding"] == [
        ("as PyTorch on the same batch", "equal"),
        ("noise under the mask changes nothing", "equal"),
        ("each sound as that sound alone", "equal"),
    ]
    assert {row.finding for row in report.rows if row.check == "sensitivity"} == {"sensitive"}


def test_a_mask_that_is_ignored_is_caught(masked: Exported, tmp_path: Path) -> None:
    broken = masked.copy(tmp_path)
    change_graph(broken.graph, mask_of_sound_ignored)

    failed = [row for row in validate(broken).rows if not row.passed]

    assert {row.check for row in failed} == {"padding"}
    assert len(failed) == 3


def test_other_letters_are_caught(plain: Exported, tmp_path: Path) -> None:
    broken = plain.copy(tmp_path)
    change_graph(broken.graph, letters_moved)

    failed = [row.case for row in validate(broken).rows if not row.passed and row.check == "tones"]

    assert any("the likeliest of every frame" in case for case in failed)


def test_what_the_feature_extractor_says_of_masks_counts_more_than_the_architecture(masked: Exported) -> None:
    from onnx_fleet.source.families import ctc, speech

    item = masked.stage.item
    model = speech.FAMILY.load(item, masked.source_dir, None)
    path = masked.source_dir / "preprocessor_config.json"
    said = path.read_text()
    try:
        path.write_text(json.dumps({**json.loads(said), "return_attention_mask": False}))
        refused = ctc.takes_mask(model)
        path.unlink()
        by_architecture = ctc.takes_mask(model)
    finally:
        path.write_text(said)

    assert (refused, by_architecture) == (False, True)


def test_spectrograms_of_one_length_are_numbers_in_the_graph(tmp_path: Path) -> None:
    exported = export_from_zoo("ASTForAudioClassification", tmp_path)

    assert shapes(exported) == {"input_values": ("batch_size", 48, 32), "logits": ("batch_size", 5)}
    assert validate(exported).passed


@pytest.mark.timeout(300)
def test_frames_that_are_squeezed_in_pairs_come_out_one_by_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """SEW pads what a pair lacks: a graph of the even case has a frame less in every other sound."""
    from onnx_fleet.source.families import ctc

    assert validate(export_from_zoo("SEWForCTC", tmp_path)).passed
    monkeypatch.setattr(ctc, "_EXAMPLE_SAMPLES", 6007)
    even = validate(export_from_zoo("SEWForCTC", tmp_path / "even"))
    assert [row.case for row in even.rows if row.check == "parity" and not row.passed] == [
        "batch_size 2, 9600 samples of noise, seed 20"
    ]


def test_sounds_have_zero_mean_and_unit_variance_and_differ() -> None:
    first, second = audio_inputs.batch(2, 4000, seed=0, kind="tones")

    assert abs(first.mean()) < 1e-5
    assert first.std() == pytest.approx(1, abs=1e-3)
    assert np.abs(first - second).max() > 1


def shapes(exported: Exported) -> dict[str, tuple[int | str, ...]]:
    (graph,) = exported.stage.read_export().graphs
    return {spec.name: spec.shape for spec in (*graph.inputs, *graph.outputs)}


def validate(exported: Exported) -> ValidationReport:
    return validator.validate(exported.stage, source_dir=exported.source_dir)

"""The reports' pictures: what is in them, the same bytes each time, and small."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from dataclasses import replace
from itertools import product
from pathlib import Path

import pytest

from fixtures.stages import latency_report, validation_report, work_item
from onnx_fleet.bundles import charts
from onnx_fleet.bundles.stage import Stage
from onnx_fleet.entities.latency_report import GenerationRow, LatencyReport
from onnx_fleet.entities.validation_report import CheckRow, ValidationReport
from onnx_fleet.measurement.noise import KernelRun, judge

PHASES = (("encoder_model", "encode"), ("decoder_model_merged", "prompt"), ("decoder_model_merged", "step"))
VARIANTS = ("fp32", "fp16", "int8", "q4")


@pytest.fixture(scope="module")
def generative() -> LatencyReport:
    """An encoder and a decoder in four variants on a grid of four points."""
    made = latency_report(work_item(), latency_ms=2.0)
    (row,) = made.rows
    points = tuple(product((1, 8), (16, 128)))
    rows = tuple(
        replace(
            row, role=role, phase=phase, variant=variant, batch_size=batch, sequence_length=length,
            latency_ms_p50=2.0 * batch, latency_ms_p50_interval=(1.9 * batch, 2.2 * batch), latency_ms_p95=3.0 * batch,
        )
        for role, phase in PHASES
        for batch, length in points
        for variant in VARIANTS
    )  # fmt: skip
    generation = tuple(
        GenerationRow(
            variant=variant,
            batch_size=batch,
            sequence_length=length,
            first_token_ms_p50=4.0 * batch,
            first_token_ms_p50_interval=(3.8 * batch, 4.4 * batch),
            torch_first_token_ms_p50=8.0 * batch,
            tokens_per_s=500.0,
            tokens_per_s_interval=None,
            torch_tokens_per_s=250.0,
        )
        for batch, length in points
        for variant in VARIANTS
    )
    noise = judge((KernelRun(slowest_ms=5.0, wall_ms=10.0, cpu_ms=4.0),), threads=2)
    return replace(made, rows=rows, generation=generation, noise=noise)


def test_every_phase_has_its_panel_and_every_variant_its_place_beside_pytorch(generative: LatencyReport) -> None:
    said = _texts(charts.latency(generative))

    for title in ("encode, ms", "prompt, ms", "step, ms", "first token, ms", "tokens a second"):
        assert title in said
    assert said[-5:] == ["PyTorch eager", *VARIANTS]
    assert {"16", "128", "batch 1, tokens", "batch 8, tokens"} <= set(said)


def test_a_picture_says_that_the_machine_was_noisy(generative: LatencyReport) -> None:
    assert any("noisy machine" in text for text in _texts(charts.latency(generative)))
    assert not any("machine" in text for text in _texts(charts.latency(replace(generative, noise=None))))


def test_one_variant_has_its_ratio_beside_each_dot() -> None:
    assert "0.50×" in _texts(charts.latency(latency_report(work_item(), latency_ms=2.0)))


def test_a_model_without_tokens_is_drawn_over_batches() -> None:
    made = latency_report(work_item(), latency_ms=2.0)
    said = _texts(charts.latency(replace(made, rows=(replace(made.rows[0], sequence_length=None),))))

    assert "batch 1" in said


def test_the_same_report_gives_the_same_bytes_and_few_of_them(generative: LatencyReport) -> None:
    drawn = charts.latency(generative)

    assert drawn == charts.latency(generative)
    assert len(drawn) < 100_000
    assert b"dc:date" not in drawn


@pytest.fixture
def proof() -> ValidationReport:
    """One output within its tolerance, one of each layer of a cache, one beyond, and one that could not be compared."""
    made = validation_report(work_item())
    row = replace(made.rows[0], tolerance_used=0.02)
    layers = tuple(
        replace(row, check="cache", output=f"present.{n}.key", max_abs_diff=1e-6 * n, tolerance_used=0.01 * n)
        for n in range(1, 13)
    )
    wrong = replace(row, check="text", passed=False, finding="different", max_abs_diff=0.25, tolerance_used=2500.0)
    broken = replace(row, check="load", output="", passed=False, finding="nan", max_abs_diff=None, tolerance_used=None)
    return replace(made, rows=(row, *layers, wrong, broken))


def test_each_check_and_output_has_a_bar_and_the_layers_of_a_cache_one_together(proof: ValidationReport) -> None:
    said = _texts(charts.validation(proof))

    assert [text for text in said if " · " in text] == [
        "parity · last_hidden_state",
        "cache · present.*.key",
        "text · last_hidden_state",
    ]
    assert {"load", "nan", "limit", "1.2e-05", "2.5e-01"} <= set(said)
    assert "on cpu: 15 comparisons, 2 failed" in said


def test_of_very_many_outputs_those_that_failed_and_came_closest_are_drawn(proof: ValidationReport) -> None:
    many = tuple(_named(proof.rows[0], f"output_{n}", used=n / 1000) for n in range(1, 100))
    said = _texts(charts.validation(replace(proof, rows=(*many, *proof.rows))))

    assert {"parity · output_99", "load"} <= set(said)
    assert "parity · output_1" not in said
    assert any("; the 48 of" in text and "outputs that are closest to their limits" in text for text in said)


def test_a_check_that_judges_by_atol_alone_is_drawn_by_it(proof: ValidationReport) -> None:
    by_atol = replace(proof.rows[0], check="own", max_abs_diff=5e-5, atol=1e-4, tolerance_used=None)

    said = _texts(charts.validation(replace(proof, rows=(by_atol,))))

    assert {"own · last_hidden_state", "5.0e-05"} <= set(said)


def test_a_dollar_in_a_name_is_a_dollar(proof: ValidationReport) -> None:
    assert "parity · a$b$" in _texts(charts.validation(replace(proof, rows=(_named(proof.rows[0], "a$b$", used=0.1),))))


def test_outputs_that_are_equal_to_the_bit_are_drawn(proof: ValidationReport) -> None:
    assert "0.0e+00" in _texts(charts.validation(replace(proof, rows=(_named(proof.rows[0], "logits", used=0.0),))))


def test_a_report_of_nothing_takes_an_earlier_picture_away(tmp_path: Path) -> None:
    (tmp_path / "reports").mkdir()
    stage = Stage.make(tmp_path, work_item())
    stage.write_picture("latency", b"<svg/>")
    assert (tmp_path / "reports" / "latency.svg").read_bytes() == b"<svg/>"

    stage.write_picture("latency", None)
    stage.write_picture("latency", None)

    assert not (tmp_path / "reports" / "latency.svg").exists()


def _named(row: CheckRow, output: str, *, used: float) -> CheckRow:
    return replace(row, output=output, tolerance_used=used, max_abs_diff=used * 1e-4)


def _texts(svg: bytes) -> list[str]:
    """What is written in a picture, in order."""
    return [
        "".join(element.itertext()).strip() for element in ET.fromstring(svg).iter("{http://www.w3.org/2000/svg}text")
    ]

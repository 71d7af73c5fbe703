"""Tolerances that nobody wrote down: they come from the model, and nothing that is judged has a say in them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest

from fixtures.exported import Exported, export_from_zoo
from mutations.encoder import mask_dropped
from mutations.mutation import change_graph
from onnx_fleet.bundles.stage import Stage
from onnx_fleet.entities.entry import Tolerances
from onnx_fleet.entities.validation_report import ValidationReport
from onnx_fleet.source import reference
from onnx_fleet.validation import validator
from onnx_fleet.validation.checks import CheckContext, held_to_its_rounding, tolerances
from onnx_fleet.validation.checks.float64 import distance

pytestmark = pytest.mark.timeout(600)

MOST = Tolerances()


@pytest.fixture
def held() -> Callable[[Exported], Tolerances]:
    """What a stage's outputs are held to."""

    def read(exported: Exported) -> Tolerances:
        return held_to_its_rounding(subject_of(exported)).tolerances

    return read


def subject_of(exported: Exported) -> CheckContext:
    item = exported.stage.item
    return CheckContext(
        stage=Stage(exported.stage_dir, item),
        source_dir=exported.source_dir,
        graphs={info.role: info for info in exported.stage.read_export().graphs},
        sessions={},
        reference=reference.load(item, source_dir=exported.source_dir),
    )


def validate(exported: Exported) -> ValidationReport:
    return validator.validate(exported.stage, source_dir=exported.source_dir)


def test_two_layers_are_held_closer_than_the_most_that_is_allowed(
    questions: Exported, held: Callable[[Exported], Tolerances]
) -> None:
    found = held(questions)

    assert found.atol == found.rtol < MOST.atol / 2
    rows = [row for row in validate(questions).rows if row.tolerance_used is not None]
    assert {row.rtol for row in rows} == {found.rtol}, "every row records what was applied"
    assert max(row.atol for row in rows) == found.atol
    assert max(row.tolerance_used or 0.0 for row in rows) < 0.2, "and rounding needs little of it"


def test_more_layers_may_round_more(
    questions: Exported,
    convolutions: Exported,
    held: Callable[[Exported], Tolerances],
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    """MobileViT is the deepest of the zoo, ResNet among the flattest: widths and float64 errors are alike."""
    deep = export_from_zoo("MobileViTForImageClassification", tmp_path_factory.mktemp("deep"))

    assert held(convolutions).atol < held(questions).atol < held(deep).atol <= MOST.atol


def test_a_model_that_rounds_badly_in_pytorch_itself_gets_room(
    held: Callable[[Exported], Tolerances], tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Batch norms of three images divide by little: PyTorch in float32 is off by 6e-5 against float64."""
    rough = export_from_zoo("MobileNetV1ForImageClassification", tmp_path_factory.mktemp("rough"))

    assert held(rough).atol == MOST.atol
    assert validate(rough).passed


def test_where_float64_has_no_word_the_most_is_allowed(
    held: Callable[[Exported], Tolerances], tmp_path_factory: pytest.TempPathFactory
) -> None:
    """PyTorch multiplies the experts of a mixture in one grouped operation, which it has not for float64."""
    mixture = export_from_zoo("Qwen2MoeForCausalLM", tmp_path_factory.mktemp("mixture"))

    assert held(mixture) == MOST


def test_a_transform_that_onnxruntime_sums_term_by_term_gets_room(
    held: Callable[[Exported], Tolerances], tmp_path_factory: pytest.TempPathFactory
) -> None:
    fourier = export_from_zoo("FNetForMaskedLM", tmp_path_factory.mktemp("fourier"))

    assert held(fourier) == MOST
    assert validate(fourier).passed


def test_an_entrys_own_tolerances_are_the_ones(
    questions: Exported, held: Callable[[Exported], Tolerances], tmp_path: Path
) -> None:
    own = Tolerances(atol=3e-3, rtol=0.0)

    assert held(questions.copy(tmp_path).with_entry(lambda entry: replace(entry, tolerances=own))) == own


def test_where_pytorch_itself_rounds_by_more_than_the_tolerance_the_graph_may_too(
    rough: Exported, tmp_path: Path
) -> None:
    report = validate(rough.copy(tmp_path / "derived"))

    assert report.passed, report.reason
    rounded = [row for row in report.rows if row.finding == "rounding"]
    assert rounded, "some rows differ by more than the most that is allowed"
    assert all(row.passed and (row.tolerance_used or 0) > 1 for row in rounded)
    assert all("against PyTorch in float64 the graph is off by" in row.detail for row in rounded)
    assert f"{len(rounded)} of them within PyTorch's own rounding" in report.reason

    own = rough.copy(tmp_path / "own").with_entry(lambda entry: replace(entry, tolerances=MOST))
    strict = validate(own)
    assert not strict.passed, "an entry's own tolerances are taken at their word"
    assert any("PyTorch in float32 by" in row.detail for row in strict.rows if not row.passed)


@pytest.mark.parametrize(
    ("fault", "passes"),
    [
        (lambda noise: noise * 1.5, True),
        (lambda noise: noise * 4, False),
        (lambda noise: noise + 1.9, False),
        (lambda noise: np.where(np.arange(noise.size) == 7, 2.9, noise), True),
        (lambda noise: np.where(np.arange(noise.size) == 7, 3.1, noise), False),
    ],
    ids=["as-much", "four-times-as-much", "all-moved", "one-value-within-the-largest", "one-value-beyond-the-largest"],
)
def test_the_graph_may_round_as_pytorch_does_and_little_more(
    fault: Callable[[np.ndarray], np.ndarray], passes: bool
) -> None:
    """PyTorch's errors are drawn up to a whole tolerance, of 1e-4; the graph's are others of the same size."""
    rng = np.random.default_rng(3)
    exact = rng.standard_normal(4000)
    torch, noise = (rng.uniform(-1, 1, exact.size) for _ in range(2))
    own = Tolerances(atol=1e-4, rtol=0.0)
    told = distance(
        (exact + 1e-4 * torch).astype(np.float32),
        (exact + 1e-4 * fault(noise)).astype(np.float32),
        exact,
        tolerances=own,
    )

    assert told.torch == pytest.approx(1, rel=0.02)
    assert told.is_rounding == passes


def test_small_errors_of_pytorch_excuse_nothing() -> None:
    exact = np.linspace(-1, 1, 500)
    torch = (exact + 1e-5).astype(np.float32)
    assert not distance(torch, torch + np.float32(2.5e-5), exact, tolerances=MOST).is_rounding


def test_a_wrong_graph_makes_no_room_for_itself(
    questions: Exported, held: Callable[[Exported], Tolerances], tmp_path: Path
) -> None:
    broken = questions.copy(tmp_path)
    change_graph(broken.graph, mask_dropped)
    model = onnx.load(broken.graph)
    for index in range(100):
        model.graph.node.append(onnx.helper.make_node("Identity", ["input_ids"], [f"idle_{index}"]))
    onnx.save(model, broken.graph)

    assert held(broken) == held(questions)
    assert held(questions).atol == pytest.approx(tolerances.OF_ONE_LAYER * 13**0.5), (
        "two layers of six matrices, and the head"
    )


def test_a_classifier_of_sound_from_a_model_that_wrote_is_asked_for_no_text(
    tmp_path: Path, held: Callable[[Exported], Tolerances]
) -> None:
    """Its configuration still says that it is an encoder with a decoder."""
    heard = export_from_zoo("WhisperForAudioClassification", tmp_path)

    assert held(heard).atol < MOST.atol
    assert validate(heard).passed

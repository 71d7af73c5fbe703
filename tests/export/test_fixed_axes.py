"""Axes that an entry allows to have one size: refused without its word, and proven, timed and said with it."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from fixtures.exported import export_from_zoo
from fixtures.recipes import Proven, recipe_file
from fixtures.stages import NOW
from mutations.encoder import mask_dropped
from mutations.mutation import change_graph
from onnx_fleet.bundles.stage import Stage
from onnx_fleet.entities.entry import Entry, LatencyGrid
from onnx_fleet.errors import ExportUnsupported
from onnx_fleet.measurement import latency
from onnx_fleet.validation import validator

RECIPE = """
import functools

import torch

from onnx_fleet.recipes import Recipe
from transformers.models.bert.modeling_bert import BertEmbeddings


class _Fading(BertEmbeddings):
    def forward(self, input_ids=None, **others):
        hidden = super().forward(input_ids=input_ids, **others)
        return hidden * torch.linspace(1.0, 0.5, int(input_ids.shape[1]))[None, :, None]


def _fade(model):
    model.base_model.embeddings.__class__ = _Fading


def _scale(model, *, given, output):
    own = type(model)

    @functools.wraps(own.forward)
    def forward(self, *args, **inputs):
        found = own.forward(self, *args, **inputs)
        found[output] = found[output] * (1 + 1 / int(inputs[given].shape[1]))
        return found

    model.__class__ = type(own.__name__, (own,), {"forward": forward})


fading = Recipe(summary="a table that is as long as the example", prepare=_fade)
choices = Recipe(
    summary="logits by the number of choices",
    prepare=lambda model: _scale(model, given="input_ids", output="logits"),
)
samples = Recipe(
    summary="logits by the number of samples",
    prepare=lambda model: _scale(model, given="input_values", output="logits"),
)
source = Recipe(
    summary="states by the length of the source",
    prepare=lambda model: _scale(model.get_encoder(), given="input_ids", output="last_hidden_state"),
)
"""
LENGTH = 7
"""Of the family's example."""


@pytest.fixture(scope="module")
def fading(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Entry]:
    """An entry of a model whose length is a number once it is traced."""
    grid = LatencyGrid(batch_sizes=(1, 2), sequence_lengths=(16, 128), warmup_runs=1, timed_runs=5, threads=1)
    with recipe_file(tmp_path_factory.mktemp("fixed"), "fixed", RECIPE):
        yield Entry(repo_id="acme/fading", task="feature-extraction", recipe="recipes.fixed:fading", latency=grid)


@pytest.fixture(scope="module")
def of_one_length(export_entry: Callable[[Entry], Proven], fading: Entry) -> Proven:
    return export_entry(replace(fading, repo_id="acme/one-length", may_be_fixed=("sequence_length", "height")))


def test_a_frozen_axis_is_refused_and_the_option_named(export_entry: Callable[[Entry], Proven], fading: Entry) -> None:
    with pytest.raises(ExportUnsupported, match=r"its entry may say so: may_be_fixed: \[sequence_length\]"):
        export_entry(fading)


def test_an_axis_that_may_be_fixed_is_a_number_and_the_record_says_so(of_one_length: Proven) -> None:
    (graph,) = of_one_length.record.graphs
    (fallback,) = of_one_length.record.fallbacks

    assert {spec.shape for spec in graph.inputs} == {("batch_size", LENGTH)}
    assert graph.outputs[0].shape == ("batch_size", LENGTH, 48)
    assert fallback.what == "model: dynamic -> fixed sequence_length"
    assert "sequence_length" in fallback.why
    assert of_one_length.record.settings["may_be_fixed"] == "height, sequence_length"


def test_it_is_proven_at_its_one_length_with_shorter_texts_padded_to_it(of_one_length: Proven) -> None:
    report = of_one_length.report

    assert report.passed, report.reason
    assert {row.check for row in report.rows} >= {"parity", "text", "padding_left", "padding_right", "dynamic"}
    padded = [row for row in report.rows if row.check == "padding_right"]
    assert {row.finding for row in padded} == {"equal"}
    assert len(padded) == 3


def test_a_lost_mask_is_caught_at_one_length_too(of_one_length: Proven, tmp_path: Path) -> None:
    copy = tmp_path / "stage"
    shutil.copytree(of_one_length.stage_dir, copy)
    change_graph(copy / "onnx/model.onnx", mask_dropped)

    report = validator.validate(Stage.open(copy), source_dir=of_one_length.source_dir)

    assert {"parity", "padding_right"} <= {row.check for row in report.rows if not row.passed}


def test_it_is_timed_at_its_one_length_whatever_the_grid_has(of_one_length: Proven) -> None:
    report = latency.measure(of_one_length.stage, source_dir=of_one_length.source_dir, now=NOW)

    assert [(row.batch_size, row.sequence_length) for row in report.rows] == [(1, LENGTH), (2, LENGTH)]


@pytest.mark.usefixtures("fading")
# The exporter folds T5's buckets of distances into constants: the logarithm of 0 is taken, and chosen by nobody.
@pytest.mark.filterwarnings(
    "ignore:divide by zero encountered in log:RuntimeWarning", "ignore:invalid value encountered in cast:RuntimeWarning"
)
@pytest.mark.parametrize(
    ("architecture", "recipe", "axes", "shapes"),
    [
        ("BertForMultipleChoice", "choices", ("num_choices",), {"input_ids": ("batch_size", 3, "sequence_length")}),
        ("HubertForCTC", "samples", ("num_samples", "num_frames"), {"input_values": ("batch_size", 6301)}),
        (
            "T5ForConditionalGeneration",
            "source",
            ("encoder_sequence_length",),
            {"input_ids": ("batch_size", 7), "decoder_input_ids": ("batch_size", "decoder_sequence_length")},
        ),
    ],
)
def test_choices_sounds_and_sources_may_have_one_size_too_and_padding_is_still_proven(
    tmp_path: Path,
    architecture: str,
    recipe: str,
    axes: tuple[str, ...],
    shapes: dict[str, tuple[str | int, ...]],
) -> None:
    form = "plain" if architecture.startswith("T5") else "merged"
    exported = export_from_zoo(
        architecture, tmp_path, recipe=f"recipes.fixed:{recipe}", may_be_fixed=axes, decoder_form=form
    )
    sound = validator.validate(exported.stage, source_dir=exported.source_dir)
    change_graph(exported.graph, mask_dropped)
    broken = validator.validate(exported.stage, source_dir=exported.source_dir)

    (graph,) = exported.stage.read_export().graphs
    assert {spec.name: spec.shape for spec in graph.inputs if spec.name in shapes} == shapes
    assert sound.passed, sound.reason
    assert any(row.check.startswith("padding") and not row.passed for row in broken.rows)


def test_an_open_axis_stays_open_where_it_may_be_fixed(export_entry: Callable[[Entry], Proven]) -> None:
    entry = Entry(repo_id="acme/open", task="feature-extraction", may_be_fixed=("sequence_length",))

    record = export_entry(entry).record

    assert record.fallbacks == ()
    assert record.graphs[0].inputs[0].shape == ("batch_size", "sequence_length")

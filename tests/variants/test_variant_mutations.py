"""The proof of the judge: every way to break a variant is caught by the figure that its row of the table names."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from fixtures.varied import Varied
from mutations import VARIANT_MUTATIONS
from mutations.variants import VariantMutation
from onnx_fleet.entities.variant import FP32, VARIANTS
from onnx_fleet.entities.variant_report import GraphVerdict

pytestmark = pytest.mark.timeout(900)  # the first row of a model exports it

WHOLE = tuple(dict.fromkeys(row.model for row in VARIANT_MUTATIONS))
FAULTS = {"load": "does not load", "contract": "are not those of onnx/model.onnx"}


def caught(graph: GraphVerdict) -> set[str]:
    """What the judge says of a graph, by the words of the table."""
    missed = {measure.name for measure in graph.measures if not measure.passed}
    return missed | {name for name, said in FAULTS.items() if said in graph.fault}


@pytest.mark.parametrize("model", WHOLE)
def test_what_is_broken_here_was_sound_before(model: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    sound: Varied = request.getfixturevalue(model).copy(tmp_path)

    report = sound.judge()

    wanted = set(sound.stage.item.model.entry.variants) - {FP32}
    assert {verdict.variant: verdict.status for verdict in report.verdicts} == dict.fromkeys(wanted, "published"), (
        report
    )


@pytest.mark.parametrize("row", VARIANT_MUTATIONS, ids=lambda row: f"{row.model}-{row.variant}-{row.name}")
def test_it_is_caught_by_the_named_figure_and_left_out_alone(
    row: VariantMutation, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    broken: Varied = request.getfixturevalue(row.model).copy(tmp_path)
    row.apply(broken)
    record = broken.stage.read_export()

    found = {verdict.variant: verdict for verdict in broken.judge().verdicts}

    (graph,) = found[row.variant].graphs
    assert row.caught in caught(graph), (caught(graph), found[row.variant].reason)
    assert not broken.graph(row.variant).exists()
    assert [graph for graph in record.graphs if graph.variant != row.variant] == list(broken.stage.read_export().graphs)
    assert {name for name, verdict in found.items() if verdict.status == "missed"} == {row.variant}


def test_every_variant_and_every_figure_has_its_rows() -> None:
    assert {row.variant for row in VARIANT_MUTATIONS} == set(VARIANTS)
    assert min(Counter(row.variant for row in VARIANT_MUTATIONS).values()) >= 3
    figures = {"weights", "finite", "masked", "cosine", "top1", "perplexity_ratio", "size"}
    assert {row.caught for row in VARIANT_MUTATIONS} == figures | FAULTS.keys()

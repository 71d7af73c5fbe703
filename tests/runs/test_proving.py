"""The step validate: variants that are judged as they are converted, and made again where that is not good enough."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from fixtures.varied import LOOSE, Varied, wanting
from onnx_fleet.entities.variant_report import VariantReport, VariantVerdict
from onnx_fleet.errors import ValidationFailed
from onnx_fleet.processes.isolation import Limits
from onnx_fleet.runs import proving
from onnx_fleet.runs.services import Services
from onnx_fleet.source.hub_client import Hub, HubSettings
from onnx_fleet.store import ObjectStore


@pytest.fixture
def services(tmp_path: Path, local_store: ObjectStore) -> Services:
    return Services(store=local_store, hub=Hub(HubSettings()), work_dir=tmp_path / "work", limits=Limits())


def _cosine(verdict: VariantVerdict) -> float:
    (graph,) = verdict.graphs
    return next(measure.value for measure in graph.measures if measure.name == "cosine")


def test_only_what_misses_its_gates_is_made_again_with_layers_in_float32(
    varied_encoder: Varied, services: Services, tmp_path: Path
) -> None:
    """4 bits of random weights are a cosine of 0.99 at best: a gate above that is met with fewer layers in them."""
    all_of_it = next(each for each in varied_encoder.copy(tmp_path / "a").judge().verdicts if each.variant == "q4")
    asked = replace(LOOSE, min_cosine=_cosine(all_of_it) + (1 - _cosine(all_of_it)) / 2)
    own = varied_encoder.copy(tmp_path / "b")
    own.exported.with_entry(
        lambda entry: replace(wanting("fp16", "int8", "q4", gates=LOOSE)(entry), variant_gates={"q4": asked})
    )

    report = proving.make_variants(own.stage, services=services)

    assert report is not None
    assert {each.variant: each.status for each in report.verdicts} == dict.fromkeys(("fp16", "int8", "q4"), "published")
    fp16, int8, q4 = report.verdicts
    assert (fp16.graphs[0].kept, int8.graphs[0].kept) == ((), ())
    assert q4.graphs[0].kept
    assert _cosine(q4) > _cosine(all_of_it)
    assert [graph.variant for graph in own.stage.read_export().graphs] == ["fp32", "fp16", "int8", "q4"]
    assert own.stage.read_report("variants", VariantReport) == report


def test_a_required_variant_that_nothing_mends_stops_the_model_and_leaves_the_others(
    varied_encoder: Varied, services: Services, tmp_path: Path
) -> None:
    own = varied_encoder.copy(tmp_path / "own")
    hopeless = replace(LOOSE, min_cosine=0.99999, max_layers_ratio=0.3)
    own.exported.with_entry(
        lambda entry: replace(
            wanting("fp16", "q4")(entry), required_variants=("q4",), variant_gates={"fp16": LOOSE, "q4": hopeless}
        )
    )

    with pytest.raises(ValidationFailed, match="q4: cosine"):
        proving.make_variants(own.stage, services=services)

    assert [graph.variant for graph in own.stage.read_export().graphs] == ["fp32", "fp16"]
    assert not (own.stage_dir / "onnx" / "model_q4.onnx").exists()

"""A process that makes bundles and PyTorch's answers to compare with: torch is imported once for all of them.

python -m consumers.maker
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx

from consumers import answers, sources
from consumers.cases import CASES, DAMAGED
from consumers.serving import Question, serve
from fixtures.items import work_item
from mutations.mutation import change_graph
from mutations.surgery import change_weight
from onnx_fleet.bundles.stage import Stage
from onnx_fleet.entities import validation_report
from onnx_fleet.entities.variant import FP32
from onnx_fleet.export import exporter
from onnx_fleet.validation import validator
from onnx_fleet.variants import conversion
from onnx_fleet.variants.conversion import MakingRequest


def handle(question: Question) -> None:
    """``<folder>/bundle`` as an export leaves it, and ``<folder>/expected-<input>.npz``."""
    (case,) = (case for case in (*CASES, DAMAGED) if case.name == question["case"])
    folder = Path(str(question["folder"]))
    source = sources.make(case, folder / "source")
    sources.draw(case, folder)
    item = work_item(source, task=case.task, recipe=case.recipe, weights=case.weights)
    if case.variant:
        entry = replace(item.model.entry, variants=(FP32, case.variant))
        item = replace(item, model=replace(item.model, entry=entry))
    stage = Stage.make(folder / "bundle", item)
    record = exporter.fill(exporter.ExportRequest(stage=stage, source_dir=source))
    if case.variant:
        stage.write_export(record)
        validation_report.require_passed(validator.validate(stage, source_dir=source))
        conversion.make(MakingRequest(stage=stage))
    for index, answer in enumerate(answers.of(case, source)):
        np.savez(folder / f"expected-{index}.npz", **answer)
    if case.damaged:
        change_graph(folder / "bundle" / "onnx" / "model.onnx", damage)


def damage(model: onnx.ModelProto) -> None:
    """One norm's weights are larger than the source's, by a tenth."""
    change_weight(model, "embeddings.LayerNorm.weight", lambda weight: weight * np.float32(1.1))


if __name__ == "__main__":
    serve(handle)

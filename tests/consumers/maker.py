"""A process that makes bundles and PyTorch's answers to compare with: torch is imported once for all of them.

python -m consumers.maker
"""

from __future__ import annotations

import shutil
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
from onnx_fleet.bundles.stage import SIGNATURES, WRITTEN_BY_SEAL, Stage
from onnx_fleet.entities import validation_report
from onnx_fleet.entities.variant import FP32
from onnx_fleet.entities.work_item import WorkItem
from onnx_fleet.export import exporter
from onnx_fleet.validation import validator
from onnx_fleet.variants import conversion
from onnx_fleet.variants.conversion import MakingRequest

BESIDE = (*WRITTEN_BY_SEAL, f"{SIGNATURES}/{'0' * 64}.sig.json")
"""What a pulled bundle has and an export does not: no consumer may mind."""


def handle(question: Question) -> None:
    """``<case>/bundle`` as an export leaves it, and ``<case>/expected-<input>.npz``, for cases of one source."""
    names, root = str(question["cases"]).split(), Path(str(question["folder"]))
    first, *_ = cases = [case for case in (*CASES, DAMAGED) if case.name in names]
    source = sources.make(first, root / f"{first.name}-source")
    variants = tuple(case.variant for case in cases if case.variant)
    proven = wanting(work_item(source, task=first.task, recipe=first.recipe, weights=first.weights), *variants)
    stage = Stage.make(root / f"{first.name}-proven", proven)
    stage.write_export(exporter.fill(exporter.ExportRequest(stage=stage, source_dir=source)))
    if variants:
        validation_report.require_passed(validator.validate(stage, source_dir=source))
    expected = answers.of(first, source)
    for case in cases:
        folder = root / case.name
        shutil.copytree(stage.folder, folder / "bundle")
        for path in BESIDE:
            (folder / "bundle" / path).parent.mkdir(exist_ok=True)
            (folder / "bundle" / path).write_text("{}")
        sources.draw(case, folder)
        for index, answer in enumerate(expected):
            np.savez(folder / f"expected-{index}.npz", **answer)
        if case.variant:
            conversion.make(MakingRequest(stage=Stage.make(folder / "bundle", wanting(proven, case.variant))))
        if case.damaged:
            change_graph(folder / "bundle" / "onnx" / "model.onnx", damage)


def wanting(item: WorkItem, *variants: str) -> WorkItem:
    """The same with these beside fp32."""
    entry = replace(item.model.entry, variants=(FP32, *variants))
    return replace(item, model=replace(item.model, entry=entry))


def damage(model: onnx.ModelProto) -> None:
    """One norm's weights are larger than the source's, by a tenth."""
    change_weight(model, "embeddings.LayerNorm.weight", lambda weight: weight * np.float32(1.1))


if __name__ == "__main__":
    serve(handle)

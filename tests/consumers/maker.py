"""A process that makes bundles and PyTorch's answers to compare with: torch is imported once for all of them.

python -m consumers.maker
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from consumers import answers, sources
from consumers.cases import CASES
from consumers.serving import Question, serve
from fixtures.items import work_item
from onnx_fleet import export, stage, validation
from onnx_fleet.variants import FP32, making
from onnx_fleet.variants.making import MakingRequest


def handle(question: Question) -> None:
    """``<folder>/bundle`` as an export leaves it, and ``<folder>/expected-<input>.npz``."""
    (case,) = (case for case in CASES if case.name == question["case"])
    folder = Path(str(question["folder"]))
    source = sources.make(case, folder / "source")
    sources.draw(case, folder)
    item = work_item(source, task=case.task, recipe=case.recipe, weights=case.weights)
    stage.write_work(folder / "bundle", item)
    if case.variant:
        entry = replace(item.model.entry, variants=(FP32, case.variant))
        item = replace(item, model=replace(item.model, entry=entry))
        stage.write_work(folder / "bundle", item)
    record = export.fill(export.ExportRequest(item=item, source_dir=source, stage=folder / "bundle"))
    if case.variant:
        stage.write_export(folder / "bundle", record)
        validation.require_passed(validation.validate(folder / "bundle", source_dir=source))
        making.make(MakingRequest(stage=folder / "bundle"))
    for index, answer in enumerate(answers.of(case, source)):
        np.savez(folder / f"expected-{index}.npz", **answer)


if __name__ == "__main__":
    serve(handle)

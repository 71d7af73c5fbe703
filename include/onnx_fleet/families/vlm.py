"""Vision-language models: refused, with the reason, until they can be made right."""

from __future__ import annotations

from pathlib import Path
from typing import NoReturn

from transformers import PreTrainedModel

from onnx_fleet.errors import ExportUnsupported
from onnx_fleet.families import Family
from onnx_fleet.plan import WorkItem


def load(item: WorkItem, source_dir: Path) -> PreTrainedModel:
    """Refuse before the weights are read.

    Raises:
        ExportUnsupported: always.
    """
    _refuse(item)


def whole(item: WorkItem, model: PreTrainedModel) -> NoReturn:
    """As load."""
    _refuse(item)


def graphs(item: WorkItem, model: PreTrainedModel) -> NoReturn:
    """As load."""
    _refuse(item)


def _refuse(item: WorkItem) -> NoReturn:
    raise ExportUnsupported(
        f"{item.model.repo_id}@{item.model.commit[:8]}: {item.model.architecture} answers questions about images, and "
        f"how many tokens an image takes depends on what is in the prompt: its graphs are not proven to be right yet; "
        f"serve it with PyTorch, or take it out of the catalogue"
    )


FAMILY = Family(name="vlm", load=load, whole=whole, graphs=graphs)

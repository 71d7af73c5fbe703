"""What an entry may name to tune and judge its variants with: a file of texts, or a folder of pictures."""

from __future__ import annotations

from pathlib import Path, PurePosixPath
from typing import Final, Literal

from onnx_fleet.bundles.stage import Stage
from onnx_fleet.errors import ExportUnsupported, ModelInvalid
from onnx_fleet.planning.calibration import images, texts
from onnx_fleet.planning.calibration.texts import ROOT

Kind = Literal["text", "image"]

CAME_WITH: Final = "calibration"
"""The subfolder of a stage's private part with what came with it from the worker that planned."""


def kind(name: str) -> Kind:
    """Tell what lies there, by the name."""
    return "text" if PurePosixPath(name).suffix in texts.SUFFIXES else "image"


def digest(name: str, *, root: Path = ROOT) -> str | None:
    """Return the SHA-256 of what lies there, 64 hexadecimal digits; None where there is nothing."""
    return texts.digest(name, root=root) if kind(name) == "text" else images.digest(name, root=root)


def files(name: str) -> dict[str, Path]:
    """Return the file, or the pictures that count, of this machine: POSIX path beside recipes/ -> path."""
    found = (ROOT / name,) if kind(name) == "text" else images.of(name, root=ROOT)
    return {path.relative_to(ROOT).as_posix(): path for path in found}


def root_of(stage: Stage) -> Path:
    """Return the folder in which a worker has what a stage's entry names: what came with the stage, or its own.

    Raises:
        ExportUnsupported: what is there is not what the plan was made with.
    """
    name, came = stage.item.model.entry.calibration, stage.private / CAME_WITH
    root = came if came.is_dir() else ROOT
    if name is not None and digest(name, root=root) != stage.item.calibration_digest:
        raise ExportUnsupported(
            f"{stage.item.model_id}: calibration '{name}' is not the one that the plan was made with; put the same"
            " file or folder on every worker, and plan again"
        )
    return root


def fault(name: str, *, root: Path = ROOT) -> str | None:
    """Say why nothing can be tuned with it, and what to write instead; None where it will do."""
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or (path.suffix and path.suffix not in texts.SUFFIXES):
        return (
            f"calibration '{name}' is not a .txt or .jsonl file, nor a folder of pictures, beside recipes/; write "
            f"corpora/reviews.txt, or corpora/photos"
        )
    if not (root / name).exists():
        return f"calibration '{name}' does not exist; put the file or folder beside recipes/, on every worker"
    try:
        if kind(name) == "text":
            texts.of(name, root=root)
        else:
            for picture in images.of(name, root=root):
                images.read(picture)
    except ModelInvalid as err:
        return str(err)
    return None

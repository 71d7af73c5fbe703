"""What an entry may name to tune and judge its variants with: a file of texts, or a folder of pictures."""

from __future__ import annotations

from pathlib import Path, PurePosixPath
from typing import Literal

from onnx_fleet.errors import ModelInvalid
from onnx_fleet.planning.calibration import images, texts
from onnx_fleet.planning.calibration.texts import ROOT

Kind = Literal["text", "image"]


def kind(name: str) -> Kind:
    """Tell what lies there, by the name."""
    return "text" if PurePosixPath(name).suffix in texts.SUFFIXES else "image"


def digest(name: str, *, root: Path = ROOT) -> str | None:
    """Return the SHA-256 of what lies there, 64 hexadecimal digits; None where there is nothing."""
    return texts.digest(name, root=root) if kind(name) == "text" else images.digest(name, root=root)


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

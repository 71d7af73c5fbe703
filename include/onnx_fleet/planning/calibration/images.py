"""Pictures to calibrate variants with and to judge them by: an entry's own folder of them, as consumers feed them."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING

from onnx_fleet.errors import ModelInvalid
from onnx_fleet.planning.calibration.texts import ROOT

if TYPE_CHECKING:
    from PIL.Image import Image


SUFFIXES = (".png", ".jpg", ".jpeg")
MAX_PICTURES = 128
"""The most pictures that are taken of an entry's folder, the first N by name."""


def of(name: str, *, root: Path = ROOT) -> tuple[Path, ...]:
    """Return the pictures of an entry's folder, by name.

    Args:
        name: relative to root.
        root: the folder that recipes/ lies in.
    Raises:
        ModelInvalid: the folder is not there, or has no pictures.
    """
    folder = root / name
    found = sorted(path for path in folder.glob("*") if path.suffix.lower() in SUFFIXES and path.is_file())
    if not found:
        raise ModelInvalid(
            f"calibration '{name}': contains no pictures; put {', '.join(SUFFIXES)} files into that folder"
        )
    return tuple(found[:MAX_PICTURES])


def read(path: Path) -> Image:
    """Read a picture in red, green and blue.

    Raises:
        ModelInvalid: it cannot be read.
    """
    from PIL import Image

    try:
        with Image.open(path) as opened:
            return opened.convert("RGB")
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as err:  # SyntaxError: a broken PNG
        raise ModelInvalid(
            f"calibration '{path.parent.name}': {path.name} cannot be read ({type(err).__name__}); repair it, or "
            f"remove it from the folder"
        ) from err


def digest(name: str, *, root: Path = ROOT) -> str | None:
    """Return the SHA-256 of the pictures' names and bytes, 64 hexadecimal digits; None where there are none."""
    try:
        found = of(name, root=root)
    except ModelInvalid:
        return None
    whole = hashlib.sha256()
    for path in found:
        whole.update(path.name.encode() + b"\0" + hashlib.sha256(path.read_bytes()).digest())
    return whole.hexdigest()

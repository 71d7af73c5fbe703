"""The packages that decide a graph's bytes, and their versions; nothing of them is imported."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from typing import Final

from onnx_fleet.errors import ExportUnsupported

EXPORT_FORMAT: Final = 7
"""The number of our own format; raise it whenever our code comes to write other bytes for the same model, and every
bundle is made anew."""

PACKAGES: Final = (
    "torch",
    "transformers",
    "sentence-transformers",
    "onnx",
    "onnxscript",
    "onnx-ir",
    "onnxruntime",
    "tokenizers",
    "safetensors",
)

FORMAT_KEY: Final = "onnx-fleet export format"


def versions() -> Mapping[str, str]:
    """Return the versions of the packages, sorted by name.

    A local part is left out: ``torch 2.13.0+cpu`` and ``2.13.0`` give the same graphs, and a fleet may run on both.

    Raises:
        ExportUnsupported: a package is not installed.
    """
    return dict(sorted([(FORMAT_KEY, str(EXPORT_FORMAT)), *((name, _version(name)) for name in PACKAGES)]))


@cache
def _version(name: str) -> str:
    """Return the version of an installed package; finding it takes milliseconds."""
    try:
        return version(name).partition("+")[0]
    except PackageNotFoundError as err:
        raise ExportUnsupported(f"{name} is not installed here; run: pip install -r requirements.txt") from err

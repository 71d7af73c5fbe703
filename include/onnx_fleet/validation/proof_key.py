"""The key of a proof: all that decides what it finds, apart from the values of the weights.

Of two stages with one key, what was proven of one whole need only be repeated in part for the other. In the key are the
graphs as they lie in the stage, with every value in them that is no weight of the checkpoint; what the exporter calls
the same graphs (export/cache_keys.py: configuration, code, settings and packages); what the entry wants; the code that
exports, loads and compares; and the processor. docs/decisions/repeat-proof.md says why that suffices.
"""

from __future__ import annotations

import hashlib
from functools import cache
from pathlib import Path
from typing import Final

import onnx_fleet
from onnx_fleet import jsonio
from onnx_fleet.bundles.stage import Stage
from onnx_fleet.entities.graph_info import GraphInfo
from onnx_fleet.entities.variant import FP32
from onnx_fleet.graphs import structure
from onnx_fleet.processes import hardware
from onnx_fleet.source import checkpoint

_CODE: Final = ("conventions", "graphs", "source", "export", "validation")
"""The rooms whose code decides what a proof finds."""


def of_stage(stage: Stage, *, source_dir: Path) -> str | None:
    """Return the key of an exported stage's proof on the CPU, 64 hex digits.

    Returns:
        None where the proof is this bundle's own: no key tells all that its graphs depend on, a file of the stage was
        changed since the export, or a graph cannot be read.
    Raises:
        BundleNotFound: nothing was exported into the stage.
    """
    record, entry = stage.read_export(), stage.item.model.entry
    if record.graph_key is None or stage.is_changed():
        return None
    weights = frozenset(checkpoint.read(source_dir))
    structures = {info.path: _structure(stage, info, weights) for info in record.graphs if info.variant == FP32}
    if None in structures.values():
        return None
    machine = hardware.hardware()
    told = {
        "graphs": record.graph_key,
        "family": stage.item.family,
        "tokenizer": entry.tokenizer,
        "tolerances": jsonio.to_json(entry.tolerances),
        "structure": structures,
        "code": _code(),
        "machine": {name: machine[name] for name in ("cpu_model", "cpu_architecture")},
        "runtime": hardware.versions(),
    }
    return hashlib.sha256(jsonio.canonical(told)).hexdigest()


def _structure(stage: Stage, info: GraphInfo, weights: frozenset[str]) -> str | None:
    """Return the digest of one graph; None where it cannot be read, which comparing it says better."""
    from google.protobuf.message import DecodeError

    try:
        return structure.digest(stage.folder / info.path, weights=weights)
    except (OSError, DecodeError):
        return None


@cache
def _code() -> str:
    """Return the SHA-256 of our own code that a proof is made with."""
    root, told = Path(onnx_fleet.__file__).parent, hashlib.sha256()
    for path in sorted(path for room in _CODE for path in (root / room).rglob("*.py")):
        told.update(path.relative_to(root).as_posix().encode() + b"\0" + path.read_bytes())
    return told.hexdigest()

"""Traced graphs: the result of a trace, without weights, and the archive in which they wait for the next checkpoint."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from onnx_fleet import jsonio
from onnx_fleet.entities.export_record import Fallback, Way
from onnx_fleet.errors import BundleCorrupt
from onnx_fleet.processes import profiling
from onnx_fleet.store import archive

if TYPE_CHECKING:
    import onnx


@dataclass(frozen=True, slots=True, kw_only=True)
class Traced:
    """The graphs of one model."""

    graphs: Mapping[str, onnx.ModelProto]
    """The graphs by role, in the family's order; they refer to the checkpoint's tensors (see weight_placement)."""
    fallbacks: tuple[Fallback, ...]
    way: Way
    derived: Path | None = None
    """The safetensors file with the weights that are not the checkpoint's own; None where all of them are.

    A recipe makes such weights, or they are made from several tensors. No other model can take the graphs then.
    """
    left_out: tuple[str, ...] = ()
    """A statement for people: tensors of the checkpoint that the graphs are without, each group with its reason."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _About:
    roles: tuple[str, ...]
    way: Way
    fallbacks: tuple[Fallback, ...]
    left_out: tuple[str, ...] = ()


def pack(traced: Traced) -> bytes:
    """Return the graphs as one archive."""
    files = {f"{role}.onnx": model.SerializeToString(deterministic=True) for role, model in traced.graphs.items()}
    about = _About(roles=tuple(traced.graphs), way=traced.way, fallbacks=traced.fallbacks, left_out=traced.left_out)
    return archive.pack(files, about=jsonio.to_json(about))


def unpack(data: bytes) -> Traced:
    """Read an archive that pack made; the graphs are cached ones now.

    Raises:
        BundleCorrupt: it is not such an archive.
    """
    with profiling.timed("imports"):
        import onnx
        from google.protobuf.message import DecodeError

    files, told = archive.unpack(data)
    try:
        about = jsonio.from_json(_About, told)
        graphs = {role: onnx.ModelProto.FromString(files[f"{role}.onnx"]) for role in about.roles}
    except (KeyError, ValueError, DecodeError) as err:
        raise BundleCorrupt(f"not an archive of traced graphs: {type(err).__name__}: {err}") from err
    return Traced(graphs=graphs, fallbacks=about.fallbacks, way="cached", left_out=about.left_out)

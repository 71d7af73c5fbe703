"""Traced graphs: what a trace gives, without weights, and the archive in which they wait for the next checkpoint."""

from __future__ import annotations

import hashlib
import io
import json
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from onnx_fleet import jsonio
from onnx_fleet.errors import BundleCorrupt
from onnx_fleet.stage import Fallback, Way

if TYPE_CHECKING:
    import onnx

_ABOUT = "about.json"
_MADE = (1980, 1, 1, 0, 0, 0)
"""The same graphs are the same bytes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Traced:
    """The graphs of one model."""

    graphs: Mapping[str, onnx.ModelProto]
    """By role, in the family's order; they refer to the checkpoint's tensors, as weights.save_all reads it."""
    fallbacks: tuple[Fallback, ...]
    way: Way
    derived: Path | None = None
    """A safetensors file with the weights that are not the checkpoint's own: a recipe's, or made from several of its
    tensors. Where there is one, no other model can take the graphs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _About:
    roles: tuple[str, ...]
    digests: Mapping[str, str]
    """Role -> SHA-256 of the graph's file, hex."""
    fallbacks: tuple[Fallback, ...]


def pack(traced: Traced) -> bytes:
    """The graphs as one archive."""
    files = {role: model.SerializeToString(deterministic=True) for role, model in traced.graphs.items()}
    about = _About(
        roles=tuple(files),
        digests={role: hashlib.sha256(data).hexdigest() for role, data in files.items()},
        fallbacks=traced.fallbacks,
    )
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(zipfile.ZipInfo(_ABOUT, _MADE), jsonio.canonical(jsonio.to_json(about)))
        for role, data in files.items():
            info = zipfile.ZipInfo(f"{role}.onnx", _MADE)
            info.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(info, data)
    return buffer.getvalue()


def unpack(archive: bytes) -> Traced:
    """The inverse of pack.

    Raises:
        BundleCorrupt: it is not such an archive, or a graph is not the one that was packed.
    """
    import onnx
    from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

    try:
        about, files = _read(archive)
        graphs = {role: onnx.ModelProto.FromString(files[role]) for role in about.roles}
    except (zipfile.BadZipFile, KeyError, ValueError, DecodeError) as err:
        raise BundleCorrupt(f"not an archive of traced graphs: {type(err).__name__}: {err}") from err
    return Traced(graphs=graphs, fallbacks=about.fallbacks, way="cached")


def require_whole(archive: bytes) -> None:
    """Refuse an archive whose graphs are not those that were packed; nothing of ONNX is imported.

    Raises:
        BundleCorrupt: it is not such an archive, or a graph is not the one that was packed.
    """
    try:
        _read(archive)
    except (zipfile.BadZipFile, KeyError, ValueError) as err:
        raise BundleCorrupt(f"not an archive of traced graphs: {type(err).__name__}: {err}") from err


def _read(archive: bytes) -> tuple[_About, dict[str, bytes]]:
    with zipfile.ZipFile(io.BytesIO(archive)) as opened:
        about = jsonio.from_json(_About, json.loads(opened.read(_ABOUT)))
        files = {role: opened.read(f"{role}.onnx") for role in about.roles}
    for role, data in files.items():
        if hashlib.sha256(data).hexdigest() != about.digests[role]:
            raise ValueError(f"{role}.onnx is not the graph that was packed")
    return about, files

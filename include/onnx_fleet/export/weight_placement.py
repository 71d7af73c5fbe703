"""The place of the graphs' weights: inside a graph's file, or beside it; what several graphs use, once for all of them.

A traced graph refers to the checkpoint's tensors by their names and has no values of them. Here it gets them: where
the checkpoint's own file will do, that very file becomes the graph's external data, and nothing is converted.
docs/decisions/weights.md says when it will do.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from onnx_fleet.entities.entry import INLINE_MAX_BYTES, WeightPlacement
from onnx_fleet.errors import BundleCorrupt, ExportUnsupported
from onnx_fleet.graphs.initializers import external_data, put_beside, tensors_of
from onnx_fleet.source.checkpoint import StoredTensor

if TYPE_CHECKING:
    import numpy as np
    import onnx

SCHEME = "checkpoint:"
"""The prefix of an initializer's data location in a traced graph, before the tensor's name in the checkpoint."""

_PROTOBUF_LIMIT_BYTES = 2_000_000_000
"""The largest size of a graph's file: no protobuf message exceeds 2 GiB, and the graph itself needs some of it."""
_SMALL_BYTES = 1024
"""The size below which weights stay in the graph: consumers fold shapes and scalars before they read external data."""
_MOSTLY_USED = 0.9
"""The share of a checkpoint's file that the graphs must use; below it, only the used part is written."""
_ALIGNMENT_BYTES = 64
_PIECE_BYTES = 16 << 20
"""The number of bytes that are copied or converted at once."""


def references(model: onnx.ModelProto) -> dict[str, tuple[int, ...]]:
    """Return the shapes of the checkpoint's tensors that a traced graph refers to, by the tensors' names."""
    return {name: tuple(tensor.dims) for tensor in tensors_of(model) if (name := _referred(tensor))}


def save_all(
    models: Mapping[str, onnx.ModelProto],
    folder: Path,
    *,
    tensors: Mapping[str, StoredTensor],
    placement: WeightPlacement = "auto",
    inline_max_bytes: int = INLINE_MAX_BYTES,
    link: bool = False,
) -> dict[str, Path]:
    """Write the graphs of a bundle, by role, with every weight once.

    Graphs that share no weight are files of their own. Those that do have their data together, named after the first
    of them: ``encoder_model.onnx_data`` holds the decoder's weights too.

    Args:
        models: the traced graphs, which are changed.
        tensors: the checkpoint's tensors by name.
        placement: ``inline`` gives each graph its own copy of what it shares with others.
        link: hard-link the checkpoint's file as a data file, where the file system can; whoever changes the one then
            changes the other.
    Returns:
        The graphs' files by role.
    Raises:
        ExportUnsupported: a graph with its weights inside would be larger than ONNX allows.
        BundleCorrupt: a graph refers to a tensor that is not among these, or has another shape.
    """
    folder.mkdir(parents=True, exist_ok=True)
    weights = {role: _large_weights(model, tensors) for role, model in models.items()}
    for roles in _sharing(weights):
        group = {role: weights[role] for role in roles}
        if _goes_inside(group, placement=placement, max_bytes=inline_max_bytes):
            for weight in _all(group):
                weight.put_inside()
        else:
            _put_beside(group, folder, link=link)
    paths = {role: folder / f"{role}.onnx" for role in models}
    for role, path in paths.items():
        path.write_bytes(models[role].SerializeToString(deterministic=True))
    return paths


@dataclass(frozen=True, slots=True, kw_only=True)
class _Weight:
    """One initializer of one graph."""

    tensor: onnx.TensorProto
    stored: StoredTensor
    dtype: np.dtype
    """The type that the graph has the weight in."""

    @property
    def key(self) -> tuple[str, str]:
        """The identity of the weight, the same in all graphs that use it."""
        return self.stored.name, self.dtype.name

    @property
    def size_bytes(self) -> int:
        """The weight's size in the graph's type, in bytes."""
        return self.stored.count * self.dtype.itemsize

    @property
    def is_the_checkpoints_bytes(self) -> bool:
        return self.stored.dtype == self.dtype.name

    def pieces(self) -> Iterator[np.ndarray]:
        """Iterate over the weight's values in order, in the graph's type: [values of one piece] each."""
        values = self.stored.array().reshape(-1)
        step = _PIECE_BYTES // self.dtype.itemsize
        for start in range(0, values.size, step):
            yield values[start : start + step].astype(self.dtype, copy=False)

    def put_inside(self) -> None:
        """Store the values inside the graph."""
        self.tensor.ClearField("data_location")
        del self.tensor.external_data[:]
        self.tensor.raw_data = self.stored.array().astype(self.dtype, copy=False).tobytes()

    def put_at(self, location: str, offset: int) -> None:
        """Make the graph read the values from a file beside it."""
        put_beside(self.tensor, location, offset=offset, size_bytes=self.size_bytes)


def _large_weights(model: onnx.ModelProto, tensors: Mapping[str, StoredTensor]) -> list[_Weight]:
    """Return the large weights that a graph refers to; small ones are put inside at once."""
    from onnx import helper

    found = []
    for tensor in tensors_of(model):
        name = _referred(tensor)
        if name is None:
            continue
        stored = tensors.get(name)
        if stored is None or stored.shape != tuple(tensor.dims):
            there = f"has the shape {list(stored.shape)}" if stored else "is missing"
            raise BundleCorrupt(f"{name} {there} in the checkpoint, and the graph wants {list(tensor.dims)}")
        weight = _Weight(tensor=tensor, stored=stored, dtype=helper.tensor_dtype_to_np_dtype(tensor.data_type))
        if weight.size_bytes < _SMALL_BYTES:
            weight.put_inside()
        else:
            found.append(weight)
    return found


def _sharing(weights: Mapping[str, list[_Weight]]) -> list[tuple[str, ...]]:
    """Group the roles: one group has those that share a weight, directly or through others."""
    groups: list[tuple[set[str], set[tuple[str, str]]]] = []
    for role, found in weights.items():
        roles, keys = {role}, {weight.key for weight in found}
        apart = []
        for group in groups:
            if group[1] & keys:
                roles, keys = roles | group[0], keys | group[1]
            else:
                apart.append(group)
        groups = [*apart, (roles, keys)]
    return [tuple(role for role in weights if role in roles) for roles, _ in groups]


def _goes_inside(group: Mapping[str, list[_Weight]], *, placement: WeightPlacement, max_bytes: int) -> bool:
    largest = max(sum(weight.size_bytes for weight in weights) for weights in group.values())
    if placement == "inline" and largest > _PROTOBUF_LIMIT_BYTES:
        raise ExportUnsupported(
            f"{', '.join(group)}: {largest:,} bytes of weights do not fit into a graph's file, which ends at 2 GiB; "
            f"take `weights: inline` out of the entry"
        )
    return placement == "inline" or (placement == "auto" and len(group) == 1 and largest <= max_bytes)


def _put_beside(group: Mapping[str, list[_Weight]], folder: Path, *, link: bool) -> None:
    """Give a group of graphs their data files: the checkpoint's own where they will do, and one for all the rest."""
    names = _data_names(next(iter(group)))
    rest = list(_all(group))
    for file in _files_that_will_do(group):
        name = next(names)
        _bring(file, folder / name, link=link)
        for weight in (weight for weight in rest if weight.stored.file == file):
            weight.put_at(name, weight.stored.offset)
        rest = [weight for weight in rest if weight.stored.file != file]
    if rest:
        _write(rest, folder, next(names))


def _files_that_will_do(group: Mapping[str, list[_Weight]]) -> list[Path]:
    """Return the checkpoint's files that the graphs use in their own types, and nearly all of."""
    uses: dict[Path, dict[tuple[str, str], _Weight]] = {}
    for weight in _all(group):
        uses.setdefault(weight.stored.file, {})[weight.key] = weight
    return [
        file
        for file, used in sorted(uses.items())
        if all(weight.is_the_checkpoints_bytes for weight in used.values())
        and sum(weight.size_bytes for weight in used.values()) >= _MOSTLY_USED * file.stat().st_size
    ]


def _data_names(role: str) -> Iterator[str]:
    """Iterate over data file names as transformers.js numbers them: ``model.onnx_data``, ``model.onnx_data_1``, …"""
    number = 0
    while True:
        yield f"{role}.onnx_data{f'_{number}' if number else ''}"
        number += 1


def _bring(file: Path, target: Path, *, link: bool) -> None:
    """Link or copy the checkpoint's file; a file system that can shares the bytes until one of the two is changed."""
    target.unlink(missing_ok=True)
    source = file.resolve()  # huggingface_hub's snapshots are symbolic links
    if link:
        with suppress(OSError):
            os.link(source, target)
            return
    with source.open("rb") as given, target.open("xb") as taken, suppress(OSError):
        rest = os.fstat(given.fileno()).st_size
        while rest and (copied := os.copy_file_range(given.fileno(), taken.fileno(), rest)):
            rest -= copied
        if not rest:
            return
    shutil.copyfile(source, target)


def _write(weights: Iterable[_Weight], folder: Path, name: str) -> None:
    """Write what several graphs use once, piece by piece."""
    places: dict[tuple[str, str], int] = {}
    with (folder / name).open("wb") as file:
        for weight in weights:
            if weight.key not in places:
                places[weight.key] = _append(file, weight)
            weight.put_at(name, places[weight.key])


def _append(file: BinaryIO, weight: _Weight) -> int:
    file.write(bytes(-file.tell() % _ALIGNMENT_BYTES))
    offset = file.tell()
    for piece in weight.pieces():
        file.write(piece.tobytes())
    return offset


def _all(group: Mapping[str, list[_Weight]]) -> Iterator[_Weight]:
    return (weight for weights in group.values() for weight in weights)


def _referred(tensor: onnx.TensorProto) -> str | None:
    """Return the name of the checkpoint's tensor that an initializer refers to."""
    data = external_data(tensor)
    return data.location.removeprefix(SCHEME) if data and data.location.startswith(SCHEME) else None

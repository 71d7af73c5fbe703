"""The checkpoint: where each tensor lies in a source's safetensors files. Only headers are read, unless asked.

The format is eight bytes of the header's length, the header in JSON, and the tensors:
https://huggingface.co/docs/safetensors/index#format
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from onnx_fleet.conventions import sentence_modules
from onnx_fleet.errors import ModelInvalid
from onnx_fleet.source.repo_files import WEIGHTS, WEIGHTS_INDEX

if TYPE_CHECKING:
    import numpy as np

_DTYPES: Mapping[str, str] = {
    "BOOL": "bool", "U8": "uint8", "I8": "int8", "U16": "uint16", "I16": "int16", "U32": "uint32", "I32": "int32",
    "U64": "uint64", "I64": "int64", "F16": "float16", "BF16": "bfloat16", "F32": "float32", "F64": "float64",
}  # fmt: skip
"""The names of types in numpy and ml_dtypes, by their names in safetensors."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredTensor:
    """One tensor of a checkpoint."""

    name: str
    file: Path
    dtype: str
    """The type's name in numpy, or ``bfloat16``; a type that numpy has no name for keeps safetensors'."""
    shape: tuple[int, ...]
    offset: int
    """The offset of the tensor's first byte in the file."""
    size_bytes: int

    @property
    def count(self) -> int:
        """The number of values."""
        return math.prod(self.shape)

    def array(self) -> np.ndarray:
        """Return the values, of the tensor's shape and type, mapped from the file: pages are read when touched."""
        import ml_dtypes
        import numpy as np

        dtype = np.dtype(ml_dtypes.bfloat16 if self.dtype == "bfloat16" else self.dtype)
        if not self.size_bytes:
            return np.empty(self.shape, dtype)
        mapped = np.memmap(self.file, np.uint8, mode="r", offset=self.offset, shape=(self.size_bytes,))
        return mapped.view(np.ndarray).view(dtype).reshape(self.shape)


def read(source_dir: Path) -> dict[str, StoredTensor]:
    """Return every tensor of a source's safetensors files by name; empty where its weights are not in safetensors.

    Those of a sentence-transformers source's modules are among them, by ``sentence_modules.<folder>.<name>``.

    Raises:
        ModelInvalid: a file is not what its header says.
    """
    found = {tensor.name: tensor for path in files(source_dir) for tensor in tensors_of(path)}
    return {**found, **{tensor.name: tensor for tensor in _of_modules(source_dir)}} if found else {}


def _of_modules(source_dir: Path) -> Iterator[StoredTensor]:
    for module in sentence_modules.listed(source_dir):
        path = source_dir / module.path / sentence_modules.WEIGHTS
        if module.path and path.exists():
            for tensor in tensors_of(path):
                yield replace(tensor, name=f"{module.prefix}{tensor.name}")


def files(source_dir: Path) -> tuple[Path, ...]:
    """Return the files with the source's weights: its one file, or the shards that its index names, in order.

    Raises:
        ModelInvalid: the index cannot be read as one.
    """
    if (source_dir / WEIGHTS).exists():
        return (source_dir / WEIGHTS,)
    index = source_dir / WEIGHTS_INDEX
    if not index.exists():
        return ()
    try:
        shards = set(json.loads(index.read_bytes())["weight_map"].values())
    except (ValueError, KeyError, AttributeError) as err:
        raise ModelInvalid(f"{index.name}: names no shards ({err}); publish the weights again") from err
    return tuple(source_dir / name for name in sorted(shards))


def tensors_of(path: Path) -> Iterator[StoredTensor]:
    """Iterate over the tensors of one safetensors file.

    Raises:
        ModelInvalid: the file is not what its header says.
    """
    size = path.stat().st_size
    try:
        with path.open("rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            if length > size:
                raise ValueError(f"a header of {length} bytes in a file of {size}")
            header = json.loads(file.read(length))
        header.pop("__metadata__", None)
        for name, told in header.items():
            start, end = told["data_offsets"]
            offset = 8 + length + start
            if not 8 + length <= offset <= 8 + length + end <= size:
                raise ValueError(f"{name} ends at byte {8 + length + end} of {size}")
            found = StoredTensor(
                name=name,
                file=path,
                dtype=_DTYPES.get(told["dtype"], told["dtype"]),
                shape=tuple(told["shape"]),
                offset=offset,
                size_bytes=end - start,
            )
            if told["dtype"] in _DTYPES and found.count * _item_bytes(found.dtype) != found.size_bytes:
                raise ValueError(f"{name} has {found.size_bytes} bytes for {list(found.shape)} of {found.dtype}")
            yield found
    except (struct.error, ValueError, KeyError, TypeError, AttributeError) as err:
        raise ModelInvalid(f"{path.name} is not readable as safetensors ({err}); publish the weights again") from err


def _item_bytes(dtype: str) -> int:
    """Return the bytes of one value, read from a type's name; a bool takes one byte."""
    return int("".join(filter(str.isdigit, dtype)) or 8) // 8

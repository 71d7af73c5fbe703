"""The tensors and nodes of an ONNX file as it lies: where each weight is, without reading any that lies beside it.

Graphs that are changed are onnx_ir's; those that are only looked at here are protobuf. onnx_ir takes ten times as long
to read one (35 ms instead of 4 for 3,000 nodes), 0.2 s to be imported, which a cached export does without, and
refuses a data file that has a second name, which in a run it has (see array).
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    import onnx
    from onnx.external_data_helper import ExternalDataInfo

_CHUNK_BYTES = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Weight:
    """One initializer."""

    name: str
    dtype: str
    """numpy's name: ``float32``; ONNX's own where numpy has none."""
    shape: tuple[int, ...]
    size_bytes: int
    file: str
    """The file that holds it, relative to the bundle; the graph's own path where it is inside."""
    offset: int
    """The first byte in the file, for what lies beside the graph; 0 inside it."""
    external: bool
    shared_with: tuple[str, ...] = ()
    """The other graphs that read these very bytes."""

    @property
    def place(self) -> tuple[str, int, int]:
        """File, offset and size: one place is one weight, whoever reads it."""
        return self.file, self.offset, self.size_bytes


def subgraphs(model: onnx.ModelProto) -> Iterator[Sequence[onnx.NodeProto]]:
    """Yield the nodes of the graph, then of every graph inside it, then of every function."""
    for graph in graphs(model):
        yield graph.node
    for function in model.functions:
        yield function.node
        for inner in _inside(function.node):
            yield inner.node


def graphs(model: onnx.ModelProto) -> Iterator[onnx.GraphProto]:
    """Yield the graph, and every graph inside it."""
    yield model.graph
    yield from _inside(model.graph.node)


def tensors_of(model: onnx.ModelProto) -> Iterator[onnx.TensorProto]:
    """Yield every initializer of the graph and of the graphs inside it."""
    for graph in graphs(model):
        yield from graph.initializer


def weights_of(model: onnx.ModelProto, *, path: str) -> Iterator[Weight]:
    """Describe every initializer of the graph and of the graphs inside it.

    Args:
        path: the graph's, relative to the bundle.
    """
    for tensor in tensors_of(model):
        yield _weight(tensor, path=path)


def tensors_inside(model: onnx.ModelProto) -> dict[str, onnx.TensorProto]:
    """Return the initializers that lie in the graph's own file, by name."""
    return {tensor.name: tensor for tensor in tensors_of(model) if not external_data(tensor)}


def external_data(tensor: onnx.TensorProto) -> ExternalDataInfo | None:
    """Return where an initializer's values lie in a file beside its graph; None where they lie inside it."""
    from onnx.external_data_helper import ExternalDataInfo, uses_external_data

    return ExternalDataInfo(tensor) if uses_external_data(tensor) else None


def put_beside(tensor: onnx.TensorProto, location: str, *, offset: int, size_bytes: int) -> None:
    """Have a graph read an initializer's values from a file beside it.

    Args:
        location: the file's path, relative to the graph's folder.
    """
    import onnx

    tensor.data_location = onnx.TensorProto.EXTERNAL
    del tensor.external_data[:]
    for key, value in (("location", location), ("offset", offset), ("length", size_bytes)):
        tensor.external_data.add(key=key, value=str(value))


def digest(weight: Weight, *, inside: Mapping[str, onnx.TensorProto], bundle: Path) -> str:
    """Return the SHA-256 of dtype, shape and bytes; a file beside the graph is read a chunk at a time."""
    from onnx import numpy_helper

    made = hashlib.sha256(f"{weight.dtype} {weight.shape} ".encode())
    if not weight.external:
        tensor = inside[weight.name]
        made.update(tensor.raw_data or numpy_helper.to_array(tensor).tobytes())
        return made.hexdigest()
    left = weight.size_bytes
    with (bundle / weight.file).open("rb") as file:
        file.seek(weight.offset)
        while left and (chunk := file.read(min(left, _CHUNK_BYTES))):
            made.update(chunk)
            left -= len(chunk)
    return made.hexdigest()


def size_bytes(tensor: onnx.TensorProto) -> int:
    """Return the bytes of an initializer's numbers, wherever they lie, without its name, which can be longer."""
    count: int = math.prod(tensor.dims)
    return math.ceil(count * _bits(tensor.data_type) / 8)


def dtype_name(kind: int) -> str:
    """Return the name for ONNX's number of a type: ``float32``."""
    import onnx

    name = str(onnx.TensorProto.DataType.Name(kind)).lower()
    return {"float": "float32", "double": "float64"}.get(name, name)


def _inside(nodes: Iterable[onnx.NodeProto]) -> Iterator[onnx.GraphProto]:
    for node in nodes:
        for attribute in node.attribute:
            for graph in (*([attribute.g] if attribute.HasField("g") else ()), *attribute.graphs):
                yield graph
                yield from _inside(graph.node)


def _weight(tensor: onnx.TensorProto, *, path: str) -> Weight:
    data = external_data(tensor)
    stated = data.length if data else None
    return Weight(
        name=tensor.name,
        dtype=dtype_name(tensor.data_type),
        shape=tuple(tensor.dims),
        size_bytes=stated or size_bytes(tensor),
        file=(Path(path).parent / data.location).as_posix() if data else path,
        offset=(data.offset or 0) if data else 0,
        external=data is not None,
    )


def _bits(kind: int) -> int:
    import onnx
    from onnx import helper

    name = str(onnx.TensorProto.DataType.Name(kind))
    if name.endswith("INT4") or name.startswith("FLOAT4"):
        return 4
    if name.endswith("INT2"):
        return 2
    if name == "STRING":
        return 0
    return int(helper.tensor_dtype_to_np_dtype(kind).itemsize) * 8


def array(tensor: onnx.TensorProto, folder: Path) -> np.ndarray:
    """Return an initializer's values, in its own shape and type; where it lies beside its graph, a view of the file.

    onnx's own reader takes a file with two names for an attack, and in a run a data file is the download's under a
    second one.

    Args:
        folder: the graph's folder.
    """
    import numpy as np
    import onnx

    data = external_data(tensor)
    if not data:
        return onnx.numpy_helper.to_array(tensor)
    found: np.ndarray = np.memmap(
        folder / data.location,
        dtype=onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type),
        mode="r",
        offset=data.offset or 0,
        shape=tuple(tensor.dims),
    )
    return found

"""Look at the graphs of a bundle: what goes in and out, what they are made of, where their weights lie, what is odd.

Weights beside a graph are not read, but for their digests when those are asked for, a chunk at a time.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from onnx_fleet.bundles import stage
from onnx_fleet.entities.graph_info import TensorSpec
from onnx_fleet.errors import BundleCorrupt, BundleNotFound
from onnx_fleet.graphs import lint
from onnx_fleet.graphs.initializers import Weight, dtype_name, subgraphs, weights_of

if TYPE_CHECKING:
    import onnx

_LARGEST = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class GraphView:
    """One ONNX file."""

    path: str
    """Its path, relative to the bundle: ``onnx/model.onnx``."""
    size_bytes: int
    """The size of the file itself, without what lies beside it."""
    ir_version: int
    opsets: Mapping[str, int]
    """Domain -> version; the standard's own domain is ``ai.onnx``."""
    producer: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    nodes: int
    """How many there are in the graph, in the graphs inside it, and in functions."""
    ops: Mapping[str, int]
    """Op -> how often, the most frequent first; ``domain.Op`` outside the standard."""
    subgraphs: int
    """Branches of If and bodies of Loop and Scan."""
    functions: tuple[str, ...]
    weights: int
    weight_bytes: int
    bytes_by_dtype: Mapping[str, int]
    bytes_by_file: Mapping[str, int]
    """Where the weights lie, relative to the bundle; the graph's own path for those inside it."""
    largest: tuple[Weight, ...]
    warnings: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Inspection:
    """All graphs of a bundle."""

    bundle: str
    """The folder's or the file's name."""
    graphs: tuple[GraphView, ...]
    warnings: tuple[str, ...]
    """What only shows when the graphs are seen together."""


def inspect(path: Path, *, digests: bool = False) -> Inspection:
    """Describe every graph of a folder, or one ONNX file.

    Args:
        digests: read every weight once, and say which are there twice by their bytes instead of by their names.
    Raises:
        BundleNotFound: there is no such path, or no graph in it.
        BundleCorrupt: a file is no ONNX model.
    """
    bundle, files = _files(path)
    models = {file.relative_to(bundle).as_posix(): _load(file) for file in files}
    weights = {name: tuple(weights_of(model, path=name)) for name, model in models.items()}
    users = _users(weights)
    views = tuple(
        _view(model, bundle=bundle, path=name, weights=tuple(_shared(each, name, users) for each in weights[name]))
        for name, model in models.items()
    )
    return Inspection(
        bundle=path.resolve().name,
        graphs=views,
        warnings=(
            *lint.of_files(weights, bundle=bundle),
            *lint.of_copies(weights, models=models, bundle=bundle, digests=digests),
        ),
    )


def _files(path: Path) -> tuple[Path, tuple[Path, ...]]:
    if path.is_file():
        return path.parent, (path,)
    if not path.is_dir():
        raise BundleNotFound(f"{path}: no such file or folder; name a bundle's folder or an .onnx file")
    found = sorted(each for each in path.rglob("*.onnx") if each.is_file())
    files = tuple(each for each in found if each.relative_to(path).parts[0] != stage.PRIVATE)
    if not files:
        raise BundleNotFound(
            f"{path}: no .onnx file in it; pull a bundle with `onnx-fleet pull REF --to DIR`, or export into it"
        )
    return path, files


def _load(path: Path) -> onnx.ModelProto:
    import onnx
    from google.protobuf.message import DecodeError

    try:
        model = onnx.load(path, load_external_data=False)
    except DecodeError as err:
        raise BundleCorrupt(f"{path}: is not an ONNX model ({err}); pull or export it again") from err
    if not model.opset_import:
        raise BundleCorrupt(f"{path}: is not an ONNX model (it names no opset); pull or export it again")
    return model


def _users(weights: Mapping[str, tuple[Weight, ...]]) -> Mapping[tuple[str, int, int], tuple[str, ...]]:
    """A place beside the graphs -> the graphs that read it."""
    users: dict[tuple[str, int, int], list[str]] = {}
    for name, each in weights.items():
        for place in sorted({weight.place for weight in each if weight.external}):
            users.setdefault(place, []).append(name)
    return {place: tuple(names) for place, names in users.items()}


def _shared(weight: Weight, path: str, users: Mapping[tuple[str, int, int], tuple[str, ...]]) -> Weight:
    return replace(weight, shared_with=tuple(name for name in users.get(weight.place, ()) if name != path))


def _view(model: onnx.ModelProto, *, bundle: Path, path: str, weights: tuple[Weight, ...]) -> GraphView:
    nodes = [node for graph in subgraphs(model) for node in graph]
    ops = Counter(f"{node.domain}.{node.op_type}" if node.domain not in ("", "ai.onnx") else node.op_type
                  for node in nodes)  # fmt: skip
    by_dtype, by_file = Counter[str](), Counter[str]()
    for weight in weights:
        by_dtype[weight.dtype] += weight.size_bytes
        by_file[weight.file] += weight.size_bytes
    inputs, outputs = _specs(model.graph.input, model), _specs(model.graph.output, model)
    return GraphView(
        path=path,
        size_bytes=(bundle / path).stat().st_size,
        ir_version=model.ir_version,
        opsets={entry.domain or "ai.onnx": entry.version for entry in model.opset_import},
        producer=f"{model.producer_name} {model.producer_version}".strip(),
        inputs=inputs,
        outputs=outputs,
        nodes=len(nodes),
        ops=dict(sorted(ops.items(), key=lambda pair: (-pair[1], pair[0]))),
        subgraphs=len(list(subgraphs(model))) - 1 - len(model.functions),
        functions=tuple(f"{each.domain}.{each.name}" for each in model.functions),
        weights=len(weights),
        weight_bytes=sum(by_dtype.values()),
        bytes_by_dtype=dict(by_dtype.most_common()),
        bytes_by_file=dict(by_file.most_common()),
        largest=tuple(sorted(weights, key=lambda each: (-each.size_bytes, each.name))[:_LARGEST]),
        warnings=tuple(lint.of_graph(model, nodes=nodes, inputs=inputs, outputs=outputs, weights=weights)),
    )


def _specs(values: object, model: onnx.ModelProto) -> tuple[TensorSpec, ...]:
    """Inputs or outputs; older files list initializers among the inputs, which nobody feeds."""
    initializers = {tensor.name for tensor in model.graph.initializer}
    return tuple(
        TensorSpec(
            name=value.name,
            dtype=dtype_name(value.type.tensor_type.elem_type),
            shape=tuple(dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim),
        )
        for value in values  # type: ignore[attr-defined]
        if value.name not in initializers
    )

"""What is odd about a bundle's graphs: each function looks for its own kind, and says what, where and what next."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from onnx_fleet.entities.graph_info import SYMBOLS, TensorSpec
from onnx_fleet.formatting import human_bytes
from onnx_fleet.graphs.initializers import Weight, digest, tensors_inside

if TYPE_CHECKING:
    import onnx

_RUNTIME_DOMAINS = ("", "ai.onnx", "ai.onnx.ml", "ai.onnx.preview.training", "com.microsoft")
"""onnxruntime has these ops in itself."""

_SMALL_BYTES = 1024
"""Shapes and scalars may stand anywhere and any number of times."""

_ALIGNMENT_BYTES = 1 << 16
"""Writers align what they put into a data file, up to a page of 64 KiB."""

_WORD = re.compile(r"[A-Za-z_]\w*")


def of_graph(
    model: onnx.ModelProto,
    *,
    nodes: Sequence[onnx.NodeProto],
    inputs: Sequence[TensorSpec],
    outputs: Sequence[TensorSpec],
    weights: Sequence[Weight],
) -> Iterator[str]:
    """Yield what shows in one graph alone, for people."""
    yield from _frozen_batch(inputs)
    yield from _foreign_symbols((*inputs, *outputs))
    yield from _double_precision(nodes, weights)
    yield from _custom_ops(model, nodes)
    yield from _unnamed(weights)


def of_files(weights: Mapping[str, Sequence[Weight]], *, bundle: Path) -> Iterator[str]:
    """Yield data files that are missing, too short, or hold what no graph reads, for people."""
    by_file: dict[str, set[tuple[int, int]]] = {}
    for each in weights.values():
        for weight in each:
            if weight.external:
                by_file.setdefault(weight.file, set()).add((weight.offset, weight.size_bytes))
    for name, ranges in sorted(by_file.items()):
        if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts:
            yield f"{name}: weights are outside the bundle, and runtimes refuse such a path; export the model again"
            continue
        if not (bundle / name).is_file():
            yield f"{name}: is missing, and {len(ranges)} weights are in it; pull the bundle again"
            continue
        size = (bundle / name).stat().st_size
        end = max(offset + length for offset, length in ranges)
        unused = size - _covered(ranges)
        if end > size:
            yield f"{name}: ends at byte {size}, and weights are stored up to byte {end}; pull the bundle again"
        elif unused > _ALIGNMENT_BYTES * (len(ranges) + 1) or size - end > _ALIGNMENT_BYTES:
            yield f"{name}: {human_bytes(unused)} of its {human_bytes(size)} are not read by any graph"


def of_copies(
    weights: Mapping[str, Sequence[Weight]],
    *,
    models: Mapping[str, onnx.ModelProto],
    bundle: Path,
    digests: bool,
) -> Iterator[str]:
    """Yield weights that lie in the bundle twice: by their bytes, or else by what they are called and look like."""
    places: dict[object, dict[tuple[str, str, int], Weight]] = {}
    for path, each in weights.items():
        inside = tensors_inside(models[path]) if digests else {}
        for weight in each:
            if weight.size_bytes < _SMALL_BYTES or not (bundle / weight.file).is_file():
                continue
            key: object = (weight.name, weight.dtype, weight.shape)
            if digests:
                key = digest(weight, inside=inside, bundle=bundle)
            tensor = "" if weight.external else weight.name
            places.setdefault(key, {})[weight.file, tensor, weight.offset] = weight
    for found in places.values():
        first, *others = sorted(found.values(), key=lambda each: (each.file, each.offset, each.name))
        if not others:
            continue
        where = ", ".join(f"{each.name} in {each.file}" for each in (first, *others))
        size = human_bytes(sum(each.size_bytes for each in others))
        if digests:
            same = human_bytes(first.size_bytes)
            yield f"the same {same} are stored in {len(others) + 1} places ({where}); {size} could be saved"
        else:
            yield f"may be stored in {len(others) + 1} places, by name and shape ({where}); --digests compares bytes"


def _frozen_batch(inputs: Sequence[TensorSpec]) -> Iterator[str]:
    for spec in inputs:
        if spec.shape and isinstance(spec.shape[0], int):
            yield f"input {spec.name}: its first axis is frozen to {spec.shape[0]}; it takes no other batch size"


def _foreign_symbols(specs: Sequence[TensorSpec]) -> Iterator[str]:
    foreign: dict[str, list[str]] = {}
    for spec in specs:
        for dim in spec.shape:
            for word in _WORD.findall(dim) if isinstance(dim, str) else ():
                if word not in SYMBOLS:
                    foreign.setdefault(word, []).append(spec.name)
    for word, names in foreign.items():
        more = f" and {len(names) - 1} more" if len(names) > 1 else ""
        yield f"symbol {word} of {names[0]}{more} is not part of the bundle contract"


def _double_precision(nodes: Sequence[onnx.NodeProto], weights: Sequence[Weight]) -> Iterator[str]:
    import onnx

    tensors = [each.name for each in weights if each.dtype == "float64"]
    casts = sum(
        attribute.name == "to" and attribute.i == onnx.TensorProto.DOUBLE
        for node in nodes
        if node.op_type == "Cast"
        for attribute in node.attribute
    )
    constants = sum(attribute.t.data_type == onnx.TensorProto.DOUBLE for node in nodes for attribute in node.attribute)
    if tensors or casts or constants:
        said = f" ({', '.join(tensors[:3])})" if tensors else ""
        yield (
            f"computes in float64: {len(tensors)} weights{said}, {casts} casts, {constants} constants; GPUs are slow at"
            " it, and browsers do not have it"
        )


def _custom_ops(model: onnx.ModelProto, nodes: Sequence[onnx.NodeProto]) -> Iterator[str]:
    own = {(each.domain, each.name) for each in model.functions}
    ops = Counter(
        f"{node.domain}.{node.op_type}"
        for node in nodes
        if node.domain not in _RUNTIME_DOMAINS and (node.domain, node.op_type) not in own
    )
    if ops:
        yield f"custom ops that need a library registered with the session: {', '.join(sorted(ops))}"


def _unnamed(weights: Sequence[Weight]) -> Iterator[str]:
    """A checkpoint's names are paths of modules; what a tracer makes up has no dot."""
    found = [each for each in weights if each.size_bytes >= _SMALL_BYTES and "." not in each.name]
    if found:
        names = ", ".join(each.name for each in found[:3]) + (", …" if len(found) > 3 else "")
        size = human_bytes(sum(each.size_bytes for each in found))
        yield f"{len(found)} weights ({size}) do not have the name of a tensor in the checkpoint: {names}"


def _covered(ranges: set[tuple[int, int]]) -> int:
    """Bytes that at least one range covers."""
    total = end = 0
    for offset, length in sorted(ranges):
        total += max(0, offset + length - max(offset, end))
        end = max(end, offset + length)
    return total

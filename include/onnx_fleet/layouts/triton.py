"""A model repository of Triton's onnxruntime backend, in the folder ``models``: each graph is a model of its own.

models/<name>/config.pbtxt              its name is the bundle's, with -<role> behind it where there are several graphs
models/<name>/1/model.onnx/model.onnx   the graph, which has to have this name in a folder of the same name
models/<name>/1/model.onnx/…            its weights, under the names that the graph has for them

How Triton reads it: https://github.com/triton-inference-server/onnxruntime_backend, src/onnxruntime.cc, and
model_config.proto of https://github.com/triton-inference-server/common.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import PurePosixPath
from typing import Final

from onnx_fleet.entities.graph_info import GraphInfo, TensorSpec
from onnx_fleet.entities.provider import CUDA
from onnx_fleet.layouts.arrangement import Arrangement, Subject, kept

REPOSITORY: Final = "models"
MAX_BATCH_SIZE: Final = 32
"""The number of rows in the largest batch that every graph runs before its bundle is published."""

_TYPES: Mapping[str, str] = {
    "bool": "TYPE_BOOL",
    "int32": "TYPE_INT32",
    "int64": "TYPE_INT64",
    "float16": "TYPE_FP16",
    "float32": "TYPE_FP32",
}
_FOR_GPUS = frozenset({"fp32", "fp16"})
"""The variants that are compared on a GPU where a bundle is."""


def arrange(subject: Subject) -> Arrangement:
    """Arrange a bundle for Triton.

    Raises:
        LayoutUnsupported: the bundle lacks the variant, or Triton cannot run one of its graphs.
    """
    placed: dict[str, str] = {}
    made: dict[str, str] = {}
    for name, graph in _models(subject).items():
        _require_plain(subject, graph)
        folder = f"{REPOSITORY}/{name}"
        placed[f"{folder}/1/model.onnx/model.onnx"] = graph.path
        placed |= {f"{folder}/1/model.onnx/{PurePosixPath(path).name}": path for path in graph.weight_files}
        made[f"{folder}/config.pbtxt"] = _config(graph, kind=_kind(subject))
    return Arrangement(placed=kept(subject, moved=placed.values()) | placed, made=made)


def _models(subject: Subject) -> Mapping[str, GraphInfo]:
    name = subject.manifest.bundle.model_id.partition("/")[2]
    if len(subject.graphs) == 1:
        return {name: subject.graphs[0]}
    return {f"{name}-{graph.role}": graph for graph in subject.graphs}


def _require_plain(subject: Subject, graph: GraphInfo) -> None:
    if graph.libraries:
        raise subject.refusal(
            f"{graph.path} has operators of {', '.join(graph.libraries)}, which Triton loads only from a library"
            " inside its own image; serve it with onnxruntime in a process of your own"
        )
    for spec in (*graph.inputs, *graph.outputs):
        if spec.dtype not in _TYPES or not spec.shape:
            raise subject.refusal(
                f"{graph.path}: {spec.name} is {spec.dtype} {list(spec.shape)}, for which this layout has no words;"
                " serve it with onnxruntime in a process of your own"
            )


def _kind(subject: Subject) -> str:
    """Return where instances run: on a GPU only what was proven on one."""
    proven = any(each.provider == CUDA and each.status == "passed" for each in subject.manifest.validation.providers)
    return "KIND_AUTO" if proven and subject.choice.variant in _FOR_GPUS else "KIND_CPU"


def _config(graph: GraphInfo, *, kind: str) -> str:
    # Triton may join requests into batches where every tensor has the batch first, and something behind it.
    batched = all(spec.shape[0] == "batch_size" and len(spec.shape) > 1 for spec in (*graph.inputs, *graph.outputs))
    lines = [
        'backend: "onnxruntime"',
        f"max_batch_size: {MAX_BATCH_SIZE if batched else 0}",
        f"input {_tensors(graph.inputs, batched=batched)}",
        f"output {_tensors(graph.outputs, batched=batched)}",
        *(["dynamic_batching { }"] if batched else []),
        f"instance_group [ {{ kind: {kind} count: 1 }} ]",
    ]
    return "\n".join(lines) + "\n"


def _tensors(specs: Sequence[TensorSpec], *, batched: bool) -> str:
    rows = []
    for spec in specs:
        dims = [size if isinstance(size, int) else -1 for size in spec.shape[1 if batched else 0 :]]
        rows.append(f"  {{ name: {json.dumps(spec.name)} data_type: {_TYPES[spec.dtype]} dims: {dims} }}")
    return "[\n" + ",\n".join(rows) + "\n]"

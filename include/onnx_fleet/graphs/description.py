"""What a finished ONNX file says of itself; its weights are not read."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from onnx_fleet.entities.graph_info import GraphInfo, TensorSpec, onnxruntime_min
from onnx_fleet.graphs import initializers

if TYPE_CHECKING:
    import onnx


def describe(path: Path, *, role: str, variant: str, bundle: Path, libraries: tuple[str, ...] = ()) -> GraphInfo:
    """Return what a finished file says of itself; its weights are not read.

    Raises:
        KeyError: no onnxruntime is known to take its opset or IR version.
    """
    import onnx

    model = onnx.load(path, load_external_data=False)
    opset = next(entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx"))
    data = {found.location for tensor in model.graph.initializer if (found := initializers.external_data(tensor))}
    return GraphInfo(
        role=role,
        variant=variant,
        path=path.relative_to(bundle).as_posix(),
        opset=opset,
        ir_version=model.ir_version,
        inputs=tuple(_tensor_spec(value) for value in model.graph.input),
        outputs=tuple(_tensor_spec(value) for value in model.graph.output),
        weight_files=tuple(sorted((path.parent / name).relative_to(bundle).as_posix() for name in data)),
        onnxruntime_min=onnxruntime_min(opset=opset, ir_version=model.ir_version),
        libraries=libraries,
    )


def external_data(graphs: Iterable[GraphInfo]) -> dict[str, int]:
    """Return how many data files each graph has under its own name; what others have is in one of these."""
    found: dict[str, int] = {}
    for info in graphs:
        own = [file for file in info.weight_files if file.startswith(f"{info.path}_data")]
        if own:
            found[info.path.removeprefix("onnx/")] = len(own)
    return found


def _tensor_spec(value: onnx.ValueInfoProto) -> TensorSpec:
    import onnx

    kind = value.type.tensor_type
    return TensorSpec(
        name=value.name,
        dtype=onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type).name,
        shape=tuple(dim.dim_param or dim.dim_value for dim in kind.shape.dim),
    )

"""What graphs are fed when they are placed, timed and asked whether all sizes run."""

from __future__ import annotations

from onnx_fleet.entities.graph_info import GraphInfo, TensorSpec
from onnx_fleet.graphs import workloads


def _cache(kind: str, *, layer: int, part: str, heads: int, last: int | str) -> TensorSpec:
    tokens = "past_sequence_length" if kind == "past_key_values" else "total_sequence_length"
    return TensorSpec(name=f"{kind}.{layer}.{part}", dtype="float32", shape=("batch_size", heads, tokens, last))


def test_every_cache_is_fed_its_own_head_size() -> None:
    """DeepSeek's keys are wider than its values, and Gemma 4's layers differ."""
    sizes = {(0, "key"): 24, (0, "value"): 16, (1, "key"): 40, (1, "value"): 8}
    tokens = TensorSpec(name="input_ids", dtype="int64", shape=("batch_size", "sequence_length"))
    graph = GraphInfo(
        role="model",
        variant="fp32",
        path="onnx/model.onnx",
        opset=20,
        ir_version=10,
        inputs=(
            tokens,
            *(_cache("past_key_values", layer=layer, part=part, heads=2, last="head_size") for layer, part in sizes),
        ),
        outputs=tuple(
            _cache("present", layer=layer, part=part, heads=2, last=size) for (layer, part), size in sizes.items()
        ),
        weight_files=(),
        onnxruntime_min="1.17",
    )
    _, step = workloads.of(graph, batch_size=3, length=6)

    fed = step.feeds(graph, seed=0)

    caches = {name: array.shape for name, array in fed.items() if name.startswith("past_key_values.")}
    assert caches == {f"past_key_values.{layer}.{part}": (3, 2, 5, size) for (layer, part), size in sizes.items()}

"""Broken variants: a RoBERTa, a Llama and a GPT-2 with a tied head, in half precision and in 8 and 4 bits.

Their fp32 graphs are sound. The named figure misses its gate, and the variant is left out; the others are published.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import onnx
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from fixtures.varied import Varied
from mutations.surgery import add_constant, as_ones, behind_output, nodes, producer, read_instead
from onnx_fleet.variants import preprocessing

_DENSE = "layer.0.output.dense.weight_transposed"


@dataclass(frozen=True, slots=True, kw_only=True)
class VariantMutation:
    """A small, likely fault of a converter, of a careless script or of a disk."""

    name: str
    says: str
    """For people: what is wrong then."""
    model: str
    """The fixture whose variant is broken: fixtures/varied.py says what it is."""
    variant: str
    caught: str
    """The figure that misses; ``contract`` or ``load`` where nothing can be measured."""
    apply: Callable[[Varied], None]
    """Breaks a stage in place."""


def scales_doubled(model: ModelProto) -> None:
    """One matrix is twice what it was."""
    _change(model, f"{_DENSE}_scale", lambda scale: scale * np.float32(2))


def zero_points_moved(model: ModelProto) -> None:
    """Every weight of one matrix is off by twenty steps."""
    _change(model, f"{_DENSE}_zero_point", lambda zero: zero + np.int8(20))


def matrix_of_zeros(model: ModelProto) -> None:
    """One matrix was never written."""
    _change(model, f"{_DENSE}_quantized", np.zeros_like)


def weights_of_two_layers_swapped(model: ModelProto) -> None:
    """Two layers have each other's matrix: no name, shape or type tells."""
    for part in ("", "_quantized", "_scale", "_Q4", "_scales"):
        pair = [_tensor(model, f"layer.{layer}.output.dense.weight_transposed{part}") for layer in (0, 1)]
        first, second = (None if tensor is None else numpy_helper.to_array(tensor) for tensor in pair)
        for tensor, array in zip(pair, (second, first), strict=True):
            if tensor is not None and array is not None:
                tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))


def weights_of_another_fine_tune(model: ModelProto) -> None:
    """Made of an earlier checkpoint, whose every weight is a hundredth larger."""
    for tensor in model.graph.initializer:
        if len(tensor.dims) == 2 and tensor.data_type == TensorProto.FLOAT16:
            tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor) * np.float16(1.01), tensor.name))


def mask_dropped(model: ModelProto) -> None:
    """The mask is an input without an effect: rows with padding turn a little, and most vectors not at all."""
    read_instead(model, "attention_mask", as_ones("attention_mask"))


def output_renamed(model: ModelProto) -> None:
    """To what a converter calls it by itself."""
    name = model.graph.output[0].name
    behind_output(model, name, [helper.make_node("Identity", [f"right.{name}"], ["output_0"])])
    model.graph.output[0].name = "output_0"


def overflow_in_half(model: ModelProto) -> None:
    """An embedding is 2 to the 18th of what it was, in half precision, and back."""
    for name, value in {"large": 2.0**18, "small": 2.0**-18}.items():
        add_constant(model, name, np.array(value, dtype=np.float32))
    made = [
        helper.make_node("Mul", ["right.sentence_embedding", "large"], ["beyond"]),
        helper.make_node("Cast", ["beyond"], ["in_half"], to=TensorProto.FLOAT16),
        helper.make_node("Cast", ["in_half"], ["back"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["back", "small"], ["sentence_embedding"]),
    ]
    behind_output(model, "sentence_embedding", made)


def activations_cut_off(model: ModelProto) -> None:
    """The calibrated ranges of feed-forward blocks are a fiftieth of what is met: what is larger is cut off."""
    weights = [node for node in nodes(model, "DequantizeLinear") if "output.dense.weight" in node.input[0]]
    products = [product for weight in weights for product in _readers(model, weight.output[0])]
    scales = {producer(model, product.input[0]).input[1] for product in products}
    for tensor in (tensor for tensor in model.graph.initializer if tensor.name in scales):
        tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor) * np.float32(0.02), tensor.name))


def zero_point_of_activations_moved(model: ModelProto) -> None:
    """One layer's inputs are read around another zero than they were written with."""
    quantise = next(
        node for node in nodes(model, "QuantizeLinear") if "LayerNorm" in node.input[0] or "layer_norm" in node.input[0]
    )
    zero = next(tensor for tensor in model.graph.initializer if tensor.name == quantise.input[2])
    moved = add_constant(model, "moved_zero_point", np.asarray(numpy_helper.to_array(zero) // 2, dtype=np.uint8))
    quantise.input[2] = moved


def halves_of_bytes_swapped(model: ModelProto) -> None:
    """The two numbers of every byte of one matrix stand in the other order, as another runtime packs them."""
    _change(model, f"{_DENSE}_Q4", lambda packed: (packed >> 4 | packed << 4).astype(np.uint8))


def scales_of_other_blocks(model: ModelProto) -> None:
    """One matrix's blocks have each their neighbour's scale."""
    _change(
        model,
        f"{_DENSE}_scales",
        lambda scales: np.roll(
            scales * np.linspace(0.5, 1.5, scales.size, dtype=scales.dtype).reshape(scales.shape), 1
        ),
    )


def head_of_another_scale(model: ModelProto) -> None:
    """The output layer's copy of the table is scaled otherwise than the table that tokens are looked up in."""
    _change(model, "wte.weight_transposed_scale", lambda scale: scale * np.float32(1.5))


def temperature_baked_in(model: ModelProto) -> None:
    """Logits are half as large again: the likeliest tokens are the same, what they are worth is not."""
    add_constant(model, "factor", np.array(1.5, dtype=np.float32))
    behind_output(model, "logits", [helper.make_node("Mul", ["right.logits", "factor"], ["logits"])])


def vocabulary_shifted(model: ModelProto) -> None:
    """Every token has its neighbour's logit."""
    width = model.graph.output[0].type.tensor_type.shape.dim[2].dim_value
    add_constant(model, "order", np.roll(np.arange(width), 1))
    behind_output(model, "logits", [helper.make_node("Gather", ["right.logits", "order"], ["logits"], axis=2)])


def logits_cut_off(model: ModelProto) -> None:
    """Logits above zero are cut off: tokens that were likely are equally so."""
    add_constant(model, "ceiling", np.array(0.0, dtype=np.float32))
    behind_output(model, "logits", [helper.make_node("Min", ["right.logits", "ceiling"], ["logits"])])


def graph_of_fp32(varied: Varied, variant: str) -> None:
    """The float32 graph lies under the variant's name, as a script leaves it whose conversion failed."""
    with TemporaryDirectory() as folder:
        prepared = preprocessing.prepare(varied.exported.graph, Path(folder))
        onnx.save(onnx.load(prepared), varied.graph(variant))


def file_cut_short(varied: Varied, variant: str) -> None:
    """Half of the file."""
    path = varied.graph(variant)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def _tensor(model: ModelProto, ending: str) -> TensorProto | None:
    return next((tensor for tensor in model.graph.initializer if tensor.name.endswith(ending)), None)


def _change(model: ModelProto, ending: str, change: Callable[[np.ndarray], np.ndarray]) -> None:
    tensor = _tensor(model, ending)
    assert tensor is not None, ending
    changed = np.ascontiguousarray(change(numpy_helper.to_array(tensor)))
    tensor.CopyFrom(numpy_helper.from_array(changed, tensor.name))


def _readers(model: ModelProto, name: str) -> list[NodeProto]:
    return [node for node in model.graph.node if name in node.input]


def _of_graph(change: Callable[[ModelProto], None], *, model: str, variant: str, caught: str) -> VariantMutation:
    def apply(varied: Varied) -> None:
        path = varied.graph(variant)
        graph = onnx.load(path)
        change(graph)
        path.with_name(f"{path.name}_data").unlink(missing_ok=True)
        onnx.save(graph, path)

    return _row(change, apply, model=model, variant=variant, caught=caught)


def _of_file(change: Callable[[Varied, str], None], *, model: str, variant: str, caught: str) -> VariantMutation:
    return _row(change, lambda varied: change(varied, variant), model=model, variant=variant, caught=caught)


def _row(
    change: Callable[..., None], apply: Callable[[Varied], None], *, model: str, variant: str, caught: str
) -> VariantMutation:
    return VariantMutation(
        name=change.__name__,
        says=" ".join((change.__doc__ or "").split()),
        model=model,
        variant=variant,
        caught=caught,
        apply=apply,
    )


_encoder = partial(_of_graph, model="varied_encoder")
_decoder = partial(_of_graph, model="varied_decoder")
_tied = partial(_of_graph, model="varied_tied")

VARIANT_MUTATIONS = (
    _encoder(weights_of_two_layers_swapped, variant="fp16", caught="weights"),
    _encoder(weights_of_another_fine_tune, variant="fp16", caught="weights"),
    _encoder(overflow_in_half, variant="fp16", caught="finite"),
    _encoder(mask_dropped, variant="fp16", caught="masked"),
    _of_file(graph_of_fp32, model="varied_encoder", variant="fp16", caught="size"),
    _decoder(temperature_baked_in, variant="fp16", caught="perplexity_ratio"),
    _decoder(vocabulary_shifted, variant="fp16", caught="top1"),
    _decoder(logits_cut_off, variant="fp16", caught="cosine"),
    _encoder(scales_doubled, variant="int8", caught="weights"),
    _encoder(zero_points_moved, variant="int8", caught="weights"),
    _encoder(matrix_of_zeros, variant="int8", caught="weights"),
    _encoder(weights_of_two_layers_swapped, variant="int8", caught="weights"),
    _encoder(mask_dropped, variant="int8", caught="masked"),
    _encoder(output_renamed, variant="int8", caught="contract"),
    _tied(head_of_another_scale, variant="int8", caught="weights"),
    _encoder(activations_cut_off, variant="int8_static", caught="cosine"),
    _encoder(zero_point_of_activations_moved, variant="int8_static", caught="cosine"),
    _encoder(mask_dropped, variant="int8_static", caught="masked"),
    _encoder(scales_of_other_blocks, variant="q4", caught="weights"),
    _encoder(halves_of_bytes_swapped, variant="q4", caught="weights"),
    _encoder(weights_of_two_layers_swapped, variant="q4", caught="weights"),
    _of_file(graph_of_fp32, model="varied_encoder", variant="q4", caught="size"),
    _of_file(file_cut_short, model="varied_encoder", variant="q4", caught="load"),
    _decoder(vocabulary_shifted, variant="q4", caught="top1"),
)
"""By variant."""

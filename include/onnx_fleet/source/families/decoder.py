"""Decoders: one graph for prompt, continued prompt and single step, cache in and out. Imports torch and transformers.

The graph is traced with a filled cache, several new tokens and real padding on the left. Every axis then stays open:
an empty cache is the prompt, one new token a step.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves
from transformers import DynamicCache, PretrainedConfig, PreTrainedModel

from onnx_fleet.entities.work_item import WorkItem
from onnx_fleet.errors import ExportUnsupported
from onnx_fleet.source.families import Family, GraphSpec, Shape
from onnx_fleet.source.families.loading import load

_TOKENS: Shape = ("batch_size", "sequence_length")
_MASK: Shape = ("batch_size", "total_sequence_length")
_PAST: Shape = ("batch_size", None, "past_sequence_length", "head_size")
_PRESENT: Shape = ("batch_size", None, "total_sequence_length", None)

_EXAMPLE_BATCH, _EXAMPLE_PAST, _EXAMPLE_NEW, _EXAMPLE_PADDING = 2, 3, 5, 2


class Cached(torch.nn.Module):
    """A causal language model whose cache goes in and comes out as named tensors."""

    def __init__(self, model: PreTrainedModel, *, layers: int) -> None:
        super().__init__()
        self.model = model
        self.config: PretrainedConfig = model.config
        self.layers = layers

    def forward(self, **inputs: Tensor) -> dict[str, Tensor]:
        past = DynamicCache(
            [(inputs.pop(f"past_key_values.{i}.key"), inputs.pop(f"past_key_values.{i}.value")) for i in self._indices]
        )
        given = self.model(**inputs, past_key_values=past, use_cache=True, return_dict=True)
        outputs = {"logits": given.logits}
        for index, layer in enumerate(given.past_key_values.layers):
            outputs |= {f"present.{index}.key": layer.keys, f"present.{index}.value": layer.values}
        return outputs

    @property
    def _indices(self) -> range:
        return range(self.layers)


class Whole(torch.nn.Module):
    """The same model in one pass, without a cache."""

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, **inputs: Tensor) -> dict[str, Tensor]:
        return {"logits": self.model(**inputs, use_cache=False, return_dict=True).logits}


def whole(item: WorkItem, model: PreTrainedModel) -> Whole:
    """Return the model in one pass, with every position's logits."""
    return Whole(model).eval()


def graphs(item: WorkItem, model: PreTrainedModel) -> tuple[GraphSpec, ...]:
    """Return the one graph of a decoder.

    Raises:
        ExportUnsupported: what the model keeps between steps is not keys and values per layer.
    """
    sizes = cache_sizes(item, model)
    total = _EXAMPLE_PAST + _EXAMPLE_NEW
    attention_mask = torch.ones(_EXAMPLE_BATCH, total, dtype=torch.int64)
    attention_mask[1, :_EXAMPLE_PADDING] = 0
    vocabulary = model.config.get_text_config().vocab_size
    tokens = torch.arange(_EXAMPLE_BATCH * _EXAMPLE_NEW).reshape(_EXAMPLE_BATCH, _EXAMPLE_NEW)
    example = {"input_ids": (tokens * 31 + vocabulary // 2) % vocabulary, "attention_mask": attention_mask}
    inputs: dict[str, Shape] = {"input_ids": _TOKENS, "attention_mask": _MASK}
    if takes_positions(model):
        example["position_ids"] = (attention_mask.cumsum(dim=1) - 1).clamp(min=0)[:, _EXAMPLE_PAST:].contiguous()
        inputs["position_ids"] = _TOKENS
    outputs: dict[str, Shape] = {"logits": ("batch_size", "sequence_length", None)}
    generator = torch.Generator().manual_seed(0)
    for layer, (key, value) in enumerate(sizes):
        for name, (heads, head_size) in (("key", key), ("value", value)):
            example[f"past_key_values.{layer}.{name}"] = torch.randn(
                _EXAMPLE_BATCH, heads, _EXAMPLE_PAST, head_size, generator=generator
            )
            inputs[f"past_key_values.{layer}.{name}"] = _PAST
            outputs[f"present.{layer}.{name}"] = _PRESENT
    module = Cached(model, layers=len(sizes)).eval()
    return (GraphSpec(role="model", module=module, example_inputs=example, inputs=inputs, outputs=outputs),)


def takes_positions(model: PreTrainedModel) -> bool:
    """Say whether the model takes positions: Bloom and MPT bias their attention by distance, and take none."""
    return "position_ids" in inspect.signature(model.forward).parameters


def cache_sizes(item: WorkItem, model: PreTrainedModel) -> tuple[tuple[tuple[int, int], tuple[int, int]], ...]:
    """Return (heads, head size) of each layer's keys and values, as the model itself fills a cache.

    Raises:
        ExportUnsupported: the cache holds something else, as in state-space models.
    """
    tokens = torch.ones(1, 2, dtype=torch.int64)
    with torch.inference_mode():
        given = model(input_ids=tokens, attention_mask=tokens, use_cache=True, return_dict=True)
    layers = getattr(given.get("past_key_values"), "layers", ())
    if more := sorted({name for layer in layers for name in _beside(layer)}):
        raise ExportUnsupported(
            f"{item.model.at_commit}: {item.model.architecture} keeps {', '.join(more)} beside "
            f"keys and values between steps, which no consumer of ONNX bundles feeds; serve it with PyTorch"
        )
    kept = [(getattr(layer, "keys", None), getattr(layer, "values", None)) for layer in layers]
    sizes = tuple((_sizes(key), _sizes(value)) for key, value in kept)
    whole_sizes = tuple((key, value) for key, value in sizes if key is not None and value is not None)
    if not sizes or len(whole_sizes) < len(sizes):
        raise ExportUnsupported(
            f"{item.model.at_commit}: {item.model.architecture} keeps something else than keys "
            f"and values between steps, which no consumer of ONNX bundles feeds; serve it with PyTorch"
        )
    return whole_sizes


def _beside(layer: object) -> Iterator[str]:
    """Iterate over what a layer keeps of each row beside keys and values: an indexer's keys, a convolution's states."""
    for name, value in vars(layer).items():
        of_rows = any(isinstance(each, Tensor) and each.dim() > 1 for each in tree_leaves(value))
        if of_rows and name not in ("keys", "values"):
            yield name


def _sizes(cached: object) -> tuple[int, int] | None:
    """Return (heads, head size) of a cached tensor [batch_size, heads, tokens, head size]; None for any other."""
    return (cached.shape[1], cached.shape[3]) if isinstance(cached, Tensor) and cached.dim() == 4 else None


FAMILY = Family(name="decoder", load=load, whole=whole, graphs=graphs)

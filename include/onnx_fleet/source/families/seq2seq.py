"""Encoder-decoders: the encoder, and one decoder graph for the first step and all later ones. Imports torch.

The decoder's graph has no branch. Cross-attention appends what it projects to its cache, so it is given only those
states of the encoder that the cache does not hold yet: all of them at the first step, none from then on.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache, EncoderDecoderCache, PretrainedConfig, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutput

from onnx_fleet.entities.work_item import WorkItem
from onnx_fleet.errors import ExportUnsupported
from onnx_fleet.source.families import Family, GraphSpec, Shape
from onnx_fleet.source.families.loading import load

ENCODER, DECODER, DECODER_WITHOUT_PAST, MODEL = "encoder_model", "decoder_model_merged", "decoder_model", "model"

NEW: Shape = ("batch_size", "decoder_sequence_length")
MASK: Shape = ("batch_size", "encoder_sequence_length")
_LOGITS: Shape = (*NEW, None)
_CACHES, _KEPT = ("decoder", "encoder"), ("key", "value")
_PAST: Mapping[str, Shape] = {
    "decoder": ("batch_size", None, "past_sequence_length", "head_size"),
    "encoder": ("batch_size", None, "past_encoder_sequence_length", "head_size"),
}
_PRESENT: Mapping[str, Shape] = {
    "decoder": ("batch_size", None, "total_sequence_length", None),
    "encoder": ("batch_size", None, "encoder_sequence_length", None),
}

EXAMPLE_BATCH = 2
_EXAMPLE_LENGTH, _EXAMPLE_PADDING, _EXAMPLE_NEW = 7, 2, 4
_EXAMPLE_PAST = {"decoder": 3, "encoder": 5}

_PLAIN_MASKS = ("fsmt", "prophetnet")
"""The model types whose decoders take no prepared mask, and do not look at how many states it is for."""


class Encoder(torch.nn.Module):
    """The encoder of a model, by itself."""

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__()
        self.model = model
        self.config: PretrainedConfig = model.config

    def forward(self, **inputs: Tensor) -> dict[str, Tensor]:
        return {"last_hidden_state": self.model.get_encoder()(**inputs, return_dict=True).last_hidden_state}


class Whole(torch.nn.Module):
    """The model in one pass, without a cache: every position's logits, and the encoder's states."""

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__()
        self.model = model
        self.config: PretrainedConfig = model.config

    def forward(self, **inputs: Tensor) -> dict[str, Tensor]:
        given = self.model(**inputs, use_cache=False, return_dict=True)
        return {"logits": given.logits, "last_hidden_state": given.encoder_last_hidden_state}


class Plain(Whole):
    """The model as one graph in one pass, which returns the logits."""

    def forward(self, **inputs: Tensor) -> dict[str, Tensor]:
        return {"logits": super().forward(**inputs)["logits"]}


class Decoder(torch.nn.Module):
    """The decoder of a model, by itself: all tokens so far at every step."""

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__()
        self.model = model
        self.config: PretrainedConfig = model.config

    def forward(self, **inputs: Tensor) -> dict[str, Tensor]:
        given = self.decode(
            inputs["input_ids"],
            states=inputs["encoder_hidden_states"],
            mask=self.mask(inputs),
            cache=None,
        )
        return {"logits": given.logits}

    def decode(self, tokens: Tensor, *, states: Tensor, mask: Tensor | None, cache: EncoderDecoderCache | None) -> Any:
        """Run the model's own decoder and head.

        Args:
            tokens: int64 [batch_size, new tokens].
            states: float32 [batch_size, states, hidden], those of the encoder that the cache does not hold.
            mask: the mask over all states, as mask() returns it.
        Returns:
            An object with ``logits`` and ``past_key_values``.
        """
        return self.model(
            encoder_outputs=BaseModelOutput(last_hidden_state=states),
            attention_mask=mask,
            decoder_input_ids=tokens,
            past_key_values=cache,
            use_cache=cache is not None,
            return_dict=True,
        )

    def mask(self, inputs: Mapping[str, Tensor]) -> Tensor | None:
        """Return the encoder's mask as attention adds it: the model would make one for the given states alone.

        Args:
            inputs: ``encoder_attention_mask``, int64 [batch_size, states], and ``encoder_hidden_states``, float32
                [batch_size, states, hidden].
        Returns:
            float32 [batch_size, 1, 1, states]; the given mask for decoders that take it plain; None without one.
        """
        given = inputs.get("encoder_attention_mask")
        if given is None or self.config.model_type in _PLAIN_MASKS:
            return given
        return additive(given, like=inputs["encoder_hidden_states"])


class CachedDecoder(Decoder):
    """The decoder of a model, whose two caches go in and come out as named tensors."""

    def __init__(self, model: PreTrainedModel, *, layers: int) -> None:
        super().__init__(model)
        self.layers = layers

    def forward(self, **inputs: Tensor) -> dict[str, Tensor]:
        own, cross = (self._cache(inputs, kind) for kind in _CACHES)
        cache = EncoderDecoderCache(own, cross)
        states, known = inputs["encoder_hidden_states"], inputs["past_key_values.0.encoder.key"].shape[2]
        # In the graph a layer appends what it projects, of no state where the cache is full. PyTorch, which is timed
        # beside it, takes a full cache as it is: T5 cannot project no state at all.
        full = not torch.compiler.is_exporting() and known == states.shape[1]
        cache.is_updated = dict.fromkeys(range(self.layers), full)
        given = self.decode(
            inputs["input_ids"],
            states=states[:, known:],
            mask=self.mask(inputs),
            cache=cache,
        )
        outputs = {"logits": given.logits}
        for layer in range(self.layers):
            for kind, kept in zip(_CACHES, (own, cross), strict=True):
                of_layer: Any = kept.layers[layer]
                outputs |= {f"present.{layer}.{kind}.{name}": getattr(of_layer, f"{name}s") for name in _KEPT}
        return outputs

    def _cache(self, inputs: Mapping[str, Tensor], kind: str) -> DynamicCache:
        names = [f"past_key_values.{layer}.{kind}" for layer in range(self.layers)]
        return DynamicCache([tuple(inputs[f"{name}.{kept}"] for kept in _KEPT) for name in names])


def additive(mask: Tensor, *, like: Tensor) -> Tensor:
    """Return what attention adds for a mask: 0 where it is set, else the least number of a tensor's type.

    Args:
        mask: int64 [batch_size, states].
        like: the tensor whose type the result has.

    Returns:
        [batch_size, 1, 1, states], of the type of ``like``.
    """
    least = torch.finfo(like.dtype).min
    return torch.where(mask[:, None, None, :] != 0, 0.0, least).to(like.dtype)


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """The encoder's inputs, and the mask of its states."""

    example: Mapping[str, Tensor]
    """The encoder's inputs."""
    inputs: Mapping[str, Shape]
    states: Shape
    """The axes of ``last_hidden_state``."""
    mask: tuple[Tensor, Shape] | None
    """The decoder's ``encoder_attention_mask`` for the states of example_states; None where it takes none."""
    states_length: int
    """The number of states in the decoder's example: no count of a real encoder has to be traced."""
    decoder: type[Decoder]
    cached_decoder: type[CachedDecoder]


def whole(item: WorkItem, model: PreTrainedModel) -> Whole:
    """Return the model in one pass, with every position's logits."""
    return Whole(model).eval()


def graphs(item: WorkItem, model: PreTrainedModel) -> tuple[GraphSpec, ...]:
    """Return the graphs in the form that the entry asks for.

    Raises:
        ExportUnsupported: what the decoder keeps is not keys and values per layer, of itself and of the encoder.
    """
    return FORMS[item.model.entry.decoder_form](item, model, source=source(model))


def source(model: PreTrainedModel) -> Source:
    """Return an example source of tokens, with padding on the right."""
    attention_mask = torch.ones(EXAMPLE_BATCH, _EXAMPLE_LENGTH, dtype=torch.int64)
    attention_mask[-1, -_EXAMPLE_PADDING:] = 0
    padding = getattr(model.config, "pad_token_id", None) or 0
    tokens = torch.where(attention_mask.bool(), example_tokens(model, length=_EXAMPLE_LENGTH), padding)
    return Source(
        example={"input_ids": tokens, "attention_mask": attention_mask},
        inputs={"input_ids": MASK, "attention_mask": MASK},
        states=(*MASK, None),
        mask=(attention_mask, MASK),
        states_length=_EXAMPLE_LENGTH,
        decoder=Decoder,
        cached_decoder=CachedDecoder,
    )


def merged(item: WorkItem, model: PreTrainedModel, *, source: Source) -> tuple[GraphSpec, ...]:
    """Return ``encoder_model``, and ``decoder_model_merged`` for every step: what optimum and transformers.js load."""
    sizes = cache_sizes(item, model, source=source)
    example, inputs = _decoder_inputs(model, source=source)
    outputs: dict[str, Shape] = {"logits": _LOGITS}
    generator = torch.Generator().manual_seed(0)
    for layer, of_layer in enumerate(sizes):
        for name, (heads, head_size) in of_layer.items():
            kind = name.partition(".")[0]
            shape = (EXAMPLE_BATCH, heads, _EXAMPLE_PAST[kind], head_size)
            example[f"past_key_values.{layer}.{name}"] = torch.randn(shape, generator=generator)
            inputs[f"past_key_values.{layer}.{name}"] = _PAST[kind]
            outputs[f"present.{layer}.{name}"] = _PRESENT[kind]
    module = source.cached_decoder(model, layers=len(sizes)).eval()
    decoder = GraphSpec(role=DECODER, module=module, example_inputs=example, inputs=inputs, outputs=outputs)
    return (_encoder(model, source=source), decoder)


def without_past(item: WorkItem, model: PreTrainedModel, *, source: Source) -> tuple[GraphSpec, ...]:
    """Return ``encoder_model`` and ``decoder_model``, which is given all tokens at every step."""
    example, inputs = _decoder_inputs(model, source=source)
    decoder = GraphSpec(
        role=DECODER_WITHOUT_PAST,
        module=source.decoder(model).eval(),
        example_inputs=example,
        inputs=inputs,
        outputs={"logits": _LOGITS},
    )
    return (_encoder(model, source=source), decoder)


def plain(item: WorkItem, model: PreTrainedModel, *, source: Source) -> tuple[GraphSpec, ...]:
    """Return ``model``: source and target in one pass, with padding on either, for scoring and further training."""
    target_mask = torch.ones(EXAMPLE_BATCH, _EXAMPLE_NEW, dtype=torch.int64)
    target_mask[0, -1:] = 0
    target = {
        "decoder_input_ids": example_tokens(model, length=_EXAMPLE_NEW),
        "decoder_attention_mask": target_mask,
    }
    return (
        GraphSpec(
            role=MODEL,
            module=Plain(model).eval(),
            example_inputs={**source.example, **target},
            inputs={**source.inputs, **dict.fromkeys(target, NEW)},
            outputs={"logits": _LOGITS},
        ),
    )


FORMS: Mapping[str, Callable[..., tuple[GraphSpec, ...]]] = {
    "merged": merged,
    "without-past": without_past,
    "plain": plain,
}
"""The functions that cut a model, by the entry's ``decoder_form``: (item, model, source=) -> its graphs."""


def cache_sizes(item: WorkItem, model: PreTrainedModel, *, source: Source) -> tuple[Mapping[str, tuple[int, int]], ...]:
    """Return (heads, head size) of each layer by ``decoder.key``, …, as the model itself fills its caches.

    Raises:
        ExportUnsupported: a cache holds something else.
    """
    with torch.inference_mode():
        given = model(
            **source.example, decoder_input_ids=example_tokens(model, length=2), use_cache=True, return_dict=True
        )
    kept = given.get("past_key_values")
    layers = zip(
        getattr(getattr(kept, "self_attention_cache", None), "layers", ()),
        getattr(getattr(kept, "cross_attention_cache", None), "layers", ()),
        strict=False,
    )
    sizes = []
    for own, cross in layers:
        tensors = {
            f"{kind}.{name}": getattr(layer, f"{name}s", None)
            for kind, layer in zip(_CACHES, (own, cross), strict=True)
            for name in _KEPT
        }
        cached = {name: tensor for name, tensor in tensors.items() if isinstance(tensor, Tensor) and tensor.dim() == 4}
        sizes.append({name: (tensor.shape[1], tensor.shape[3]) for name, tensor in cached.items()})
    if not sizes or any(len(of_layer) < 2 * len(_CACHES) for of_layer in sizes):
        raise ExportUnsupported(
            f"{item.model.at_commit}: {item.model.architecture} keeps something else than keys "
            f"and values of itself and of its encoder between steps, which no consumer of ONNX bundles feeds; serve it "
            f"with PyTorch"
        )
    return tuple(sizes)


def example_tokens(model: PreTrainedModel, *, length: int) -> Tensor:
    """Return ids from all over the vocabulary, no two of them alike: int64 [EXAMPLE_BATCH, length]."""
    vocabulary = int(model.config.get_text_config(decoder=True).vocab_size)
    tokens = torch.arange(EXAMPLE_BATCH * length).reshape(EXAMPLE_BATCH, length)
    return (tokens * 31 + vocabulary // 2) % vocabulary


def _encoder(model: PreTrainedModel, *, source: Source) -> GraphSpec:
    return GraphSpec(
        role=ENCODER,
        module=Encoder(model).eval(),
        example_inputs=source.example,
        inputs=source.inputs,
        outputs={"last_hidden_state": source.states},
    )


def _decoder_inputs(model: PreTrainedModel, *, source: Source) -> tuple[dict[str, Tensor], dict[str, Shape]]:
    """Return the example and the shapes of what a decoder takes beside its caches."""
    width = _states_width(model, source=source)
    generator = torch.Generator().manual_seed(1)
    example = {
        "input_ids": example_tokens(model, length=_EXAMPLE_NEW),
        "encoder_hidden_states": torch.randn(EXAMPLE_BATCH, source.states_length, width, generator=generator),
    }
    inputs: dict[str, Shape] = {"input_ids": NEW, "encoder_hidden_states": (*MASK, None)}
    if source.mask is not None:
        example["encoder_attention_mask"], inputs["encoder_attention_mask"] = source.mask
    return example, inputs


def _states_width(model: PreTrainedModel, *, source: Source) -> int:
    """Return the states' width as the encoder itself has it: configurations name it in many ways."""
    with torch.inference_mode():
        states: Tensor = Encoder(model)(**source.example)["last_hidden_state"]
    return int(states.shape[-1])


FAMILY = Family(name="seq2seq", load=load, whole=whole, graphs=graphs)

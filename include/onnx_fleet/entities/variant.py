"""Variants: the same graphs in fewer bits, made from the proven fp32 ones, and held to them.

    fp32 graphs, proven ─> recorded feeds ─┬─ calibration half ─> conversion, which leaves out what hurts
                                           └─ judging half ────> evaluation: agreement, gates, verdict

Only names and thresholds stand here: nothing of onnx, onnxruntime or torch is imported.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

FP32: Final = "fp32"


@dataclass(frozen=True, slots=True, kw_only=True)
class VariantGates:
    """How far a variant may be from the fp32 graphs. What a task's outputs do not have is not asked of it."""

    min_cosine: float
    """The least mean cosine over all vectors; logits are centred first, since softmax does not see a constant."""
    min_top1: float
    """The least share of choices (labels, next tokens, span ends, pixels) that stay the same, fp32's ties left out."""
    max_perplexity_ratio: float
    """The largest ratio of a language model's perplexity on real text to fp32's."""
    max_layers_ratio: float
    """The largest share that the layers' weights may take of their bytes in fp32. Embeddings are counted apart;
    scales, zero points and biases, which narrow layers have many of, are not counted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Variant:
    """One precision that an entry may ask for."""

    name: str
    suffix: str
    """What stands behind a graph's role in its file's name, as transformers.js looks for it."""
    summary: str
    gates: VariantGates


VARIANTS: Mapping[str, Variant] = {
    variant.name: variant
    for variant in (
        Variant(
            name="fp16",
            suffix="_fp16",
            summary="half precision; values that would overflow or lose their meaning stay in float32",
            gates=VariantGates(min_cosine=0.999, min_top1=0.99, max_perplexity_ratio=1.01, max_layers_ratio=0.51),
        ),
        Variant(
            name="int8",
            suffix="_quantized",
            summary="8-bit weights by channel, activations quantised at run time",
            gates=VariantGates(min_cosine=0.97, min_top1=0.90, max_perplexity_ratio=1.10, max_layers_ratio=0.30),
        ),
        Variant(
            name="int8_static",
            suffix="_int8",
            summary="8-bit weights by channel, activations quantised in calibrated ranges",
            gates=VariantGates(min_cosine=0.97, min_top1=0.90, max_perplexity_ratio=1.10, max_layers_ratio=0.30),
        ),
        Variant(
            name="q4",
            suffix="_q4",
            summary="4-bit weights in blocks of 32, activations in float32",
            gates=VariantGates(min_cosine=0.95, min_top1=0.85, max_perplexity_ratio=1.20, max_layers_ratio=0.22),
        ),
    )
}
"""All variants, in the order in which they are made; docs/decisions/variants.md says where the thresholds come from."""

NAMES: Final = (FP32, *VARIANTS)


def file_name(role: str, variant: str) -> str:
    """Return the name of a graph's file: ``model_quantized.onnx``."""
    return f"{role}{VARIANTS[variant].suffix if variant != FP32 else ''}.onnx"

"""Agreement: long outputs are compared in parts, and their figures are those of the whole."""

from __future__ import annotations

import numpy as np
import pytest

from onnx_fleet.graphs.recorded_feeds import Sample
from onnx_fleet.variants import accuracy
from onnx_fleet.variants.accuracy import Agreement


@pytest.mark.parametrize("shape", [(5, 7, 11), (5, 7, 1), (5, 1, 11), (5, 11)])
def test_the_figures_of_parts_are_those_of_the_whole(shape: tuple[int, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    random = np.random.default_rng(0)
    expected = random.normal(size=shape).astype(np.float32)
    actual = expected + random.normal(scale=0.5, size=shape).astype(np.float32)
    mask = np.tril(np.ones((5, 7), dtype=np.int64), k=2)
    sample = Sample(
        role="model",
        feeds={"input_ids": random.integers(0, 11, size=(5, 7)), "attention_mask": mask},
        predicts_next_token=True,
    )
    whole, parts = Agreement(), Agreement()
    whole.add({"logits": expected}, {"logits": actual}, sample)
    monkeypatch.setattr(accuracy, "_PART", 160)
    parts.add({"logits": expected}, {"logits": actual}, sample)

    assert len(parts.cosines) == (3 if shape == (5, 7, 11) else 1)
    assert parts.cosine == pytest.approx(whole.cosine, rel=1e-12)
    assert parts.perplexity_ratio == pytest.approx(whole.perplexity_ratio, rel=1e-12)
    assert (parts.same, parts.choices, parts.tokens) == (whole.same, whole.choices, whole.tokens)
    assert (parts.values, parts.broken) == (whole.values, whole.broken)

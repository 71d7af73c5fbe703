"""How near a variant is to fp32: what counts, what a figure may be, and what is computed once or in parts."""

from __future__ import annotations

import numpy as np
import pytest

from fixtures.varied import LOOSE, Varied
from onnx_fleet.graphs import recorded_feeds, session
from onnx_fleet.graphs.recorded_feeds import Sample
from onnx_fleet.variants import accuracy
from onnx_fleet.variants.accuracy import Agreement, Remembering


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


def test_logits_are_compared_where_softmax_can_see_it() -> None:
    """A constant added to all logits of a token changes nothing; one that is added to half of them does."""
    rng = np.random.default_rng(3)
    logits = rng.standard_normal((2, 5, 50)).astype(np.float32)
    tokens = rng.integers(0, 50, (2, 5))
    sample = Sample(
        role="model", predicts_next_token=True, feeds={"input_ids": tokens, "attention_mask": np.ones_like(tokens)}
    )
    same, other = Agreement(), Agreement()

    same.add({"logits": logits}, {"logits": logits + 100}, sample)
    shifted = logits.copy()
    shifted[..., :25] += 3
    other.add({"logits": logits}, {"logits": shifted}, sample)

    assert same.cosine > 0.9999
    assert same.perplexity_ratio == pytest.approx(1, abs=1e-4)
    assert other.cosine < 0.9
    assert same.tokens == 8


def test_padding_is_not_judged() -> None:
    hidden = np.ones((1, 4, 8), dtype=np.float32)
    noisy = hidden.copy()
    noisy[:, 2:] = -50
    mask = np.array([[1, 1, 0, 0]])
    sample = Sample(role="model", predicts_next_token=False, feeds={"input_ids": mask, "attention_mask": mask})
    found = Agreement()

    found.add({"last_hidden_state": hidden}, {"last_hidden_state": noisy}, sample)

    assert found.cosine == pytest.approx(1)


def test_what_is_not_finite_any_more_misses() -> None:
    sample = Sample(role="model", predicts_next_token=False, feeds={})
    found = Agreement()
    broken = np.ones((2, 8), dtype=np.float32)
    broken[0, 0] = np.nan

    found.add({"sentence_embedding": np.ones((2, 8), dtype=np.float32)}, {"sentence_embedding": broken}, sample)

    measures = found.against(LOOSE)
    assert [measure.passed for measure in measures if measure.name == "finite"] == [False]
    assert all(np.isfinite(measure.value) for measure in measures)


def test_a_text_that_becomes_impossible_has_a_figure_that_json_can_hold() -> None:
    tokens = np.array([[0, 1, 1]])
    sample = Sample(
        role="model", predicts_next_token=True, feeds={"input_ids": tokens, "attention_mask": np.ones_like(tokens)}
    )
    found = Agreement()
    certain = np.array([[[0.0, 5000.0]] * 3], dtype=np.float32)

    found.add({"logits": certain}, {"logits": -certain}, sample)

    (ratio,) = (measure for measure in found.against(LOOSE) if measure.name == "perplexity_ratio")
    assert not ratio.passed
    assert np.isfinite(ratio.value)


def test_a_graph_that_others_are_held_to_runs_once_on_each_sample(varied_decoder: Varied) -> None:
    opened, asked = [], []

    def opening() -> session.Session:
        opened.append(session.open_session(varied_decoder.exported.graph))
        opened[-1].on_run = asked.append
        return opened[-1]

    samples = list(recorded_feeds.read(varied_decoder.stage_dir, "model", "judging"))
    beside = Remembering(opening)
    first = [beside.run(sample.feeds) for sample in samples]
    beside.close()
    second = [beside.run(sample.feeds) for sample in samples]

    assert len(asked) == len(samples) > 2
    assert len(opened) == 1
    plain = session.open_session(varied_decoder.exported.graph).run(samples[0].feeds)
    assert set(first[0]) == {name for name in plain if not name.startswith("present")}
    for once, again in zip(first, second, strict=True):
        assert all(np.array_equal(once[name], again[name]) for name in once)
    assert np.array_equal(first[0]["logits"], plain["logits"])
    assert not np.array_equal(first[0]["logits"], first[1]["logits"])

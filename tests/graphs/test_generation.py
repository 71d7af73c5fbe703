"""Loops over a graph's calls, whatever makes a call: the likeliest tokens, pieces of a text, masks that grow."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest

from onnx_fleet.errors import ValidationFailed
from onnx_fleet.graphs.generation import Step, extended, greedy, in_pieces, positions

VOCABULARY = 8
Cache = Mapping[str, np.ndarray]


def count_on(input_ids: np.ndarray, *, cache: Cache | None) -> Step:
    """After each token the next higher one is the likeliest; the cache holds all tokens so far."""
    logits = np.eye(VOCABULARY, dtype=np.float32)[(input_ids + 1) % VOCABULARY]
    seen = input_ids if cache is None else np.concatenate([cache["seen"], input_ids], axis=1)
    return Step(logits=logits, cache={"seen": seen})


def test_the_likeliest_token_is_fed_again_until_every_row_has_ended() -> None:
    start = np.array([[0, 3], [0, 1]])

    assert greedy(count_on, start, max_new_tokens=3).tolist() == [[4, 5, 6], [2, 3, 4]]
    ended = greedy(count_on, start, max_new_tokens=6, eos_token_ids=(5,), pad_token_id=7)
    assert ended.tolist() == [[4, 5, 7, 7], [2, 3, 4, 5]]
    assert ended.dtype == np.int64


@pytest.mark.parametrize("sizes", [(4,), (1, 3), (2, 1, 1)])
def test_pieces_are_fed_behind_the_cache_of_those_before_them(sizes: tuple[int, ...]) -> None:
    tokens = np.array([[1, 2, 3, 4], [5, 6, 7, 0]])
    seen: list[int] = []

    def call(piece: slice, cache: Cache | None) -> Step:
        found = count_on(tokens[:, piece], cache=cache)
        seen.append(found.cache["seen"].shape[1])
        return found

    logits = in_pieces(call, sizes)

    assert logits.argmax(axis=-1).tolist() == [[2, 3, 4, 5], [6, 7, 0, 1]]
    assert seen == np.cumsum(sizes).tolist()


def test_positions_count_real_tokens() -> None:
    assert positions(np.array([[0, 0, 1, 1], [1, 1, 1, 1], [1, 1, 0, 0]])).tolist() == [
        [0, 0, 0, 1],
        [0, 1, 2, 3],
        [0, 1, 1, 1],
    ]


def test_a_mask_grows_by_what_stands_behind_the_prompt() -> None:
    mask, new = np.array([[0, 1, 1]]), np.array([[5]])
    cache = {"past_key_values.0.key": np.zeros((1, 2, 4, 3))}

    assert extended(mask, mask, cache=None).tolist() == [[0, 1, 1]]
    assert extended(mask, new, cache=cache).tolist() == [[0, 1, 1, 1, 1]]


def test_a_cache_that_has_lost_some_of_the_prompt_is_an_error() -> None:
    cache = {"past_key_values.0.key": np.zeros((1, 2, 1, 3))}

    with pytest.raises(ValidationFailed, match="the cache has 1 tokens after a prompt of 3"):
        extended(np.array([[1, 1, 1]]), np.array([[5]]), cache=cache)

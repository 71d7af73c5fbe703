"""Inputs to prove a graph with."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from onnx_fleet.graphs import text_inputs
from onnx_fleet.graphs.text_inputs import ModelLimits, TokenSpace

LIMITS = ModelLimits(vocab_size=100, max_length=None, token_types=2, pad_token_id=3)


@pytest.fixture
def space(small_repo: Path) -> TokenSpace:
    return text_inputs.token_space(
        small_repo, ModelLimits(vocab_size=600, max_length=64, token_types=2, pad_token_id=0)
    )


def test_rows_are_random_words_in_the_frame_of_the_tokenizer(small_repo: Path, space: TokenSpace) -> None:
    packed = json.loads((small_repo / "tokenizer.json").read_bytes())
    special = {token["content"]: token["id"] for token in packed["added_tokens"] if token["special"]}

    ids = text_inputs.random_batch(space, batch_size=50, length=60, seed=1).input_ids

    assert set(ids[:, 0].tolist()) == {special["[CLS]"]}
    assert set(ids[:, -1].tolist()) == {special["[SEP]"]}
    assert not set(special.values()) & set(ids[:, 1:-1].ravel().tolist())
    assert ids.max() < 600
    assert ids.dtype == np.int64


def test_a_row_too_short_for_the_frame_keeps_the_end_token(small_repo: Path, space: TokenSpace) -> None:
    (end,) = space.frame.suffix

    rows = [text_inputs.random_batch(space, batch_size=3, length=length, seed=1).input_ids for length in (1, 2)]

    assert all((ids[:, -1] == end).all() for ids in rows)
    assert len(set(rows[1][:, 0].tolist())) > 1


def test_a_pairs_end_tokens_are_never_in_one_batch_with_a_texts(small_repo: Path, space: TokenSpace) -> None:
    counts = [
        {int((row == space.frame.suffix[0]).sum()) for row in batch.input_ids}
        for batch in text_inputs.text_batches(small_repo, space)
    ]

    assert counts == [{1}, {2}]


def test_tokens_that_a_configuration_names_are_not_drawn() -> None:
    config = {"image_token_id": 7, "eos_token_id": [8, 9], "pad_token_id": -1, "text_config": {"bos_token_id": 6}}

    assert text_inputs.special_tokens({**config, "vocab_size": 10, "sep_token_id": 50}, vocab_size=10) == {6, 7, 8, 9}


def test_a_text_without_a_tokenizer_file_ends_as_its_model_asks(tmp_path: Path) -> None:
    space = text_inputs.token_space(tmp_path, replace(LIMITS, end=2, special=frozenset({2})))

    ids = text_inputs.random_batch(space, batch_size=2, length=9, seed=0).input_ids

    assert (ids == 2).sum(axis=1).tolist() == [1, 1]
    assert ids[:, -1].tolist() == [2, 2]


def test_the_same_seed_gives_the_same_tokens(space: TokenSpace) -> None:
    first, second = (text_inputs.random_batch(space, batch_size=2, length=9, seed=4) for _ in range(2))

    assert np.array_equal(first.input_ids, second.input_ids)


def test_both_token_types_are_in_every_row(space: TokenSpace) -> None:
    batch = text_inputs.random_batch(space, batch_size=2, length=5, seed=0)

    assert [sorted(set(row)) for row in batch.token_type_ids.tolist()] == [[0, 1], [0, 1]]


@pytest.mark.parametrize(("side", "mask"), [("left", [0, 0, 1]), ("right", [1, 0, 0])])
def test_padding_stands_on_its_side(space: TokenSpace, side: text_inputs.Side, mask: list[int]) -> None:
    rows = [text_inputs.random_batch(space, batch_size=1, length=length, seed=0) for length in (3, 1)]

    batch = text_inputs.pad(rows, side=side, space=space)

    assert batch.attention_mask.tolist() == [[1, 1, 1], mask]
    assert batch.input_ids[1][~batch.real[1]].tolist() == [0, 0]
    assert batch.input_ids[1][batch.real[1]].tolist() == rows[1].input_ids[0].tolist()


def test_replacing_what_is_masked_leaves_the_rest(space: TokenSpace) -> None:
    rows = [text_inputs.random_batch(space, batch_size=1, length=length, seed=0) for length in (9, 2)]
    batch = text_inputs.pad(rows, side="right", space=space)

    noisy = text_inputs.replace_masked(batch, space=space, seed=1)

    assert np.array_equal(noisy.input_ids[batch.real], batch.input_ids[batch.real])
    assert not np.array_equal(noisy.input_ids, batch.input_ids)


def test_text_goes_through_the_packed_tokenizer(small_repo: Path, space: TokenSpace) -> None:
    texts, pairs = text_inputs.text_batches(small_repo, space)

    assert len(texts) == len(text_inputs.TEXTS)
    assert max(texts.input_ids.shape[1], pairs.input_ids.shape[1]) <= space.max_length
    assert set(pairs.token_type_ids[-1].tolist()) == {0, 1}


@pytest.mark.parametrize(
    ("stated", "positions", "longest"),
    [(None, None, 512), (1e30, 128, 128), (256, 512, 256), (8192, 8192, 512), (512, 40, 40)],
)
def test_the_longest_sequence_is_the_least_of_all_limits(
    tmp_path: Path, stated: float | None, positions: int | None, longest: int
) -> None:
    if stated is not None:
        (tmp_path / "tokenizer_config.json").write_text(json.dumps({"model_max_length": stated}))
    limits = ModelLimits(vocab_size=100, max_length=positions, token_types=1, pad_token_id=3)

    assert text_inputs.token_space(tmp_path, limits).max_length == longest


def test_padding_is_not_drawn_without_a_tokenizer_file_either(tmp_path: Path) -> None:
    assert 3 not in text_inputs.token_space(tmp_path, LIMITS).tokens

"""Inputs to prove a graph with."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from onnx_fleet import inputs
from onnx_fleet.inputs import ModelLimits, TokenSpace

LIMITS = ModelLimits(vocab_size=100, max_length=None, token_types=2, pad_token_id=3)


@pytest.fixture
def space(small_repo: Path) -> TokenSpace:
    return inputs.token_space(small_repo, ModelLimits(vocab_size=600, max_length=64, token_types=2, pad_token_id=0))


def test_random_tokens_are_never_special(small_repo: Path, space: TokenSpace) -> None:
    packed = json.loads((small_repo / "tokenizer.json").read_bytes())
    special = {token["id"] for token in packed["added_tokens"] if token["special"]}

    batch = inputs.random_batch(space, batch_size=50, length=60, seed=1)

    assert special
    assert not special & set(batch.input_ids.ravel().tolist())
    assert batch.input_ids.max() < 600
    assert batch.input_ids.dtype == np.int64


def test_the_same_seed_gives_the_same_tokens(space: TokenSpace) -> None:
    first, second = (inputs.random_batch(space, batch_size=2, length=9, seed=4) for _ in range(2))

    assert np.array_equal(first.input_ids, second.input_ids)


def test_both_token_types_are_in_every_row(space: TokenSpace) -> None:
    batch = inputs.random_batch(space, batch_size=2, length=5, seed=0)

    assert [sorted(set(row)) for row in batch.token_type_ids.tolist()] == [[0, 1], [0, 1]]


@pytest.mark.parametrize(("side", "mask"), [("left", [0, 0, 1]), ("right", [1, 0, 0])])
def test_padding_stands_on_its_side(space: TokenSpace, side: inputs.Side, mask: list[int]) -> None:
    rows = [inputs.random_batch(space, batch_size=1, length=length, seed=0) for length in (3, 1)]

    batch = inputs.pad(rows, side=side, space=space)

    assert batch.attention_mask.tolist() == [[1, 1, 1], mask]
    assert batch.input_ids[1][~batch.real[1]].tolist() == [0, 0]
    assert batch.input_ids[1][batch.real[1]].tolist() == rows[1].input_ids[0].tolist()


def test_replacing_what_is_masked_leaves_the_rest(space: TokenSpace) -> None:
    rows = [inputs.random_batch(space, batch_size=1, length=length, seed=0) for length in (9, 2)]
    batch = inputs.pad(rows, side="right", space=space)

    noisy = inputs.replace_masked(batch, space=space, seed=1)

    assert np.array_equal(noisy.input_ids[batch.real], batch.input_ids[batch.real])
    assert not np.array_equal(noisy.input_ids, batch.input_ids)


def test_text_goes_through_the_packed_tokenizer(small_repo: Path, space: TokenSpace) -> None:
    batch = inputs.text_batch(small_repo, space)

    assert len(batch) == len(inputs.TEXTS) - 1
    assert batch.input_ids.shape[1] <= space.max_length
    assert set(batch.token_type_ids[-1].tolist()) == {0, 1}


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

    assert inputs.token_space(tmp_path, limits).max_length == longest


def test_padding_is_not_drawn_without_a_tokenizer_file_either(tmp_path: Path) -> None:
    assert 3 not in inputs.token_space(tmp_path, LIMITS).tokens

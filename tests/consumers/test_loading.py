"""Bundles load as they lie: the lines of docs/consumers.md, run by each consumer, give PyTorch's answers."""

from __future__ import annotations

import numpy as np
import pytest

from consumers.conftest import Answered, rows, worst

_ATOL, _RTOL = 2e-5, 1e-4


@pytest.mark.parametrize("answered", rows(batches=False), indirect=True)
def test_each_input_alone_gives_what_pytorch_gives(answered: Answered) -> None:
    block = answered.block
    for expected, alone in zip(answered.expected, answered.alone, strict=True):
        for name in block.gives:
            assert alone[name].shape == (1, *expected[name].shape)
            _require_close(alone[name][0], expected[name])
            _keep_worst(answered, name, alone[name][0], expected[name])


@pytest.mark.parametrize("answered", rows(batches=True), indirect=True)
def test_a_padded_batch_gives_what_each_input_gives_alone(answered: Answered) -> None:
    block = answered.block
    assert answered.batch is not None
    for name in block.gives:
        assert len(answered.batch[name]) == len(answered.expected)
        for row, expected in zip(answered.batch[name], answered.expected, strict=True):
            real = row[tuple(slice(size) for size in expected[name].shape)]
            _require_close(real, expected[name])
            _keep_worst(answered, name, real, expected[name])


def _require_close(found: np.ndarray, expected: np.ndarray) -> None:
    if np.issubdtype(expected.dtype, np.integer):
        np.testing.assert_array_equal(found, expected)
    else:
        np.testing.assert_allclose(found, expected, atol=_ATOL, rtol=_RTOL)


def _keep_worst(answered: Answered, name: str, found: np.ndarray, expected: np.ndarray) -> None:
    key = (answered.block.consumer, answered.block.name)
    worst[key] = max(worst.get(key, 0.0), float(np.abs(found - expected).max()))

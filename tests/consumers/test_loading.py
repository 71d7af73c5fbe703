"""Bundles load as they lie: the lines of docs/consumers.md, run by each consumer, give PyTorch's answers."""

from __future__ import annotations

import numpy as np
import pytest

from consumers.cases import CASES, DAMAGED
from consumers.loading import Answered, worst
from onnx_fleet.entities.variant import VARIANTS

pytestmark = pytest.mark.timeout(900)  # the first test of a bundle waits until it is exported

_ATOL, _RTOL = 2e-5, 1e-4


def rows(*, batches: bool) -> list[object]:
    """Every bundle with every consumer that takes it, or that takes its inputs in batches."""
    return [
        pytest.param((case, consumer), id=f"{case.name}-{consumer}")
        for case in CASES
        for consumer in case.blocks
        if not (batches and consumer in case.one_by_one)
    ]


@pytest.mark.parametrize("answered", rows(batches=False), indirect=True)
def test_each_input_alone_gives_what_pytorch_gives(answered: Answered) -> None:
    block = answered.block
    for expected, alone in zip(answered.expected, answered.alone, strict=True):
        for name in block.gives:
            assert alone[name].shape == (1, *expected[name].shape)
            _require_close(alone[name][0], expected[name], variant=answered.variant)
            _keep_worst(answered, name, alone[name][0], expected[name])


@pytest.mark.parametrize("answered", rows(batches=True), indirect=True)
def test_a_padded_batch_gives_what_each_input_gives_alone(answered: Answered) -> None:
    block = answered.block
    assert answered.batch is not None
    for name in block.gives:
        assert len(answered.batch[name]) == len(answered.expected)
        for row, expected in zip(answered.batch[name], answered.expected, strict=True):
            real = row[tuple(slice(size) for size in expected[name].shape)]
            _require_close(real, expected[name], variant=answered.variant)
            _keep_worst(answered, name, real, expected[name])


@pytest.mark.parametrize(
    "answered",
    [pytest.param((DAMAGED, consumer), id=f"damaged-{consumer}") for consumer in DAMAGED.blocks],
    indirect=True,
)
def test_a_damaged_bundle_is_seen_through_every_consumer(answered: Answered) -> None:
    """What the tests above compare does fail where one of a bundle's weights is wrong."""
    for expected, alone in zip(answered.expected, answered.alone, strict=True):
        for name in answered.block.gives:
            with pytest.raises(AssertionError, match="Not equal to tolerance"):
                _require_close(alone[name][0], expected[name], variant="")


def _require_close(found: np.ndarray, expected: np.ndarray, *, variant: str) -> None:
    if variant and np.issubdtype(expected.dtype, np.floating):
        norms = np.linalg.norm(found, axis=-1) * np.linalg.norm(expected, axis=-1)
        cosines = (found * expected).sum(axis=-1) / norms
        assert cosines.mean() >= VARIANTS[variant].gates.min_cosine
        assert np.abs(found - expected).max() > _ATOL / 100, "the fp32 graph answers here"
    elif np.issubdtype(expected.dtype, np.integer):
        np.testing.assert_array_equal(found, expected)
    else:
        np.testing.assert_allclose(found, expected, atol=_ATOL, rtol=_RTOL)


def _keep_worst(answered: Answered, name: str, found: np.ndarray, expected: np.ndarray) -> None:
    key = (answered.block.consumer, answered.block.name)
    worst[key] = max(worst.get(key, 0.0), float(np.abs(found - expected).max()))

"""The formula that predicts what each step takes, from the sizes of a model's files: docs/operations.md has its fit.

Memory and time are linear in the bytes of the weights in float32, with a steeper part for small models: their logits
and activations grow with the vocabulary, which takes most of a small model. The constants were measured on a machine
of two cores. Seconds are those of a task with an interpreter of its own, as Airflow starts one. Memory is what a worker
has to have: mapped files, as PyTorch has the checkpoint, are not counted.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Final

from onnx_fleet.entities.sizing import SizingFacts, StepCost
from onnx_fleet.entities.variant import FP32

GB: Final = 1e9

_START_S: Final = 5.0
"""The imports of a step with torch."""
_LIGHT_START_S: Final = 1.0
_TORCH_BYTES: Final = 0.55 * GB
"""The memory of a process that has imported torch and transformers, and of the task that started it."""
_LIGHT_BYTES: Final = 0.2 * GB
_TRANSFER_BYTES_S: Final = 50e6
"""The rate of a download or an upload, its digests included; each network has its own."""
_SMALL_BYTES: Final = 0.25 * GB
"""The float32 bytes up to which memory grows more steeply."""
_LARGE_SLOPE: Final = 1.0
"""The bytes of a validation, or of a measurement of fp32, for each float32 byte beyond that: onnxruntime's copy."""
_FLOPS: Final = 130e9
"""The float32 operations in a second of one call of onnxruntime or PyTorch, on two cores."""
_CALL_S: Final = 0.001
"""What a call takes, however small its model is."""
_POINT_S: Final = 10.0
"""The budget of two calls at one point: see measurement.timing."""
_LEAST_RUNS: Final = 12
"""The runs of a point whose calls are short: a first one, and one that counts, in each of six blocks."""
_LEAST_SLOW_RUNS, _FEWEST_SLOW_RUNS = 7, 4
"""The runs of a point whose calls are slow: one to become warm, and one in each block; the fewest within a budget."""
_SLOW_S: Final = 0.1
"""The length of a slow call: see measurement.timing."""
_REST_S: Final = 0.05
"""What each block of each call waits for the threads of the one before it."""
_BLOCKS: Final = 6
_ROUNDS: Final = 5
"""The rounds in which two versions are timed: see measurement.latency_ratio."""
_VARIANT_CALL: Final = 0.6
"""The length of a variant's call as a share of fp32's: int8 is three times as fast, and fp16 as slow."""
_REPEATED: Final = 0.5
"""The share of a proof's time that is saved where it repeats another one with other weights."""
_IMAGE_TOKENS: Final = 200
"""About as many tokens as an image is to a model that cuts it into patches of 16 pixels."""

_RATIOS: Final[Mapping[str, float]] = {"fp32": 1.0, "fp16": 0.5, "int8": 0.3, "int8_static": 0.3, "q4": 0.4}
"""The bytes of a variant's files as a share of the float32 bytes; embeddings stay in float32 in some of them."""
_TWO_LOADED: Final = 2.4
"""The bytes that two versions take in onnxruntime for each float32 byte."""
_LOADED: Final[Mapping[str, float]] = {"fp16": 1.2, "int8": 0.4, "int8_static": 0.4, "q4": 0.25}
"""The memory of a variant in onnxruntime as a share of the float32 bytes: fp16 is computed in float32."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Fit:
    """The constants of one family."""

    graphs: int = 1
    """The number of graphs that are traced."""
    steep: float
    """The bytes of memory that a validation takes for each of the first float32 bytes."""
    timed_steep: float
    """The same of a measurement of fp32."""
    session: float = 0.0
    """The same of what one session of a variant computes with, beside its weights: logits, above all."""
    validate_s: float
    """The seconds of a validation for each GB of float32 weights."""
    variant_s: float = 10.0
    """The seconds in which one variant is made and judged, for each GB of float32 weights."""
    by_token: bool = True
    """Whether the grid's lengths are points; else each batch size is one."""
    step_by_step: bool = False
    """Whether one token is generated at each point, too."""


_ENCODER: Final = _Fit(steep=2.4, timed_steep=2.0, validate_s=36.0)
_DECODER: Final = _Fit(steep=4.3, timed_steep=4.3, session=1.25, validate_s=62.0, variant_s=22.0, step_by_step=True)
_SEQ2SEQ: Final = _Fit(graphs=2, steep=4.7, timed_steep=1.9, validate_s=64.0, variant_s=15.0, step_by_step=True)
_VISION: Final = _Fit(steep=2.4, timed_steep=2.0, validate_s=36.0, by_token=False)

_FITS: Final[Mapping[str, _Fit]] = {
    "encoder": _ENCODER,
    "decoder": _DECODER,
    "seq2seq": _SEQ2SEQ,
    "vision": _VISION,
    "speech": _SEQ2SEQ,
    "dual": _Fit(graphs=3, steep=2.4, timed_steep=2.0, validate_s=47.0),
    "vlm": _DECODER,
}
"""By family; docs/operations.md says which of them were measured."""


def predict(facts: SizingFacts) -> dict[str, StepCost]:
    """Return what each step takes, by its name in records."""
    fit, weights = _FITS.get(facts.family, _ENCODER), facts.float32_bytes
    variants = [name for name in facts.variants if name != FP32]
    bundle_bytes = int(sum(_RATIOS.get(name, 1.0) for name in {FP32, *variants}) * weights)
    fp32_bytes = facts.download_bytes + weights
    all_bytes = facts.download_bytes + bundle_bytes
    small = min(weights, _SMALL_BYTES)
    common_bytes = _TORCH_BYTES + _LARGE_SLOPE * (weights - small)
    loaded = [_LOADED.get(name, 1.0) * weights + fit.session * small for name in variants]
    judged_bytes = _TORCH_BYTES + weights + fit.session * small + max(loaded, default=0.0)
    whole = 2 * weights if facts.is_loaded_whole else 0
    return {
        "export": _cost(
            memory=_TORCH_BYTES + 0.1 * weights + whole,
            disk=fp32_bytes,
            seconds=_START_S + 6 * fit.graphs + facts.download_bytes / _TRANSFER_BYTES_S + weights / GB,
        ),
        "validate": _cost(
            memory=max(common_bytes + fit.steep * small, judged_bytes),
            disk=all_bytes,
            seconds=_START_S + (fit.validate_s + fit.variant_s * len(variants)) * weights / GB + 2 * len(variants),
        ),
        "measure": _cost(
            memory=common_bytes + fit.timed_steep * small + sum(loaded),
            disk=all_bytes,
            seconds=_START_S
            + _timing_s(facts, fit, calls=2 + _VARIANT_CALL * len(variants), within_s=facts.latency.budget_s),
        ),
        "compare": _cost(
            memory=_LIGHT_BYTES + (_TWO_LOADED * weights + 2 * fit.session * small if facts.replaces else 0),
            disk=all_bytes + (bundle_bytes if facts.replaces else 0),
            seconds=_LIGHT_START_S
            + (bundle_bytes / _TRANSFER_BYTES_S + _compared_s(facts, fit) if facts.replaces else 0),
        ),
        "publish": _cost(
            memory=_LIGHT_BYTES, disk=all_bytes, seconds=_LIGHT_START_S + bundle_bytes / _TRANSFER_BYTES_S
        ),
    }


def predict_alike(facts: SizingFacts) -> dict[str, StepCost]:
    """Return what the steps take of a model that takes over the graphs, the proof and the latency of one before it.

    Its version in use is taken to have other graphs, as after a change of the toolchain: those are timed to compare.
    """
    first, fit, gigabytes = predict(facts), _FITS.get(facts.family, _ENCODER), facts.float32_bytes / GB
    seconds = {
        "export": _LIGHT_START_S + facts.download_bytes / _TRANSFER_BYTES_S + gigabytes,
        "validate": first["validate"].seconds - _REPEATED * fit.validate_s * gigabytes,
        "measure": _LIGHT_START_S + (1 + gigabytes) * len({FP32, *facts.variants}),
    }
    return first | {name: replace(first[name], seconds=round(taken, 1)) for name, taken in seconds.items()}


def _cost(*, memory: float, disk: float, seconds: float) -> StepCost:
    return StepCost(memory_bytes=int(memory), disk_bytes=int(disk), seconds=round(seconds, 1))


def _timing_s(facts: SizingFacts, fit: _Fit, *, calls: float = 2, within_s: float | None = None) -> float:
    """Return the seconds in which the points of the grid are timed, by as many calls of fp32's length in turn.

    A point takes the runs that are asked for, or fewer where its time runs out, and never less than the least. How soon
    runs are precise enough is not known before.

    Args:
        within_s: the time of all points together, of which each has an equal part of what those before it have left.
    """
    grid, total, points = facts.latency, 0.0, sorted(_tokens(facts, fit))
    slow_runs = _LEAST_SLOW_RUNS if within_s is None else _FEWEST_SLOW_RUNS
    for number, tokens in enumerate(points):
        run_s = _run_s(facts, tokens)
        least = slow_runs if run_s >= _SLOW_S else grid.warmup_runs + _LEAST_RUNS
        wanted = grid.warmup_runs + grid.timed_runs + _BLOCKS
        budget_s = _POINT_S * calls / 2
        if within_s is not None:
            budget_s = min(budget_s, max(0.0, within_s - total) / (len(points) - number))
        total += max(least * run_s * calls, min(wanted * run_s * calls, budget_s)) + _BLOCKS * calls * _REST_S
    return total


def _compared_s(facts: SizingFacts, fit: _Fit) -> float:
    """Return the seconds in which two versions are timed at the smallest point and at the largest, in rounds."""
    points = sorted(_tokens(facts, fit))
    least = (_ROUNDS * _FEWEST_SLOW_RUNS * 2 * _run_s(facts, tokens) for tokens in {points[0], points[-1]})
    return sum(max(taken_s, _POINT_S) for taken_s in least)


def _run_s(facts: SizingFacts, tokens: int) -> float:
    return _CALL_S + 2 * (facts.float32_bytes / 4) * tokens / _FLOPS


def _tokens(facts: SizingFacts, fit: _Fit) -> Iterator[int]:
    """Return how many tokens each call is given, for every point and kind of work."""
    grid = facts.latency
    for rows in grid.batch_sizes:
        for length in grid.sequence_lengths if fit.by_token else (_IMAGE_TOKENS,):
            yield rows * length
            if fit.step_by_step:
                yield rows

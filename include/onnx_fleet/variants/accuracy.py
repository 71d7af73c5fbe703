"""Compare a variant's outputs with the fp32 graph's over a corpus: cosine, choices, perplexity. numpy only."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Final, Protocol

import numpy as np

from onnx_fleet.entities.entry import Tolerances
from onnx_fleet.entities.variant import VariantGates
from onnx_fleet.entities.variant_report import Measure
from onnx_fleet.graphs.comparison import Outputs, best_and_margin, tie_width
from onnx_fleet.graphs.recorded_feeds import Sample
from onnx_fleet.graphs.session import Session
from onnx_fleet.processes.two_threads import beside

_CACHE = "present."
_SPANS = ("start_logits", "end_logits")
"""The outputs [batch_size, sequence_length] in which what is chosen is a position."""
_MAX_LEAK, _MASKED_SAMPLES = 0.25, 4
_NOTHING = 1e-5
_MAX_NATS = 100.0
"""The largest loss in nats: a larger one is as wrong, and JSON has no infinity."""
_ROUNDING = Tolerances(atol=0.0, rtol=5e-4)
"""The tolerances of rounding for a logit: which of two classes comes first within them is a tie."""
_PART: Final = 1 << 20
"""How many numbers of an output are compared together, in float64: the logits of a sample took a gigabyte."""
_REMEMBERED_BYTES: Final = 256 << 20
"""The outputs that are remembered at most."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Masked:
    """How far the vectors of one padded batch turn, as means of 1 - cosine."""

    leaked: float
    """The variant's outputs, when other tokens stand under the mask."""
    ignored: float
    """The fp32 graph's outputs, when the mask also says that these tokens are real."""
    rounded: float
    """The variant's outputs beside the fp32 graph's, of rows without padding."""


@dataclass(slots=True)
class Agreement:
    """Figures of two graphs, gathered sample by sample."""

    cosines: list[np.ndarray] = field(default_factory=list)
    same: int = 0
    choices: int = 0
    losses: tuple[float, float] = (0.0, 0.0)
    """The losses of the fp32 graph and of the variant, summed over tokens, in nats."""
    tokens: int = 0
    broken: int = 0
    """The number of values that are finite in fp32 alone."""
    values: int = 0
    masked: list[_Masked] = field(default_factory=list)
    """The figures of the samples with padding."""
    is_of_vectors: bool = False
    """Whether cosines are all that is gathered."""

    def add(self, expected: Outputs, actual: Outputs, sample: Sample) -> None:
        """Take in one call's outputs; caches are judged by what comes of them."""
        for name, array in expected.items():
            if not is_cache(name) and array.dtype.kind == "f":
                for rows in _parts(array):
                    self._add(name, array[rows], actual[name][rows], _rows_of(sample, rows, count=len(array)))

    @property
    def cosine(self) -> float:
        """The mean cosine; 1 where there is nothing to compare."""
        return float(np.concatenate(self.cosines).mean()) if self.cosines else 1.0

    @property
    def perplexity_ratio(self) -> float:
        """The ratio of the variant's perplexity to fp32's; 1 where no text was predicted."""
        return math.exp(min((self.losses[1] - self.losses[0]) / self.tokens, _MAX_NATS)) if self.tokens else 1.0

    def against(self, gates: VariantGates) -> tuple[Measure, ...]:
        """Return every figure that there is, with its gate."""
        found = [_measure("finite", 1.0 - self.broken / max(self.values, 1), at_least=1.0, count=self.values)]
        if sum(each.ignored for each in self.masked) > 0:
            leak = _leak(self.masked)
            found.append(
                Measure(
                    name="masked", value=leak, threshold=_MAX_LEAK, passed=leak <= _MAX_LEAK, count=len(self.masked)
                )
            )
        if self.cosines:
            count = sum(len(each) for each in self.cosines)
            found.append(_measure("cosine", self.cosine, at_least=gates.min_cosine, count=count))
        if self.choices:
            found.append(_measure("top1", self.same / self.choices, at_least=gates.min_top1, count=self.choices))
        if self.tokens:
            ratio = self.perplexity_ratio
            found.append(
                Measure(
                    name="perplexity_ratio",
                    value=ratio,
                    threshold=gates.max_perplexity_ratio,
                    passed=ratio <= gates.max_perplexity_ratio,
                    count=self.tokens,
                )
            )
        return tuple(found)

    def _add(self, name: str, expected: np.ndarray, actual: np.ndarray, sample: Sample) -> None:
        self.values += expected.size
        broken = np.isfinite(expected) & ~np.isfinite(actual)
        if broken.any():
            self.broken += int(broken.sum())
            actual = np.where(broken, 0.0, actual)  # a finding of its own, and no figure of the others
        real = _real(expected, sample.feeds)
        chooses = "logits" in name
        gathers = chooses and not self.is_of_vectors
        if name in _SPANS and real is not None:
            expected, actual = (np.where(real, array, -np.inf) for array in (expected, actual))
            real = None
        elif chooses and expected.ndim == 4:  # [batch_size, classes, height, width]
            expected, actual = (np.moveaxis(array, 1, -1) for array in (expected, actual))
        if gathers and real is not None and sample.predicts_next_token and "input_ids" in sample.feeds:
            self._foretell(expected, actual, sample.feeds["input_ids"], real)
        if real is not None:
            expected, actual = expected[real], actual[real]
        if expected.ndim < 2 or expected.shape[-1] == 1:  # one number a row: the rows together are what it says
            expected, actual = expected.reshape(1, -1), actual.reshape(1, -1)
            chooses = gathers = False
        expected, actual = (array.reshape(-1, array.shape[-1]) for array in (expected, actual))
        if gathers:
            self._choose(expected, actual)
        self.cosines.append(_cosines(expected, actual, centred=chooses))

    def _choose(self, expected: np.ndarray, actual: np.ndarray) -> None:
        best, margin = best_and_margin(expected, axis=-1)
        clear = margin > tie_width(best, tolerances=_ROUNDING)
        self.choices += int(clear.sum())
        self.same += int((expected.argmax(axis=-1) == actual.argmax(axis=-1))[clear].sum())

    def _foretell(self, expected: np.ndarray, actual: np.ndarray, tokens: np.ndarray, real: np.ndarray) -> None:
        """Add the cross entropy of each real token, given those before it."""
        if expected.ndim != 3 or expected.shape[:2] != tokens.shape or tokens.max() >= expected.shape[2]:
            return
        known = real[:, 1:] & real[:, :-1]
        losses = [_cross_entropy(array[:, :-1][known], tokens[:, 1:][known]) for array in (expected, actual)]
        self.losses = (self.losses[0] + losses[0], self.losses[1] + losses[1])
        self.tokens += int(known.sum())


def is_cache(name: str) -> bool:
    """Say whether an output is a cache, which only the next call reads."""
    return name.startswith(_CACHE)


class Answering(Protocol):
    """The type of what answers as a session does."""

    def run(self, feeds: Mapping[str, np.ndarray]) -> Outputs:
        """Return the outputs by name."""


@dataclass(slots=True)
class Remembering:
    """A graph that several others are held to: it runs once on each sample. Outputs that are caches are left out."""

    open: Callable[[], Session]
    _session: Session | None = None
    _known: dict[bytes, Outputs] = field(default_factory=dict)
    _bytes: int = 0

    def run(self, feeds: Mapping[str, np.ndarray]) -> Outputs:
        """Return the outputs by name.

        Raises:
            ValidationFailed: the graph does not load or run.
        """
        question = hashlib.sha256(usedforsecurity=False)
        for name in sorted(feeds):
            question.update(f"{name} {feeds[name].dtype} {feeds[name].shape}".encode())
            question.update(feeds[name].tobytes())
        found = self._known.get(question.digest())
        if found is None:
            self._session = self._session or self.open()
            found = {name: array for name, array in self._session.run(feeds).items() if not is_cache(name)}
            self._bytes += sum(array.nbytes for array in found.values())
            if self._bytes <= _REMEMBERED_BYTES:
                self._known[question.digest()] = found
        return found

    def close(self) -> None:
        """Free the session's memory; it is opened again for a sample that it has not run on."""
        self._session = None


def between(fp32: Answering, other: Session, samples: Iterable[Sample]) -> Agreement:
    """Run both graphs on every sample, at the same time.

    Raises:
        ValidationFailed: one of them does not run.
    """
    found = Agreement()
    for sample in samples:
        expected, actual = beside(partial(fp32.run, sample.feeds), partial(other.run, sample.feeds))
        found.add(expected, actual, sample)
        noisy = _with_noise(sample)
        if noisy and len(found.masked) < _MASKED_SAMPLES:
            mask = sample.feeds["attention_mask"]
            unmasked = replace(noisy, feeds={**noisy.feeds, "attention_mask": np.ones_like(mask)})
            full = np.asarray(mask.all(axis=1))
            padded = ~full
            own = _turned(expected, fp32.run(noisy.feeds), sample, rows=padded)
            if own < _NOTHING and full.any():  # a model that reads what is masked may go on doing so
                found.masked.append(
                    _Masked(
                        leaked=_turned(actual, other.run(noisy.feeds), sample, rows=padded),
                        ignored=_turned(expected, fp32.run(unmasked.feeds), sample, rows=padded),
                        rounded=_turned(expected, actual, sample, rows=full),
                    )
                )
    return found


def _parts(output: np.ndarray) -> Iterator[slice]:
    """Yield the rows of an output that are compared together: all, but for long ones of vectors, as logits are."""
    numbers = math.prod(output.shape[1:])
    if output.ndim < 3 or 1 in (output.shape[1], output.shape[-1]) or numbers * len(output) <= _PART:
        yield slice(None)
        return
    step = max(1, _PART // numbers)
    for start in range(0, len(output), step):
        yield slice(start, start + step)


def _rows_of(sample: Sample, rows: slice, *, count: int) -> Sample:
    """Return some rows of what was fed, where there are as many as the output has."""
    return replace(
        sample, feeds={k: array[rows] if len(array) == count else array for k, array in sample.feeds.items()}
    )


def _with_noise(sample: Sample) -> Sample | None:
    """Put other tokens under the mask; None where nothing is masked, or where the mask covers the cache too."""
    tokens, mask = sample.feeds.get("input_ids"), sample.feeds.get("attention_mask")
    if tokens is None or mask is None or tokens.shape != mask.shape or mask.all():
        return None
    real = np.sort(tokens[mask.astype(bool)])
    noise = np.random.default_rng(0).choice(real, size=tokens.shape)
    return replace(sample, feeds={**sample.feeds, "input_ids": np.where(mask.astype(bool), tokens, noise)})


def _turned(before: Outputs, after: Outputs, sample: Sample, *, rows: np.ndarray) -> float:
    """Return how far the vectors of some rows turn: the mean of 1 - cosine.

    Args:
        rows: bool [batch_size], True for the rows to compare.
    """
    found = Agreement(is_of_vectors=True)
    feeds = {name: array[rows] for name, array in sample.feeds.items() if len(array) == len(rows)}
    ours, others = (
        {name: array[rows] for name, array in outputs.items() if len(array) == len(rows)} for outputs in (before, after)
    )
    found.add(ours, others, replace(sample, feeds=feeds))
    return 1.0 - found.cosine


def _leak(masked: Sequence[_Masked]) -> float:
    """Return the effect of masked tokens beyond rounding, as a share of their effect without a mask.

    The range of a whole batch's activations, by which int8 rounds, has masked tokens in it: other tokens, other
    rounding. Two results of which each is rounded are as far apart as both roundings at most.
    """
    beyond = sum(each.leaked for each in masked) - 2 * sum(each.rounded for each in masked)
    return max(0.0, beyond) / sum(each.ignored for each in masked)


def _measure(name: str, value: float, *, at_least: float, count: int) -> Measure:
    return Measure(name=name, value=value, threshold=at_least, passed=value >= at_least, count=count)


def _real(output: np.ndarray, feeds: Mapping[str, np.ndarray]) -> np.ndarray | None:
    """Return which positions are real: bool [batch_size, tokens] for outputs per token; None for others.

    A decoder's mask covers its cache too.
    """
    tokens = feeds.get("input_ids")
    if tokens is None or tokens.ndim != 2 or output.shape[:2] != tokens.shape:
        return None
    mask = feeds.get("attention_mask")
    if mask is None or mask.shape[0] != tokens.shape[0] or mask.shape[1] < tokens.shape[1]:
        return np.ones(tokens.shape, dtype=bool)
    found: np.ndarray = mask[:, -tokens.shape[1] :].astype(bool)
    return found


def _cosines(expected: np.ndarray, actual: np.ndarray, *, centred: bool) -> np.ndarray:
    """Return the cosine of each pair of vectors: [rows]; what is not finite in fp32 (masked positions) is left out."""
    known = np.isfinite(expected)
    expected, actual = expected.astype(np.float64), actual.astype(np.float64)
    if not known.all():
        expected, actual = (np.where(known, np.nan_to_num(array), 0.0) for array in (expected, actual))
    if centred:
        count = np.maximum(known.sum(axis=-1, keepdims=True), 1)
        expected, actual = ((array - array.sum(axis=-1, keepdims=True) / count) * known for array in (expected, actual))
    norms = np.sqrt(np.vecdot(expected, expected) * np.vecdot(actual, actual))
    products = np.vecdot(expected, actual)
    found: np.ndarray = np.where(norms > 0, products / np.where(norms > 0, norms, 1.0), 1.0)
    return found


def _cross_entropy(logits: np.ndarray, tokens: np.ndarray) -> float:
    logits = logits.astype(np.float64)
    highest = logits.max(axis=-1, keepdims=True)
    total = np.log(np.exp(logits - highest).sum(axis=-1)) + highest[:, 0]
    return float((total - logits[np.arange(len(tokens)), tokens]).sum())

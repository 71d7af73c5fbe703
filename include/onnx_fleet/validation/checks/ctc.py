"""What models of sound are held to: one graph, a waveform or spectrogram in, at any batch size, length and padding."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial

import numpy as np

from onnx_fleet.entities.validation_report import CheckRow
from onnx_fleet.graphs import audio_inputs
from onnx_fleet.graphs.audio_inputs import Kind
from onnx_fleet.graphs.comparison import Case, Outputs
from onnx_fleet.processes.two_threads import beside
from onnx_fleet.validation.checks import tokenized_texts
from onnx_fleet.validation.checks.context import SEED, CheckContext, checks_of
from onnx_fleet.validation.checks.float64 import Exact, word
from onnx_fleet.validation.checks.padding import EACH_ROW_ALONE, OTHER_TOKENS, Parts, Run, Runners, padded_rows
from onnx_fleet.validation.checks.sensitivity import moved_by
from onnx_fleet.validation.checks.single_graph import Feeds, against_pytorch, parity_over_sizes, run
from onnx_fleet.validation.checks.ties import choices_equal

BATCH_SIZES = (1, 2, 7)
LENGTHS: Mapping[str, tuple[int, ...]] = {
    "num_samples": (8000, 400, 401, 5999, 9600, 24_000),
    "sequence_length": (40, 2, 9, 33, 150),
}
"""Symbol -> lengths, the usual one first. At 16 kHz the shortest sound that makes one frame has 400 samples."""
PADDED_LENGTHS: Mapping[str, tuple[int, ...]] = {"num_samples": (8000, 5003, 2100), "sequence_length": (40, 31, 12)}
_KEPT = (
    replace(OTHER_TOKENS, said="noise under the mask changes nothing"),
    replace(EACH_ROW_ALONE, said="each sound as that sound alone"),
)


def parity(subject: CheckContext) -> Iterator[CheckRow]:
    """Every output equals PyTorch's on noise, over batch sizes and lengths, the shortest and odd ones too."""
    if not _is_meant(subject):
        return
    yield from parity_over_sizes(
        subject,
        _lengths(subject),
        feed=lambda count, length: _feeds(subject, count, length=length, kind="noise"),
        said=lambda length: f"{_long(subject, length)} of noise, seed {SEED}",
        batch_sizes=BATCH_SIZES,
    )


def tones(subject: CheckContext) -> Iterator[CheckRow]:
    """Every output equals PyTorch's on rising tones between silences, and so do the characters or the class."""
    if not _is_meant(subject):
        return
    feeds = _feeds(subject, 4, length=_lengths(subject)[0], kind="tones")
    case = subject.case("tones", "4 rising tones, half of the time silent, of zero mean and unit variance")
    expected, (actual, faults) = beside(partial(subject.reference, feeds), partial(run, subject, feeds, case=case))
    yield from faults or against_pytorch(subject, feeds, expected, actual, case=case)
    if "logits" in actual:
        exact = word(subject, feeds, "logits")
        yield from _read(subject, expected["logits"], actual["logits"], case=case, exact=exact)


def _read(
    subject: CheckContext, expected: np.ndarray, actual: np.ndarray, *, case: Case, exact: Exact
) -> Iterator[CheckRow]:
    """The likeliest of every frame or sound; of frames the text too, as both tokenizers read it."""
    chosen = replace(case, case=f"{case.case}: the likeliest of every frame or sound")
    own, packed = (tokenized_texts.labels_of(folder) for folder in (subject.source_dir, subject.stage_dir))
    words = partial(tokenized_texts.label, own), partial(tokenized_texts.label, packed)
    by_label = words if subject.item.model.task == "audio-classification" else None
    yield choices_equal(expected, actual, axis=-1, output="logits", case=chosen, words=by_label, exact=exact)
    both = tokenized_texts.sides(subject) if by_label is None else None
    if both is None:
        return
    for row, ids in enumerate(actual.argmax(axis=-1)):
        where = replace(case, case=f"{case.case}: sound {row} as text")
        yield tokenized_texts.read_alike(subject, ids.tolist(), both=both, case=where)


def padding(subject: CheckContext) -> Iterator[CheckRow]:
    """Sounds padded to one length equal PyTorch's, each sound alone, and themselves with noise behind their ends."""
    if not _is_meant(subject):
        return
    if _symbol(subject) is None:
        yield from _padding_at_one_length(subject)
        return
    lengths = PADDED_LENGTHS[_symbol(subject) or ""]
    singles = [_feeds(subject, 1, length=length, kind="noise") for length in lengths]
    padded, noisy = _padded(singles, fill=0.0), _padded(singles, fill=1.0)
    is_masked = "attention_mask" in padded
    frames = [subject.reference(feeds) for feeds in singles] if is_masked else []

    def feed(run: Run) -> Parts:
        whole = run(padded)
        if not is_masked:
            return {"whole": whole}
        return {
            "whole": whole,
            "batch": _real(subject, whole, alone=frames),
            "noisy": _real(subject, run(noisy), alone=frames),
            "alone": _stacked([run(feeds) for feeds in singles]),
        }

    yield from padded_rows(
        subject,
        feed,
        runners=Runners.of(subject, graph=subject.session().run),
        case=subject.case("padding", f"rows of {', '.join(map(str, lengths))} {_unit(subject)}, seed {SEED}"),
        as_pytorch="whole",
        kept=_KEPT if is_masked else (),
    )


def _padding_at_one_length(subject: CheckContext) -> Iterator[CheckRow]:
    """Sounds that are shorter than the one length that the graph takes, where a mask says how long they are."""
    feeds = _feeds(subject, 3, length=0, kind="noise")
    if "attention_mask" not in feeds:
        return
    mask = feeds["attention_mask"]
    most = mask.shape[1]
    mask[1, 5 * most // 8 :] = mask[2, most // 4 :] = 0
    name = _values(subject)
    feeds[name] = feeds[name] * mask.reshape(*mask.shape, *[1] * (feeds[name].ndim - 2)).astype(feeds[name].dtype)
    case = subject.case("padding", f"rows that fill all, 5/8 and a quarter, seed {SEED}: as PyTorch on the same batch")
    actual, faults = run(subject, feeds, case=case)
    yield from faults or against_pytorch(subject, feeds, subject.reference(feeds), actual, case=case)


def sensitivity(subject: CheckContext) -> Iterator[CheckRow]:
    """The comparisons can tell: PyTorch's own outputs move when the sound's end is another one, or the mask ignored."""
    if not _is_meant(subject):
        return
    feeds = _feeds(subject, 2, length=_lengths(subject)[0], kind="noise")
    name = _values(subject)
    end = feeds[name].copy()
    end[:, -max(1, end.shape[1] // 8) :] *= -1
    changes = {"another last eighth": (feeds, {**feeds, name: end})}
    if "attention_mask" in feeds:
        padded = {**feeds, "attention_mask": feeds["attention_mask"].copy()}
        padded["attention_mask"][-1, feeds[name].shape[1] // 2 :] = 0
        changes["the mask ignored"] = (padded, feeds)
    yield from moved_by(subject, changes)


def _real(subject: CheckContext, outputs: Outputs, alone: Sequence[Outputs]) -> dict[str, np.ndarray]:
    """Return outputs per frame without the frames of padding, rows one behind the other; all others stay whole.

    Args:
        alone: the outputs of each row by itself, which say how many frames it has.
    """
    cut = {}
    for spec in subject.graph().outputs:
        array = outputs[spec.name]
        if spec.shape[1:2] == ("num_frames",):
            array = np.concatenate([row[: one[spec.name].shape[1]] for row, one in zip(array, alone, strict=True)])
        cut[spec.name] = array
    return cut


def _stacked(singles: Sequence[Outputs]) -> dict[str, np.ndarray]:
    """Outputs of single rows, one behind the other."""
    return {
        name: np.concatenate([one[name].reshape(-1, one[name].shape[-1]) for one in singles]) for name in singles[0]
    }


def _padded(singles: list[dict[str, np.ndarray]], *, fill: float) -> dict[str, np.ndarray]:
    """One batch of sounds of different lengths; behind their ends zeros, or noise of some size."""
    longest = max(next(iter(feeds.values())).shape[1] for feeds in singles)
    rng = np.random.default_rng(SEED)
    batch = {}
    for name in singles[0]:
        rows = []
        for feeds in singles:
            array = feeds[name]
            rest = (1, longest - array.shape[1], *array.shape[2:])
            behind = np.zeros(rest) if name == "attention_mask" else fill * rng.standard_normal(rest)
            rows.append(np.concatenate([array, behind.astype(array.dtype)], axis=1))
        batch[name] = np.concatenate(rows)
    return batch


def _feeds(subject: CheckContext, count: int, *, length: int, kind: Kind) -> dict[str, np.ndarray]:
    """A batch as the graph takes it, nothing of it padding."""
    specs = {spec.name: spec for spec in subject.graph().inputs}
    name = _values(subject)
    shape = [axis if isinstance(axis, int) else length for axis in specs[name].shape[1:]]
    feeds = {name: audio_inputs.batch(count, *shape, seed=SEED, kind=kind)}
    if "attention_mask" in specs:
        feeds["attention_mask"] = np.ones((count, shape[0]), dtype=np.int64)
    return feeds


def _is_meant(subject: CheckContext) -> bool:
    """Models that write with a decoder are of the same family, and have graphs and checks of their own."""
    return "model" in subject.graphs


def _values(subject: CheckContext) -> str:
    return next(spec.name for spec in subject.graph().inputs if spec.name != "attention_mask")


def _symbol(subject: CheckContext) -> str | None:
    """What the axis of time is called; None where it is a number."""
    shape = next(spec.shape for spec in subject.graph().inputs if spec.name == _values(subject))
    return next((axis for axis in shape[1:] if isinstance(axis, str)), None)


def _lengths(subject: CheckContext) -> tuple[int, ...]:
    """Return the lengths to feed; where a graph takes one length only, a number that stands for it."""
    symbol = _symbol(subject)
    return LENGTHS[symbol] if symbol else (0,)


def _unit(subject: CheckContext) -> str:
    return "samples" if _symbol(subject) == "num_samples" else "frames"


def _long(subject: CheckContext, length: int) -> str:
    return f"{length} {_unit(subject)}" if _symbol(subject) else "the one length"


def probe(subject: CheckContext) -> Feeds:
    """Return two rows of noise: float32 [2, samples] or [2, frames, bins], and their mask where it is taken."""
    return _feeds(subject, 2, length=_lengths(subject)[0], kind="noise")


CHECKS = checks_of(parity, tones, padding, sensitivity, once=(sensitivity,))

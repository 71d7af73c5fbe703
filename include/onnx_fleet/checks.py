"""The checks: small functions in a table, each proving one thing about one graph, each giving rows.

A check yields a row for everything that it compared, whatever it found; ``case`` says how to make the input again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from onnx_fleet import graph as graphs
from onnx_fleet import inputs
from onnx_fleet import pooling as pooling_of_source
from onnx_fleet.catalogue import Tolerances
from onnx_fleet.comparison import Case, CheckRow, Outputs, at_real_positions, compare, is_per_token
from onnx_fleet.errors import GpuUnavailable, ValidationFailed
from onnx_fleet.graph import GraphInfo, TensorSpec
from onnx_fleet.inputs import Batch, Side, TokenSpace
from onnx_fleet.runtime import Session, require_placed

if TYPE_CHECKING:
    from onnx_fleet.reference import Reference

BATCH_SIZES = (1, 2, 5)
LENGTHS = (1, 2, 17)
"""And the model's maximum. 17 is odd and no multiple of a vector register."""
TOKENS_AT_MAXIMUM = 1024
"""Batches at the maximum length hold as many rows as fit in this: cost grows with the square of the length."""
PADDED_LENGTHS = (17, 9, 1)
DYNAMIC_SIZES = ((1, 1), (3, 2), (4, 13))
"""Batch sizes and lengths that no example has."""
SEED = 20
_EMBEDDING = "sentence_embedding"


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """One graph, and what it is held to."""

    stage_dir: Path
    graph: GraphInfo
    session: Session
    reference: Reference
    space: TokenSpace
    tolerances: Tolerances

    def case(self, check: str, text: str) -> Case:
        return Case(check=check, graph=self.graph.path, case=text, tolerances=self.tolerances)


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One thing to prove."""

    name: str
    proves: str
    families: tuple[str, ...]
    run: Callable[[Subject], Iterator[CheckRow]]


def contract(subject: Subject) -> Iterator[CheckRow]:
    """The file is the one that the export recorded, takes what the source model takes, and names its axes."""
    case = subject.case("contract", "the file as it lies")
    info, path = subject.graph, subject.stage_dir / subject.graph.path
    faults: list[CheckRow] = []
    found = graphs.describe(path, role=info.role, variant=info.variant, bundle=subject.stage_dir)
    for name in ("inputs", "outputs", "opset", "ir_version", "weight_files"):
        recorded, here = getattr(info, name), getattr(found, name)
        if recorded != here:
            faults.append(case.row("different", detail=f"{name}: the export recorded {recorded}, the file has {here}"))
    declared = {spec.name: spec for spec in found.inputs}
    for name in subject.reference.input_names:
        single_type = name == "token_type_ids" and subject.space.token_types == 1
        if name not in declared and not single_type:
            faults.append(case.row("missing", output=name, detail="the source model takes it, the graph does not"))
    for spec in (*found.inputs, *found.outputs):
        if spec.shape[:1] != ("batch_size",):
            faults.append(case.row("shape", output=spec.name, detail=f"axis 0 of {spec.shape} is not batch_size"))
    for spec in found.inputs:
        if spec.shape[1:2] != ("sequence_length",):
            faults.append(case.row("shape", output=spec.name, detail=f"axis 1 of {spec.shape} is not sequence_length"))
    for file in info.weight_files:
        if not (subject.stage_dir / file).is_file():
            faults.append(case.row("missing", output=file, detail="the graph's weights are not in the stage"))
    yield from faults or [case.row("equal", passed=True)]


def placement(subject: Subject) -> Iterator[CheckRow]:
    """The nodes ran on the provider that was asked for, by the session's own profile."""
    case = subject.case("placement", "batch_size 1, sequence_length 5")
    batch = inputs.random_batch(subject.space, batch_size=1, length=min(5, subject.space.max_length), seed=SEED)
    try:
        found = subject.session.prove_placement(batch.feeds)
        require_placed(found, graph=subject.graph.path)
    except ValidationFailed as err:
        yield case.row("error", detail=str(err))
    except GpuUnavailable as err:
        yield case.row("placement", detail=str(err))
    else:
        yield case.row("equal", passed=True)


def dynamic(subject: Subject) -> Iterator[CheckRow]:
    """No axis named dynamic was frozen: outputs have the sizes that their symbols promise, at sizes never traced."""
    for batch_size, length in DYNAMIC_SIZES:
        if length > subject.space.max_length:
            continue
        case = subject.case("dynamic", f"batch_size {batch_size}, sequence_length {length}, seed {SEED}")
        batch = inputs.random_batch(subject.space, batch_size=batch_size, length=length, seed=SEED)
        sizes = {"batch_size": batch_size, "sequence_length": length}
        try:
            outputs = subject.session.run(batch.feeds)
        except ValidationFailed as err:
            yield case.row("error", detail=str(err))
            continue
        for spec in subject.graph.outputs:
            promised = [sizes.get(axis, axis) if isinstance(axis, str) else axis for axis in spec.shape]
            shape = list(outputs[spec.name].shape) if spec.name in outputs else None
            if shape == promised:
                yield case.row("equal", output=spec.name, passed=True)
            else:
                yield case.row("shape", output=spec.name, detail=f"{shape} where its symbols promise {promised}")


def parity(subject: Subject) -> Iterator[CheckRow]:
    """Every output equals PyTorch's on random tokens, over batch sizes and lengths up to the model's maximum."""
    maximum = subject.space.max_length
    lengths = sorted({min(length, maximum) for length in LENGTHS} | {maximum})
    for length in lengths:
        rows = max(1, min(BATCH_SIZES[-1], TOKENS_AT_MAXIMUM // length))
        largest = inputs.random_batch(subject.space, batch_size=rows, length=length, seed=SEED)
        expected = subject.reference(largest.feeds)
        for batch_size in sorted({min(size, rows) for size in BATCH_SIZES}):
            # PyTorch gives a row the same values in a batch of any size, to 1e-6; the graph has to as well.
            first = {name: array[:batch_size] for name, array in expected.items()}
            text = f"batch_size {batch_size}, sequence_length {length}, seed {SEED}"
            yield from _against(subject, subject.case("parity", text), largest[:batch_size], expected=first)


def text(subject: Subject) -> Iterator[CheckRow]:
    """Every output equals PyTorch's on real text through the packed tokenizer, sentence pairs too."""
    case = subject.case("text", f"{len(inputs.TEXTS) - 1} texts of several scripts, the last one a pair, padded right")
    if not (subject.stage_dir / "tokenizer.json").exists():
        yield case.row("skipped", passed=True, detail="the stage has no tokenizer.json")
        return
    batch = inputs.text_batch(subject.stage_dir, subject.space)
    yield from _against(subject, case, batch, expected=subject.reference(batch.feeds))


def padding_left(subject: Subject) -> Iterator[CheckRow]:
    """Rows padded on the left equal PyTorch's, the same rows alone, and themselves with other tokens under the mask."""
    yield from _padding(subject, side="left")


def padding_right(subject: Subject) -> Iterator[CheckRow]:
    """As padding_left, on the other side: what every tokenizer for encoders does."""
    yield from _padding(subject, side="right")


def pooling(subject: Subject) -> Iterator[CheckRow]:
    """The sentence embedding is the one that the source's modules.json defines, computed again without the recipe."""
    case = subject.case("pooling", f"rows of {', '.join(map(str, PADDED_LENGTHS))} tokens, seed {SEED}, padded right")
    own = pooling_of_source.read(subject.stage_dir)
    if own is None or not own.computable or _EMBEDDING not in {spec.name for spec in subject.graph.outputs}:
        what = "it defines no pooling that is known here" if own is None or not own.computable else "no output pools"
        yield case.row("skipped", passed=True, detail=what)
        return
    batch = inputs.pad(_rows_to_pad(subject), side="right", space=subject.space)
    hidden = subject.reference(batch.feeds)["last_hidden_state"]
    try:
        found = {_EMBEDDING: subject.session.run(batch.feeds)[_EMBEDDING]}
    except (ValidationFailed, KeyError) as err:
        yield case.row("error", output=_EMBEDDING, detail=str(err))
        return
    said = f"modules.json says {own.mode}{', normalised' if own.normalised else ''}: see the entry's recipe"
    yield from compare({_EMBEDDING: own.pool(hidden, batch.attention_mask)}, found, case=case, detail=said)


def sensitivity(subject: Subject) -> Iterator[CheckRow]:
    """The comparisons can tell: PyTorch's own outputs move by more than the tolerance when an input is ignored."""
    rows = _rows_to_pad(subject)
    batch = inputs.pad(rows, side="right", space=subject.space)
    expected = at_real_positions(subject.reference(batch.feeds), real=batch.real, specs=subject.graph.outputs)
    changes = {
        "the mask ignored": replace(batch, attention_mask=batch.attention_mask * 0 + 1),
        "tokens in another order": inputs.pad(
            [replace(row, input_ids=row.input_ids[:, ::-1]) for row in rows], side="right", space=subject.space
        ),
    }
    if subject.space.token_types > 1:
        changes["token types ignored"] = replace(batch, token_type_ids=batch.token_type_ids * 0)
    for change, other in changes.items():
        case = subject.case("sensitivity", change)
        changed = at_real_positions(subject.reference(other.feeds), real=batch.real, specs=subject.graph.outputs)
        moved = {row.output: row.max_abs_diff for row in compare(expected, changed, case=case) if not row.passed}
        if moved:
            found = ", ".join(f"{name} {size:.2g}" for name, size in moved.items() if size is not None)
            yield case.row("sensitive", passed=True, detail=f"PyTorch's own outputs move: {found}")
        else:
            detail = "PyTorch's own outputs stay within the tolerance: a graph with this fault would pass"
            yield case.row("insensitive", passed=True, detail=detail)


def _padding(subject: Subject, *, side: Side) -> Iterator[CheckRow]:
    """Three comparisons; the last two are asked of the graph where PyTorch itself keeps to them.

    BERT counts positions from the left edge, padding included: PyTorch's own rows change with padding on the left.
    """
    rows = _rows_to_pad(subject)
    lengths = ", ".join(str(row.input_ids.shape[1]) for row in rows)
    case = subject.case(f"padding_{side}", f"rows of {lengths} tokens, seed {SEED}: as PyTorch on the same batch")
    torch_runs = _padded_runs(subject.reference, rows, side=side, subject=subject)
    try:
        graph_runs = _padded_runs(subject.session.run, rows, side=side, subject=subject)
    except ValidationFailed as err:
        yield case.row("error", detail=str(err))
        return
    yield from compare(torch_runs.padded, graph_runs.padded, case=case)
    if torch_runs.padded.keys() != graph_runs.padded.keys():
        return
    alone = replace(case, case=f"rows of {lengths} tokens, seed {SEED}: each row as that row alone")
    own = compare(torch_runs.alone, torch_runs.padded, case=alone)
    yield from _where_pytorch_holds(own, compare(graph_runs.alone, graph_runs.padded, case=alone), case=alone)
    leak = replace(case, case=f"rows of {lengths} tokens, seed {SEED}: other tokens under the mask change nothing")
    own = compare(torch_runs.padded, torch_runs.noisy, case=leak)
    yield from _where_pytorch_holds(own, compare(graph_runs.padded, graph_runs.noisy, case=leak), case=leak)


@dataclass(frozen=True, slots=True, kw_only=True)
class _PaddedRuns:
    """One runner's outputs at real positions: of a padded batch, of its rows alone, of other tokens under the mask."""

    padded: Outputs
    alone: Outputs
    noisy: Outputs


def _padded_runs(
    run: Callable[[Mapping[str, np.ndarray]], Outputs], rows: Sequence[Batch], *, side: Side, subject: Subject
) -> _PaddedRuns:
    specs = subject.graph.outputs
    padded = inputs.pad(rows, side=side, space=subject.space)
    noisy = inputs.replace_masked(padded, space=subject.space, seed=SEED)
    singles = [run(row.feeds) for row in rows]
    return _PaddedRuns(
        padded=at_real_positions(run(padded.feeds), real=padded.real, specs=specs),
        alone={spec.name: _stacked(spec, singles) for spec in specs if spec.name in singles[0]},
        noisy=at_real_positions(run(noisy.feeds), real=padded.real, specs=specs),
    )


def _stacked(spec: TensorSpec, singles: Sequence[Outputs]) -> np.ndarray:
    """One output of single rows, laid out as at_real_positions lays it out for a batch of them."""
    arrays = [single[spec.name][0] if is_per_token(spec) else single[spec.name] for single in singles]
    if len({array.shape[1:] for array in arrays}) > 1:
        return np.empty(0, dtype=arrays[0].dtype)  # whose shape is a finding
    return np.concatenate(arrays)


def _where_pytorch_holds(own: Sequence[CheckRow], found: Sequence[CheckRow], *, case: Case) -> Iterator[CheckRow]:
    """The graph's rows, but for outputs whose property PyTorch's own rows do not have."""
    broken = {row.output: row for row in own if not row.passed}
    for row in found:
        if row.output in broken:
            size = broken[row.output].max_abs_diff
            by = "" if size is None else f" by up to {size:.2g}"
            detail = f"PyTorch's own differ{by}: the model is not meant for this padding"
            yield case.row("skipped", output=row.output, passed=True, detail=detail)
        else:
            yield row


def _rows_to_pad(subject: Subject) -> list[Batch]:
    lengths = (min(length, subject.space.max_length) for length in PADDED_LENGTHS)
    return [inputs.random_batch(subject.space, batch_size=1, length=length, seed=SEED) for length in lengths]


def _against(subject: Subject, case: Case, batch: Batch, *, expected: Outputs) -> Iterator[CheckRow]:
    """The graph's outputs against given ones, at real positions."""
    try:
        actual: Outputs = subject.session.run(batch.feeds)
    except ValidationFailed as err:
        yield case.row("error", detail=str(err))
        return
    real, specs = batch.real, subject.graph.outputs
    yield from compare(
        at_real_positions(expected, real=real, specs=specs),
        at_real_positions(actual, real=real, specs=specs),
        case=case,
    )


def _check(run: Callable[[Subject], Iterator[CheckRow]]) -> Check:
    proves = (run.__doc__ or "").partition("\n")[0]
    return Check(name=run.__name__, proves=proves, families=("encoder",), run=run)


CHECKS: Mapping[str, Check] = {
    check.name: check
    for check in (
        _check(placement),
        _check(contract),
        _check(dynamic),
        _check(parity),
        _check(text),
        _check(padding_left),
        _check(padding_right),
        _check(pooling),
        _check(sensitivity),
    )
}

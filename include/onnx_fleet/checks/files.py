"""What every graph is held to, whatever its family: the file, where its nodes run, and axes that are really dynamic."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np

from onnx_fleet import graph as graphs
from onnx_fleet import recipes, workloads
from onnx_fleet.checks.subject import SEED, Subject, checks_of
from onnx_fleet.comparison import Case, CheckRow, compare
from onnx_fleet.errors import GpuUnavailable, ValidationFailed
from onnx_fleet.graph import SYMBOLS, GraphInfo
from onnx_fleet.runtime import require_placed

DYNAMIC_SIZES = ((1, 1), (3, 2), (4, 13))
"""Batch sizes and lengths that no example has."""


def contract(subject: Subject) -> Iterator[CheckRow]:
    """The file is the one that the export recorded, takes what the source model takes, and names its axes."""
    for role, info in subject.graphs.items():
        case = subject.case("contract", "the file as it lies", role=role)
        path = subject.stage_dir / info.path
        found = graphs.describe(path, role=info.role, variant=info.variant, bundle=subject.stage_dir)
        faults = [*_recorded(subject, info, found, case), *_named(found, case), *_taken(subject, found, case)]
        yield from faults or [case.row("equal", passed=True)]


def placement(subject: Subject) -> Iterator[CheckRow]:
    """The nodes ran on the provider that was asked for, by the session's own profile."""
    for role, info in subject.graphs.items():
        work = workloads.shortest(info)
        case = subject.case("placement", work.text, role=role)
        try:
            found = subject.session(role).prove_placement(work.feeds(info, seed=SEED))
            require_placed(found, graph=info.path)
        except ValidationFailed as err:
            yield case.row("error", detail=str(err))
        except GpuUnavailable as err:
            yield case.row("placement", detail=str(err))
        else:
            yield case.row("equal", passed=True)


def dynamic(subject: Subject) -> Iterator[CheckRow]:
    """No axis named dynamic was frozen: outputs have the sizes that their symbols promise, at sizes never traced."""
    longest = workloads.longest(subject.stage_dir, subject.reference)
    for role, info in subject.graphs.items():
        for batch_size, length in DYNAMIC_SIZES:
            for work in workloads.of(info, batch_size=batch_size, length=min(length, longest or length)):
                yield from _sizes_kept(subject, info, work, case=subject.case("dynamic", work.text, role=role))


def recipe_cases(subject: Subject) -> Iterator[CheckRow]:
    """On the inputs that the recipe names, one for each way that the model branches, every output equals PyTorch's."""
    name = subject.item.model.entry.recipe
    cases = recipes.find(name).cases if name else None
    if cases is None:
        return
    (info,) = subject.graphs.values()  # the export refuses cases for more
    work = workloads.of(info, batch_size=2, length=9, tokens=_tokens(subject))[0]
    for text, feeds in cases(work.feeds(info, seed=SEED)).items():
        case = subject.case("recipe_cases", f"{text}, {work.text}, seed {SEED}")
        try:
            found = subject.session(info.role).run(feeds)
        except ValidationFailed as err:
            yield case.row("error", detail=str(err))
            continue
        yield from compare(subject.reference(feeds), found, case=case)


def _tokens(subject: Subject) -> np.ndarray | None:
    return subject.space.tokens if "input_ids" in subject.reference.parameters else None


def _sizes_kept(subject: Subject, info: GraphInfo, work: workloads.Workload, *, case: Case) -> Iterator[CheckRow]:
    try:
        outputs = subject.session(info.role).run(work.feeds(info, seed=SEED))
    except ValidationFailed as err:
        yield case.row("error", detail=str(err))
        return
    for spec in info.outputs:
        promised = [work.sizes.get(axis, axis) if isinstance(axis, str) else axis for axis in spec.shape]
        shape = list(outputs[spec.name].shape) if spec.name in outputs else None
        # An axis whose size follows from others by the model's own arithmetic (frames of sound) has no promise.
        open_axes = [isinstance(size, str) for size in promised]
        kept = shape is not None and len(shape) == len(promised) and all(
            is_open or size == wanted for is_open, size, wanted in zip(open_axes, shape, promised, strict=True)
        )  # fmt: skip
        if kept:
            yield case.row("equal", output=spec.name, passed=True)
        else:
            yield case.row("shape", output=spec.name, detail=f"{shape} where its symbols promise {promised}")


def _recorded(subject: Subject, info: GraphInfo, found: GraphInfo, case: Case) -> Iterator[CheckRow]:
    for name in ("inputs", "outputs", "opset", "ir_version", "weight_files"):
        recorded, here = getattr(info, name), getattr(found, name)
        if recorded != here:
            yield case.row("different", detail=f"{name}: the export recorded {recorded}, the file has {here}")
    for file in info.weight_files:
        if not (subject.stage_dir / file).is_file():
            yield case.row("missing", output=file, detail="the graph's weights are not in the stage")


def _named(info: GraphInfo, case: Case) -> Iterator[CheckRow]:
    unwanted: Mapping[str, set[str]] = {
        spec.name: {axis for axis in spec.shape if isinstance(axis, str) and axis not in SYMBOLS}
        for spec in (*info.inputs, *info.outputs)
    }
    for spec in (*info.inputs, *info.outputs):
        if unwanted[spec.name]:
            yield case.row("shape", output=spec.name, detail=f"{spec.shape} has axes that the contract does not name")
        if not spec.shape or not isinstance(spec.shape[0], str):
            yield case.row("shape", output=spec.name, detail=f"axis 0 of {spec.shape} is not batch_size")


def _taken(subject: Subject, info: GraphInfo, case: Case) -> Iterator[CheckRow]:
    """Of a single graph: several share what the source model takes."""
    declared = {spec.name for spec in info.inputs}
    for name in subject.reference.input_names if len(subject.graphs) == 1 else ():
        single_type = name == "token_type_ids" and subject.space.token_types == 1
        if name not in declared and not single_type:
            yield case.row("missing", output=name, detail="the source model takes it, the graph does not")


CHECKS = checks_of(placement, contract, dynamic, recipe_cases)

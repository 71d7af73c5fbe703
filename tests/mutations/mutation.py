"""One way to break a good bundle, and the check that has to see it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import onnx
from onnx import ModelProto, TensorProto

from onnx_fleet.entities.validation_report import CheckFinding
from onnx_fleet.source import reference
from onnx_fleet.source.reference import Load


@dataclass(frozen=True, slots=True, kw_only=True)
class Mutation:
    """A small, likely fault of an exporter, an optimizer, a packer or a disk."""

    name: str
    says: str
    """For people: what is wrong then."""
    model: str
    """The fixture whose stage is broken: fixtures/exported.py says what it is."""
    family: str
    check: str
    """The one that says best what is wrong; others may see it too."""
    finding: CheckFinding
    apply: Callable[[Path], None]
    """Breaks a stage in place."""
    source: Callable[[Path], None] | None = None
    """Changes the source beside it, in place: it has more than the export and the reference took of it."""
    load: Load = reference.load
    """Who loads the reference: one that loses the same part as the graphs do."""


def of_graph(
    change: Callable[[ModelProto], None],
    *,
    model: str,
    family: str,
    check: str,
    finding: CheckFinding = "different",
    role: str = "model",
) -> Mutation:
    """A change of one graph, its weights loaded."""
    return of_stage(
        change,
        model=model,
        family=family,
        check=check,
        finding=finding,
        apply=partial(_change_in_stage, change=change, role=role),
    )


def of_stage(
    change: Callable[..., None],
    *,
    model: str,
    family: str,
    check: str,
    finding: CheckFinding = "different",
    apply: Callable[[Path], None] | None = None,
    source: Callable[[Path], None] | None = None,
    load: Load = reference.load,
) -> Mutation:
    """A change of files, given the stage."""
    return Mutation(
        name=change.__name__,
        says=" ".join((change.__doc__ or "").split()),
        model=model,
        family=family,
        check=check,
        finding=finding,
        apply=apply or change,
        source=source,
        load=load,
    )


def change_graph(path: Path, change: Callable[[ModelProto], None]) -> None:
    """Change one file; weights that lie beside it, and stay as they are, are left there."""
    outside = {
        tensor.name: tensor
        for tensor in onnx.load(path, load_external_data=False).graph.initializer
        if tensor.data_location == TensorProto.EXTERNAL
    }
    model = onnx.load(path)
    before = {tensor.name: tensor.raw_data for tensor in model.graph.initializer if tensor.name in outside}
    change(model)
    for tensor in model.graph.initializer:
        if tensor.name in outside and tensor.raw_data == before[tensor.name]:
            tensor.CopyFrom(outside[tensor.name])
    onnx.save(model, path)


def _change_in_stage(stage_dir: Path, *, change: Callable[[ModelProto], None], role: str) -> None:
    change_graph(stage_dir / "onnx" / f"{role}.onnx", change)

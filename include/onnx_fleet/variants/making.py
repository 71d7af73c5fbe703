"""Make the variants of a stage from its fp32 graphs. It runs in a process of its own, without torch.

A quantised graph that misses its gates on the calibration half of the corpus gets another chance: each kind of layer is
quantised alone, what it costs is measured on the graph's own outputs, and the most harmful kinds stay in float32, one
after the other, until the gates hold.
"""

from __future__ import annotations

import logging
import re
import shutil
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import onnx

from onnx_fleet import graph, model_config, runtime, stage
from onnx_fleet.errors import ValidationFailed
from onnx_fleet.graph import GraphInfo
from onnx_fleet.stage import ExportRecord
from onnx_fleet.variants import (
    FP32,
    VARIANTS,
    VariantGates,
    agreement,
    blocks,
    corpus,
    file_name,
    half,
    integers,
    prepared,
)
from onnx_fleet.variants.agreement import Agreement
from onnx_fleet.variants.corpus import Sample

log = logging.getLogger(__name__)

_SMALL_BYTES = 1024
_PROTOBUF_LIMIT_BYTES = 2_000_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class MakingRequest:
    """What the process that makes variants is told."""

    stage: Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Made:
    """One graph of one variant, as it was made."""

    variant: str
    role: str
    kept: tuple[str, ...]
    """What stayed in float32, since it would overflow or harm the outputs: kinds of layers, or nodes."""
    attempts: int
    """Graphs that were tried."""
    fault: str = ""
    """Why there is no graph."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MakingRecord:
    """Every variant that was made; whether any is good is another process's to say."""

    made: tuple[Made, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Work:
    """One graph to convert."""

    stage_dir: Path
    info: GraphInfo
    source: Path
    """As prepared.prepare writes it."""
    variant: str
    gates: VariantGates

    def samples(self) -> Iterator[Sample]:
        return corpus.read(self.stage_dir, self.info.role, "calibration")


def make(request: MakingRequest) -> MakingRecord:
    """Add the variants that the stage's entry wants to the stage.

    Raises:
        BundleNotFound: the folder is not an exported stage.
    """
    place = request.stage
    entry, record = stage.read_work(place).model.entry, stage.read_export(place)
    fp32 = tuple(info for info in record.graphs if info.variant == FP32)
    remove(place, record, VARIANTS)
    scratch = place / stage.PRIVATE / "variants"
    found, graphs = [], list(fp32)
    try:
        for info in fp32:
            folder = scratch / info.role
            folder.mkdir(parents=True, exist_ok=True)
            source = prepared.prepare(place / info.path, folder)
            for name in (name for name in VARIANTS if name in entry.variants):
                gates = entry.variant_gates.get(name, VARIANTS[name].gates)
                work = _Work(stage_dir=place, info=info, source=source, variant=name, gates=gates)
                try:
                    model, made = _converted(work)
                except Exception as err:  # converters raise anything; the other variants are none the worse for it
                    log.exception("%s of %s cannot be made", name, info.path)
                    fault = f"it cannot be made: {type(err).__name__}: {err}"
                    found.append(Made(variant=name, role=info.role, kept=(), attempts=1, fault=fault))
                    continue
                path = place / "onnx" / file_name(info.role, name)
                _write(model, path, inside=entry.weights != "external", inline_max_bytes=entry.inline_max_bytes)
                graphs.append(
                    graph.describe(path, role=info.role, variant=name, bundle=place, libraries=info.libraries)
                )
                found.append(made)
                log.info("made %s of %s: kept %s", path.name, info.path, ", ".join(made.kept) or "nothing")
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    write(place, record, graphs)
    return MakingRecord(made=tuple(found))


def write(place: Path, record: ExportRecord, graphs: Iterable[GraphInfo]) -> None:
    """Record which graphs a stage has now, for later steps and in its config.json."""
    ordered = tuple(sorted(graphs, key=lambda info: info.variant != FP32))
    stage.write_export(place, replace(record, graphs=ordered))
    model_config.complete_config(place, external_data=graph.external_data(ordered))


def remove(place: Path, record: ExportRecord, names: Iterable[str]) -> None:
    """Take variants out of a stage, files and all; those that are not in it are none."""
    gone = set(names)
    for name in gone:
        for info in (info for info in record.graphs if info.variant == FP32):
            path = place / "onnx" / file_name(info.role, name)
            path.unlink(missing_ok=True)
            path.with_name(f"{path.name}_data").unlink(missing_ok=True)
    write(place, record, [info for info in record.graphs if info.variant not in gone])


def _converted(work: _Work) -> tuple[onnx.ModelProto, Made]:
    """Everything converted where the gates bear it; else with the kinds of layers that hurt most left out."""
    always = half.overflowing(work.source, samples=work.samples()) if work.variant == "fp16" else frozenset()
    convert = partial(_convert, work, always)
    kinds = _kinds(onnx.load(work.source, load_external_data=False))
    model = convert(frozenset())
    made = Made(variant=work.variant, role=work.info.role, kept=tuple(sorted(always)), attempts=1)
    if _passes(work, model) or len(kinds) < 2:
        return model, made
    every = frozenset(name for names in kinds.values() for name in names)
    harm = {kind: 1.0 - _agreement(work, convert(every - names)).cosine for kind, names in kinds.items()}
    worst_first = sorted(kinds, key=lambda kind: (-harm[kind], kind))
    for count in range(1, len(kinds)):
        kept = worst_first[:count]
        smaller = convert(frozenset(name for kind in kept for name in kinds[kind]))
        if _passes(work, smaller):
            return smaller, replace(made, kept=(*made.kept, *kept), attempts=1 + len(kinds) + count)
    return model, replace(made, attempts=2 * len(kinds))  # nothing that leaving out some kinds would mend


def _convert(work: _Work, always: frozenset[str], excluded: frozenset[str]) -> onnx.ModelProto:
    """A graph in the variant's precision, but for some nodes."""
    match work.variant:
        case "fp16":
            return half.convert(work.source, excluded=always | excluded)
        case "int8":
            return integers.dynamic(work.source, excluded=excluded)
        case "int8_static":
            return integers.static(work.source, samples=work.samples(), excluded=excluded)
        case _:
            return blocks.convert(work.source, excluded=excluded)


def _kinds(model: onnx.ModelProto) -> dict[str, frozenset[str]]:
    """Nodes that multiply by a weight or gather from one, by what the weight is called in every layer."""
    weights = prepared.weights(model.graph)
    found: dict[str, set[str]] = {}
    for node in model.graph.node:
        named = next((name for name in node.input[:2] if name in weights), None)
        if named and node.op_type in ("MatMul", "Gather", "Conv", "Gemm"):
            found.setdefault(re.sub(r"\.\d+(?=\.)", ".*", named.removesuffix(prepared.TRANSPOSED)), set()).add(
                node.name
            )
    return {kind: frozenset(names) for kind, names in found.items()}


def _passes(work: _Work, model: onnx.ModelProto) -> bool:
    try:
        return all(measure.passed for measure in _agreement(work, model).against(work.gates))
    except ValidationFailed:
        return False


def _agreement(work: _Work, model: onnx.ModelProto) -> Agreement:
    path = work.source.with_name("attempt.onnx")
    copied = onnx.ModelProto()
    copied.CopyFrom(model)
    _write(copied, path, inside=False, inline_max_bytes=0)
    fp32, other = (runtime.open_session(each, threads=1) for each in (work.source, path))
    return agreement.between(fp32, other, work.samples())


def _write(model: onnx.ModelProto, path: Path, *, inside: bool, inline_max_bytes: int) -> None:
    """A variant is whole by itself: a consumer fetches its one or two files, and nothing of the fp32 graph."""
    size = model.ByteSize()
    data = path.with_name(f"{path.name}_data")
    data.unlink(missing_ok=True)
    if inside and size <= min(inline_max_bytes, _PROTOBUF_LIMIT_BYTES):
        path.write_bytes(model.SerializeToString(deterministic=True))
        return
    onnx.save(model, path, save_as_external_data=True, location=data.name, size_threshold=_SMALL_BYTES)

"""Make the variants of a stage from its fp32 graphs. It runs in a process of its own, and needs no torch.

At first everything is converted, and another process judges that. A variant that misses its gates gets another chance:
mixed_precision.py finds the layers that hurt most on the calibration half of the corpus, and these stay in float32.
"""

from __future__ import annotations

import logging
import shutil
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from pathlib import Path

import onnx

from onnx_fleet.bundles import model_config
from onnx_fleet.bundles.stage import Stage
from onnx_fleet.entities.export_record import ExportRecord
from onnx_fleet.entities.graph_info import GraphInfo
from onnx_fleet.entities.variant import FP32, NAMES, VARIANTS, VariantGates, file_name
from onnx_fleet.errors import ValidationFailed
from onnx_fleet.graphs import description, recorded_feeds
from onnx_fleet.graphs.recorded_feeds import Sample
from onnx_fleet.graphs.session import open_session
from onnx_fleet.processes.progress import Count
from onnx_fleet.variants import accuracy, float16, int4, int8, mixed_precision, preprocessing, weight_size
from onnx_fleet.variants.accuracy import Agreement, Remembering
from onnx_fleet.variants.mixed_precision import Layers
from onnx_fleet.variants.streamed import Streamed

log = logging.getLogger(__name__)

MAX_ATTEMPTS = 24
"""The most attempts at one graph of one variant: all of it, ten kinds, eight bands of one, and some by halving."""
SEARCH_SECONDS = 1800.0
"""The time in seconds from the start, after which only the first attempt of every graph is begun.

A step may take an hour, and a variant that is right by then should not be lost to the search for a better one.
"""
_RANKING_SAMPLES = 4
"""The number of samples that rank kinds of layers by their harm; the gates are judged on all samples."""
_PROTOBUF_LIMIT_BYTES = 2_000_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class MakingRequest:
    """The request that the process which makes variants gets."""

    stage: Stage
    only: tuple[str, ...] | None = None
    """The variants to make; None makes all that the stage's entry wants."""
    searches: bool = True
    """Whether a graph that misses its gates on the calibration half is made again with layers in float32."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Made:
    """One graph of one variant, as it was made."""

    variant: str
    role: str
    kept: tuple[str, ...]
    """The kinds of layers, or nodes, that stayed in float32, since they would overflow or harm the outputs."""
    attempts: int
    """The number of graphs that were tried."""
    fault: str = ""
    """The reason why there is no graph."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MakingRecord:
    """Every variant that was made; another process judges whether it is good."""

    made: tuple[Made, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Work:
    """One graph to convert."""

    stage_dir: Path
    info: GraphInfo
    source: Path
    """The path of the graph, as preprocessing.prepare writes it."""
    variant: str
    gates: VariantGates
    fp32: Remembering
    """The graph as it is, which every attempt is held to."""
    deadline_s: float
    """The time on the monotonic clock after which nothing more is searched for."""

    def samples(self) -> Iterator[Sample]:
        return recorded_feeds.read(self.stage_dir, self.info.role, "calibration")


def make(request: MakingRequest) -> MakingRecord:
    """Add variants that the stage's entry wants to the stage.

    Raises:
        BundleNotFound: nothing was exported into the stage.
    """
    stage, stage_dir = request.stage, request.stage.folder
    entry, record = stage.item.model.entry, stage.read_export()
    fp32 = tuple(info for info in record.graphs if info.variant == FP32)
    wanted = VARIANTS if request.only is None else request.only
    remove(stage, record, wanted)
    scratch = stage.private / "variants"
    inline_max_bytes = 0 if entry.weights == "external" else min(entry.inline_max_bytes, _PROTOBUF_LIMIT_BYTES)
    found, graphs = [], [info for info in record.graphs if info.variant not in wanted]
    deadline_s = time.monotonic() + SEARCH_SECONDS
    names = tuple(name for name in VARIANTS if name in wanted and name in entry.variants)
    count = Count(len(fp32) * len(names), "variants made")
    try:
        for info in fp32:
            folder = scratch / info.role
            folder.mkdir(parents=True, exist_ok=True)
            source = preprocessing.prepare(stage_dir / info.path, folder)
            original = Remembering(partial(open_session, source, threads=1))
            for name in count.each(names):
                gates = entry.variant_gates.get(name, VARIANTS[name].gates)
                work = _Work(
                    stage_dir=stage_dir,
                    info=info,
                    source=source,
                    variant=name,
                    gates=gates,
                    fp32=original,
                    deadline_s=deadline_s,
                )
                path = stage_dir / "onnx" / file_name(info.role, name)
                try:
                    model, made = _converted(work, searches=request.searches)
                    model.write(path, inline_max_bytes=inline_max_bytes)
                except Exception as err:  # converters raise anything; the other variants are none the worse for it
                    log.exception("%s of %s cannot be made", name, info.path)
                    fault = f"it cannot be made: {type(err).__name__}: {err}"
                    found.append(Made(variant=name, role=info.role, kept=(), attempts=1, fault=fault))
                    _remove(path)
                    continue
                graphs.append(
                    description.describe(path, role=info.role, variant=name, bundle=stage_dir, libraries=info.libraries)
                )
                found.append(made)
                log.info("made %s of %s: kept %s", path.name, info.path, ", ".join(made.kept) or "nothing")
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    write(stage, record, graphs)
    return MakingRecord(made=tuple(found))


def write(stage: Stage, record: ExportRecord, graphs: Iterable[GraphInfo]) -> None:
    """Record which graphs a stage has now, for later steps and in its config.json."""
    roles = [info.role for info in record.graphs if info.variant == FP32]
    ordered = tuple(
        sorted(graphs, key=lambda info: (info.variant != FP32, roles.index(info.role), NAMES.index(info.variant)))
    )
    model_config.complete_config(stage.folder, external_data=description.external_data(ordered))
    stage.write_export(replace(record, graphs=ordered))


def remove(stage: Stage, record: ExportRecord, names: Iterable[str]) -> None:
    """Take variants out of a stage, files and all; those that are not in it are none."""
    gone = set(names)
    for name in gone:
        for info in (info for info in record.graphs if info.variant == FP32):
            path = stage.folder / "onnx" / file_name(info.role, name)
            path.unlink(missing_ok=True)
            path.with_name(f"{path.name}_data").unlink(missing_ok=True)
    write(stage, record, [info for info in record.graphs if info.variant not in gone])


def _converted(work: _Work, *, searches: bool) -> tuple[Streamed, Made]:
    """Convert everything; where that misses the gates and is searched for, leave what hurts most in float32."""
    always = float16.overflowing(work.source, samples=work.samples()) if work.variant == "fp16" else frozenset()
    layers = mixed_precision.kinds(onnx.load(work.source, load_external_data=False))
    trials = _Trials(work=work, always=always, every=frozenset(node for kind in layers for node in kind.nodes))
    spared: tuple[Layers, ...] = ()
    if searches and not trials.passes(()) and trials.room_bytes > 0 and sum(len(kind.nodes) for kind in layers) > 1:
        spared = mixed_precision.spare(layers, trials, room_bytes=trials.room_bytes)
    names = tuple(name for each in spared for name in each.names)
    attempts = max(1, trials.attempts)
    made = Made(variant=work.variant, role=work.info.role, kept=(*sorted(always), *names), attempts=attempts)
    return _convert(work, always, trials.kept), made


@dataclass(slots=True, kw_only=True)
class _Trials:
    """Attempts at one graph of one variant."""

    work: _Work
    always: frozenset[str]
    """The nodes that are never converted."""
    every: frozenset[str]
    """The nodes that may be converted."""
    attempts: int = 0
    kept: frozenset[str] = frozenset()
    """The nodes in float32 of the last graph that passed; none where no graph did."""
    room_bytes: float = 0.0
    """The bytes that the size gate leaves for float32 weights, once everything is converted."""

    @property
    def are_left(self) -> bool:
        return self.attempts < MAX_ATTEMPTS and time.monotonic() < self.work.deadline_s

    def harm(self, nodes: Iterable[str]) -> float:
        """Return 1 - cosine on a few samples."""
        samples = list(islice(self.work.samples(), _RANKING_SAMPLES))
        answers = [self.work.fp32.run(sample.feeds) for sample in samples]
        self.work.fp32.close()
        path = self._attempt(self.every - frozenset(nodes))
        found = Agreement()
        try:
            session = open_session(path, threads=1)
            for sample, expected in zip(samples, answers, strict=True):
                found.add(expected, session.run(sample.feeds), sample)
        except ValidationFailed:
            return 1.0
        finally:
            _remove(path)
        return 1.0 - found.cosine

    def passes(self, spared: Iterable[str]) -> bool:
        """Say whether every gate holds on the calibration half; a graph that does not run misses them."""
        nodes = frozenset(spared)
        path = self._attempt(nodes)
        source, gates = onnx.load(self.work.source, load_external_data=False).graph, self.work.gates
        tables = preprocessing.embeddings(source)
        fp32, found = (weight_size.weight_bytes(each, tables=tables) for each in (self.work.source, path))
        unavoidable = weight_size.unavoidable_bytes(source)
        size = weight_size.measure(found, fp32=fp32, unavoidable=unavoidable, gates=gates)
        passed = size.passed and self._agrees(path)
        if self.attempts == 1:
            saved = 1 - found.layers / max(fp32.layers, 1)
            self.room_bytes = (gates.max_layers_ratio * fp32.layers + unavoidable - found.layers) / max(saved, 0.01)
        if passed:
            self.kept = nodes
        _remove(path)
        return passed

    def _agrees(self, path: Path) -> bool:
        try:
            found = accuracy.between(self.work.fp32, open_session(path, threads=1), self.work.samples())
        except ValidationFailed:
            return False
        finally:
            self.work.fp32.close()
        return all(measure.passed for measure in found.against(self.work.gates))

    def _attempt(self, excluded: frozenset[str]) -> Path:
        self.attempts += 1
        path = self.work.source.with_name(f"attempt-{self.attempts}.onnx")
        _convert(self.work, self.always, excluded).write(path)
        return path


def _remove(path: Path) -> None:
    path.unlink(missing_ok=True)
    path.with_name(f"{path.name}_data").unlink(missing_ok=True)


def _convert(work: _Work, always: frozenset[str], excluded: frozenset[str]) -> Streamed:
    """Convert a graph to the variant's precision, but for some nodes."""
    match work.variant:
        case "fp16":
            return float16.convert(work.source, excluded=always | excluded)
        case "int8":
            return int8.dynamic(work.source, excluded=excluded)
        case "int8_static":
            ranges = work.source.with_name("ranges.json")
            return int8.static(work.source, samples=work.samples(), ranges=ranges, excluded=excluded)
        case _:
            return int4.convert(work.source, excluded=excluded)

"""How far PyTorch in float32, and onnxruntime, are from PyTorch in float64: what the rule for rounding rests on.

``python -m benchmarks.rounding FOLDER=TASK …``: each folder is laid out as a Hub repo, of an encoder or a decoder. The
table is that of docs/decisions/tolerances.md.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from onnx_fleet.bundles.stage import Stage
from onnx_fleet.entities.entry import Entry, Tolerances
from onnx_fleet.entities.resolved_model import ResolvedModel
from onnx_fleet.entities.tasks import TASKS
from onnx_fleet.entities.work_item import WorkItem
from onnx_fleet.export import exporter
from onnx_fleet.graphs import generation, session, text_inputs
from onnx_fleet.graphs.comparison import Case, Outputs, compare
from onnx_fleet.graphs.text_inputs import Batch
from onnx_fleet.planning import toolchain
from onnx_fleet.processes.isolation import Limits
from onnx_fleet.source import reference
from onnx_fleet.validation.checks import CheckContext, held_to_its_rounding
from onnx_fleet.validation.checks.float64 import Distance, distance

LENGTHS = (2, 17, 64, 512)
SEEDS = (20, 21, 22)
PADDED = (17, 9, 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """One output on one input."""

    needed: float
    """What the graph is off from PyTorch in float32, in tolerances."""
    distance: Distance


def main(arguments: Sequence[str] | None = None) -> None:
    """Export each model, and print a row for it."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.rounding", description=__doc__)
    parser.add_argument("models", nargs="+", metavar="FOLDER=TASK")
    print("| model | held to | needed | PyTorch off | graph off | graph / PyTorch: largest, rms | outputs |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for named in parser.parse_args(arguments).models:
        folder, _, task = named.partition("=")
        with tempfile.TemporaryDirectory() as place, reference.threads(1):
            subject = opened(Path(folder), task=task, place=Path(place))
            found = list(measured(subject))
        print(row(Path(folder).name, subject.tolerances, found), flush=True)


def row(name: str, tolerances: Tolerances, found: Sequence[Found]) -> str:
    """One line of the table; shares are of the tolerance."""
    largest = [each.distance.graph / each.distance.torch for each in found if each.distance.torch]
    rms = [each.distance.graph_rms / each.distance.torch_rms for each in found if each.distance.torch_rms]
    return (
        f"| {name} | {tolerances.atol:.1e} | {max(each.needed for each in found):.2g} "
        f"| {max(each.distance.torch for each in found):.2g} | {max(each.distance.graph for each in found):.2g} "
        f"| {max(largest):.2g}, {max(rms):.2g} | {len(found)} |"
    )


def opened(folder: Path, *, task: str, place: Path) -> CheckContext:
    """A model, exported and ready to be compared."""
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    paths = tuple(sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()))
    repo_id = f"benchmarks/{folder.name}"
    model = ResolvedModel(
        entry=Entry(repo_id=repo_id, task=task, tokenizer="none"), repo_id=repo_id, commit="0" * 40, task=task,
        architecture=config["architectures"][0], model_type=config["model_type"], licence=None, gated=False, files=(),
        needed=paths,
    )  # fmt: skip
    item = WorkItem(
        model=model, family=TASKS[task].family, fingerprint="0" * 64, version=f"{'0' * 8}-{'0' * 8}", state="new",
        reason="", toolchain=toolchain.versions(),
    )  # fmt: skip
    exporter.export(Stage(place / "stage", item), source_dir=folder, limits=Limits(timeout_s=1800, memory_bytes=None))
    graphs = {info.role: info for info in Stage.open(place / "stage").read_export().graphs}
    sessions = {
        role: session.open_session(
            place / "stage" / info.path, provider="cpu", threads=1, libraries=(), profile_dir=place
        )
        for role, info in graphs.items()
    }
    return held_to_its_rounding(
        CheckContext(
            stage=Stage(place / "stage", item), source_dir=folder, graphs=graphs, sessions=sessions,
            reference=reference.load(item, source_dir=folder),
        )
    )  # fmt: skip


def measured(subject: CheckContext) -> Iterator[Found]:
    """Every output on every input."""
    case = Case(check="", graph="", case="", tolerances=subject.tolerances)
    for batch in _batches(subject):
        feeds = _feeds(subject, batch)
        torch, exact = subject.reference(feeds), subject.reference.in_float64(feeds)
        own, graph, wide = (_real(outputs, batch) for outputs in (torch, _graph(subject, batch), exact))
        for compared in compare(own, graph, case=case):
            name = compared.output
            yield Found(
                needed=compared.tolerance_used or 0.0,
                distance=distance(own[name], graph[name], wide[name], tolerances=subject.tolerances),
            )


def _batches(subject: CheckContext) -> Iterator[Batch]:
    draw = partial(text_inputs.random_batch, subject.space)
    for seed in SEEDS:
        for length in sorted({min(length, subject.space.max_length) for length in LENGTHS}):
            yield draw(batch_size=max(1, min(7, 1024 // length)), length=length, seed=seed)
        rows = [draw(batch_size=1, length=length, seed=seed) for length in PADDED]
        for side in ("left", "right"):
            yield text_inputs.pad(rows, side=side, space=subject.space)


def _feeds(subject: CheckContext, batch: Batch) -> Mapping[str, np.ndarray]:
    if subject.item.family == "decoder":
        mask = batch.attention_mask
        return {"input_ids": batch.input_ids, "attention_mask": mask, "position_ids": generation.positions(mask)}
    return subject.feeds(batch)


def _graph(subject: CheckContext, batch: Batch) -> Outputs:
    if subject.item.family != "decoder":
        return subject.session().run(subject.feeds(batch))
    found = generation.step(subject.session(), batch.input_ids, attention_mask=batch.attention_mask)
    return {"logits": found.logits}


def _real(outputs: Outputs, batch: Batch) -> Outputs:
    real = batch.real
    return {name: array[real] if array.shape[:2] == real.shape else array for name, array in outputs.items()}


if __name__ == "__main__":
    main()

"""What lies beside the graphs is held to the source's own: settings, labels, special tokens, and the tokenizer."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from onnx_fleet import recipes
from onnx_fleet.entities.graph_info import GraphInfo
from onnx_fleet.entities.validation_report import CheckRow
from onnx_fleet.graphs.comparison import Case, parts
from onnx_fleet.graphs.initializers import array
from onnx_fleet.source import checkpoint
from onnx_fleet.source.tokenizers import proof as tokenizer_proof
from onnx_fleet.validation.checks.context import CheckContext, checks_of

_NOT_COMPARED = ("onnx", "reports")
"""Folders of what the export makes."""
_COMPLETED: Mapping[str, frozenset[str]] = {
    "config.json": frozenset({"transformers.js_config", "num_decoder_layers"}),
}
"""File -> keys that the export may write: model_config.complete_config says why."""
_TOKENIZER_REPORT = "reports/tokenizer.json"
_SHOWN = 3
"""Differences of one file in its row."""
_ABSENT = object()


def packed_files(subject: CheckContext) -> Iterator[CheckRow]:
    """Labels, special tokens, sizes and every other setting are the source's own, but for keys that the export adds."""
    name = subject.item.model.entry.recipe
    changed = recipes.find(name).tokenizer if name else {}
    for path in subject.stage.published_files():
        source = subject.source_dir / path
        if path.split("/")[0] in _NOT_COMPARED or not source.is_file():
            continue
        case = subject.case("packed_files", f"{path}: as in the source")
        may_differ = _COMPLETED.get(path, frozenset()) | (set(changed) if path == "tokenizer_config.json" else set())
        faults = _differences(subject.stage_dir / path, source, may_differ=may_differ)
        detail = f"{len(faults)} differences; {'; '.join(faults[:_SHOWN])}" if faults else ""
        yield case.row("different" if faults else "equal", output=path, passed=not faults, detail=detail)


def tokenizer(subject: CheckContext) -> Iterator[CheckRow]:
    """The packed tokenizer.json, read by plain tokenizers, encodes and decodes as the source's own tokenizer."""
    texts = f"{len(tokenizer_proof.CORPUS)} texts and {len(tokenizer_proof.PAIRS)} pairs, there and back"
    case = subject.case("tokenizer", texts)
    path = subject.stage_dir / "tokenizer.json"
    if subject.without_text:
        yield case.row("skipped", passed=True, detail=subject.without_text)
        return
    own_file = (subject.source_dir / path.name).is_file()
    proof = tokenizer_proof.prove(path, subject.source_tokenizer, own_file=own_file)
    grave = [each for each in proof.differences if each.grave]
    for each in grave[:_SHOWN]:
        said = f"{each.what} of {each.text!r} gives {each.found}, the source {each.expected}"
        yield case.row("different", output=path.name, detail=said)
    if not grave:
        minor = len(proof.differences)
        said = f"{minor} known ones differ" if minor else ""
        if subject.item.model.entry.tokenizer == "as-published":
            said = f"compared with the source's published file; {_TOKENIZER_REPORT} has what its class makes of it"
        yield case.row("equal", output=path.name, passed=True, detail=said)


def weights(subject: CheckContext) -> Iterator[CheckRow]:
    """Every weight is the source's tensor of its name, bit for bit: those that no input reaches, too."""
    name = subject.item.model.entry.recipe
    for role, info in subject.graphs.items():
        case = subject.case("weights", "every initializer that is named after a tensor of the source", role=role)
        if name and recipes.find(name).rewrite:
            yield case.row("skipped", passed=True, detail=f"the recipe {name} changes what is traced")
        elif info.variant == "fp32":
            yield from _weights_equal(subject, info, case=case)


def _weights_equal(subject: CheckContext, info: GraphInfo, *, case: Case) -> Iterator[CheckRow]:
    """Against the checkpoint's file and, where a model changes a tensor while it is loaded, the loaded one."""
    stored, loaded = checkpoint.read(subject.source_dir), subject.reference.weights
    count, wrong = 0, 0
    for name, values in _named_after(stored.keys() | loaded.keys(), subject.stage_dir / info.path):
        count += 1
        own = (stored[name].array(),) if name in stored else ()
        if any(_same_bits(each, values) for each in own) or (name in loaded and _same_bits(loaded[name], values)):
            continue
        wrong += 1
        if wrong <= _SHOWN:
            yield case.row("different", output=name, detail="not the values of the source's tensor of that name")
    if not wrong:
        yield case.row("equal", passed=True, detail=f"{count} weights")


def _named_after(stored: Collection[str], path: Path) -> Iterator[tuple[str, np.ndarray]]:
    """A graph's initializers that have one of these names, one after the other: only one is in memory."""
    import onnx

    for tensor in onnx.load(path, load_external_data=False).graph.initializer:
        if tensor.name in stored:
            yield tensor.name, array(tensor, path.parent)


def _same_bits(own: np.ndarray, values: np.ndarray) -> bool:
    """Compare two tensors in the graph's type, ``values``'s: NaN equals itself, and zeros of different signs differ."""
    if own.shape != values.shape:
        return False
    return all(
        np.array_equal(ours.astype(theirs.dtype, copy=False).view(np.uint8), theirs.view(np.uint8))
        for ours, theirs in parts(own, values)
    )


def _differences(path: Path, source: Path, *, may_differ: frozenset[str] | set[str]) -> list[str]:
    """Return where two files differ, by the keys of JSON, for people."""
    found, wanted = path.read_bytes(), source.read_bytes()
    if found == wanted:
        return []
    try:
        ours, own = json.loads(found), json.loads(wanted)
    except ValueError:
        return ["its bytes are others"]
    if isinstance(ours, dict) and isinstance(own, dict):
        ours, own = ({key: part for key, part in each.items() if key not in may_differ} for each in (ours, own))
    return list(_unequal(ours, own, at=""))


def _unequal(found: Any, wanted: Any, *, at: str) -> Iterator[str]:
    if isinstance(found, dict) and isinstance(wanted, dict):
        for key in {**wanted, **found}:
            yield from _unequal(found.get(key, _ABSENT), wanted.get(key, _ABSENT), at=f"{at}.{key}" if at else key)
    elif found != wanted:
        yield f"{at}: {_shown(found)} where the source has {_shown(wanted)}"


def _shown(value: object) -> str:
    return "nothing" if value is _ABSENT else json.dumps(value, ensure_ascii=False)[:80]


CHECKS = checks_of(packed_files, tokenizer, weights)

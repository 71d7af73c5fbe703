"""The part of a model card on the Hub that is ours: between two markers, so that the rest is never touched."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from typing import Final

from onnx_fleet.bundles.bundle import Bundle
from onnx_fleet.bundles.manifest import ProviderLatency
from onnx_fleet.entities.latency_report import LatencyRow
from onnx_fleet.entities.naming import ref_of
from onnx_fleet.entities.provider import CUDA
from onnx_fleet.errors import EventRefused
from onnx_fleet.formatting import human_bytes

FILE_NAME: Final = "README.md"
BEGIN: Final = "<!-- onnx-fleet: begin -->"
END: Final = "<!-- onnx-fleet: end -->"


def with_section(card: bytes | None, found: Bundle, *, hub_url: str) -> bytes:
    """Return a card with the section of a bundle; every other byte stays as it is.

    Args:
        card: what stands there; None makes a card that says what the repo was made from.
        hub_url: the address of the Hub that the model comes from.
    Raises:
        EventRefused: the markers in the card are not one pair, so that nobody can say what is ours.
    """
    section = f"{BEGIN}\n{_section(found, hub_url=hub_url)}\n{END}"
    if card is None:
        return f"{_front_matter(found)}\n{section}\n".encode()
    begin, end = BEGIN.encode(), END.encode()
    before, began, rest = card.partition(begin)
    _, ended, after = rest.partition(end)
    if not began and end not in card:
        gap = b"" if not card else b"\n" if card.endswith(b"\n") else b"\n\n"
        return card + gap + section.encode() + b"\n"
    if not (began and ended) or card.count(begin) != 1 or card.count(end) != 1:
        raise EventRefused(
            f"{found.model_id}: {FILE_NAME} on the Hub has not one pair of {BEGIN} and {END};"
            " remove what is left of them, and the section is added again"
        )
    return before + section.encode() + after


def _front_matter(found: Bundle) -> str:
    """Return the metadata of a card that is new."""
    from ruamel.yaml import YAML

    source = found.manifest.source
    declared = {
        **({"license": source.licence} if source.licence else {}),
        "base_model": source.repo_id,
        "pipeline_tag": found.manifest.task,
        "tags": ["onnx"],
    }
    text = io.StringIO()
    YAML().dump(declared, text)
    return f"---\n{text.getvalue()}---\n"


def _section(found: Bundle, *, hub_url: str) -> str:
    sealed = found.manifest
    source = sealed.source
    sizes = {file.path: file.size_bytes for file in sealed.files}
    graphs = [
        (f"`{graph.path}`", graph.variant, human_bytes(sum(sizes[path] for path in (graph.path, *graph.weight_files))))
        for graph in sealed.graphs
    ]
    latency = list(_latency(sealed.latency))
    parts = [
        "## ONNX",
        f"The files in `onnx/` are the bundle `{ref_of(found)}`, made by onnx-fleet from"
        f" [{source.repo_id}]({hub_url}/{source.repo_id}/tree/{source.revision}) at commit `{source.revision}`."
        " `onnx/manifest.json` lists each file with its SHA-256.",
        _table(("graph", "variant", "size with weights"), graphs),
        _proof(found),
    ]
    if latency:
        parts.append(_table(("latency", "variant", "on", "ms (p50)", "PyTorch, ms (p50)"), latency))
    return "\n\n".join(parts)


def _proof(found: Bundle) -> str:
    """Say what was compared with PyTorch, and how close it is."""
    proof = found.manifest.validation
    passed, cases = (sum(getattr(check, name) for check in proof.checks) for name in ("cases_passed", "cases"))
    worst = "" if proof.max_abs_diff is None else f"; the largest absolute difference is {proof.max_abs_diff:.1e}"
    on_gpu = f" {proof.gpu[:1].upper()}{proof.gpu[1:]}." if proof.gpu else ""
    return f"The outputs were compared with PyTorch's: {passed} of {cases} cases passed{worst}.{on_gpu}"


def _latency(measured: tuple[ProviderLatency, ...]) -> Iterator[tuple[str, ...]]:
    """Yield a row for each graph: the smallest batch that was measured, with the longest input."""
    for provider in measured:
        chosen: dict[tuple[str, str], LatencyRow] = {}
        for row in provider.rows:
            key = (row.graph, row.phase)
            if key not in chosen or _rank(row) > _rank(chosen[key]):
                chosen[key] = row
        device = str(
            provider.hardware.get("gpu_model" if provider.provider == CUDA else "cpu_model", provider.provider)
        )
        for row in chosen.values():
            yield row.at, row.variant, device, f"{row.latency_ms_p50:.2f}", f"{row.torch_latency_ms_p50:.2f}"


def _rank(row: LatencyRow) -> tuple[int, int]:
    return -row.batch_size, row.sequence_length or 0


def _table(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    lines = [head, ("---",) * len(head), *rows]
    return "\n".join(f"| {' | '.join(cell.replace('|', ' ') for cell in line)} |" for line in lines)

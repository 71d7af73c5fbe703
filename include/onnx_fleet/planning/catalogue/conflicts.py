"""Faults that only several values make together; found on plain values, which may have faults of their own."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from onnx_fleet.entities.variant import FP32
from onnx_fleet.planning.catalogue.faults import Fault
from onnx_fleet.planning.compatibility import misfit

if TYPE_CHECKING:
    from onnx_fleet.planning.catalogue.yaml_lines import Document, Plain

_CRITERIA = ("author", "tags", "task", "library")


def of(document: Document) -> list[Fault]:
    """Return every such fault of a catalogue."""
    if not isinstance(document.value, dict):
        return []
    return [*_nothing_listed(document.value), *_repeated(document), *_unbounded(document), *_misfits(document)]


def _items(document: Document, key: str) -> Iterator[tuple[int, int, Plain]]:
    """Line, index and value of each item in the list under a key."""
    items = document.value.get(key) if isinstance(document.value, dict) else None
    for index, item in enumerate(items if isinstance(items, list) else ()):
        yield document.text.line([key, index]), index, item


def _nothing_listed(catalogue: dict[str, Plain]) -> Iterator[Fault]:
    listed = [catalogue.get("models", []), catalogue.get("discover", [])]
    if listed == [[], []]:
        yield 1, "the catalogue lists nothing; write models: with - org/name under it, or discover:"


def _repeated(document: Document) -> Iterator[Fault]:
    """A repo has one latest channel, so that it cannot have two entries, whatever else they say."""
    first: dict[str, tuple[int, str, Plain]] = {}
    for line, _, item in _items(document, "models"):
        repo_id = item.get("repo_id") if isinstance(item, dict) else item
        if not isinstance(repo_id, str):
            continue
        settings: Plain = {"repo_id": repo_id} if isinstance(item, str) else item
        earlier_line, earlier_id, earlier = first.setdefault(repo_id.lower(), (line, repo_id, settings))
        if earlier is settings:
            continue
        if earlier == settings:
            yield line, f"'{repo_id}' is listed twice, first on line {earlier_line}; remove one of the two"
        elif earlier_id != repo_id:
            yield line, f"'{repo_id}' is '{earlier_id}' of line {earlier_line} in a different case; keep one of the two"
        else:
            yield line, f"'{repo_id}' has other settings on line {earlier_line}; a repo has one entry, so keep one"


def _unbounded(document: Document) -> Iterator[Fault]:
    for line, _, item in _items(document, "discover"):
        if isinstance(item, dict) and not any(item.get(key) for key in _CRITERIA):
            yield line, f"the search would list the whole Hub; write one or more of {', '.join(_CRITERIA)}"


def _misfits(document: Document) -> Iterator[Fault]:
    defaults = document.value.get("defaults") if isinstance(document.value, dict) else None
    shared = defaults if isinstance(defaults, dict) else {}
    for key in ("models", "discover"):
        for line, _, item in _items(document, key):
            own = item if isinstance(item, dict) else {}
            task, recipe, form = (own.get(key, shared.get(key)) for key in ("task", "recipe", "decoder_form"))
            if why := misfit(task, recipe=recipe, decoder_form=form, calibrated=_calibrated({**shared, **own})):
                yield line, why


def _calibrated(settings: dict[str, Plain]) -> Plain:
    """Return what an entry's variants are tuned with; None where it wants none."""
    asked = [settings.get(key) for key in ("variants", "required_variants")]
    return (
        settings.get("calibration")
        if any(isinstance(names, list) and set(map(str, names)) - {FP32} for names in asked)
        else None
    )

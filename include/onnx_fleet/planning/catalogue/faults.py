"""pydantic's errors -> faults for people: the line, what is wrong, and what to write instead."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Final

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from onnx_fleet.planning.catalogue.schema import (
    BY_ID,
    BY_MAPPING,
    CanarySection,
    CatalogueFile,
    DiscoverSection,
    GatesSection,
    LatencySection,
    ModelSection,
    RetentionSection,
    SettingsSection,
    TolerancesSection,
    VariantGatesSection,
)
from onnx_fleet.planning.catalogue.values import suggestion

if TYPE_CHECKING:
    from onnx_fleet.planning.catalogue.yaml_lines import Location, SourceText

Fault = tuple[int, str]
"""What is wrong in a catalogue, and its line, counted from 1."""

_FORMS: Final[Mapping[str, str]] = {
    "trust_remote_code": "the commit SHA whose Python code you have read: 40 hex digits, in quotes",
    "allow_pickle": "the commit SHA whose pickle weights you trust: 40 hex digits, in quotes",
    "repo_id": "repo_id: org/name",
    "models": "a list under models:, with - org/name on each line",
    "discover": "a list under discover:, with - author: name on each line",
    "max_bytes": "a number of bytes, or 2 GB",
    "variants": "[fp32]",
    "providers": "[cpu], or [cpu, cuda]",
    "may_be_fixed": "a list, such as [sequence_length]",
    "decoder_form": "merged, without-past or plain",
    "allowed_licences": "a list, such as [apache-2.0, mit]",
    "licences_to_approve": "a list, such as [gemma, other]",
    "tags": "a list, such as [english]",
    "exclude": "a list, such as ['*-test']",
    "tolerances": "a mapping, such as {atol: 1e-4, rtol: 1e-3}",
    "latency": "a mapping, such as {batch_sizes: [1, 8], sequence_lengths: [16, 128]}",
    "gates": "a mapping, such as {policy: block, max_slowdown: 1.25}",
    "variant_gates": "a mapping, such as {int8: {min_cosine: 0.98}}",
    "policy": "block, warn or off",
    "breaking": "block or warn",
    "batch_sizes": "a list of numbers, such as [1, 8]",
    "sequence_lengths": "a list of numbers, such as [16, 128]",
    "reuse": "same_graph or never",
    "proof": "repeat or full",
    "the catalogue": "models:, with - org/name on each line under it",
    "defaults": "a mapping, such as {opset: 20}",
    "canary": "a percentage, such as 5%, or a mapping, such as {shares: [5, 25, 100]}",
    "release_keys": "a list of the ids of keys",
    "retention": "a mapping, such as {keep_last: 5}",
    "shares": "a list of percentages, such as [5, 25, 100]",
}
"""What a field looks like, where its type alone does not say it."""

_TYPES: Final[Mapping[str, str]] = {
    "string_type": "a text",
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "list_type": "a list",
    "model_type": "a mapping",
    "model_attributes_type": "a mapping",
    "dict_type": "a mapping",
}


def of(error: ValidationError, *, text: SourceText, within: Location = ()) -> list[Fault]:
    """Return a fault for every error of one validation.

    Args:
        within: where in a catalogue the validated values stand, when they are not a whole one.
    """
    return [(text.line([*within, *d["loc"]]), _message(d, text, within)) for d in error.errors(include_url=False)]


def _message(detail: ErrorDetails, text: SourceText, within: Location) -> str:
    location = [*within, *detail["loc"]]
    place = [part for part in location if part not in (BY_ID, BY_MAPPING)]
    name = _name(place)
    kind, value = detail["type"], detail["input"]
    if kind == "fault":
        return str(detail["msg"])
    if kind == "extra_forbidden":
        return f"unknown key '{name}'{_instead(name, place)}"
    if kind == "missing":
        return f"no {name}; write {_FORMS.get(name, name + ': …')}"
    if kind in _TYPES:
        return _wrong_type(name, place, kind, value, text.scalar(location))
    if kind in ("greater_than_equal", "less_than_equal"):
        return f"{name} is {value}; write {_range(place)}"
    if kind in ("too_short", "string_too_short"):
        return f"{name} is empty; write {_FORMS.get(name, 'a value')}, or leave the key out"
    if kind == "finite_number":
        return f"{name} is {value}; write a finite number"
    return f"{name}: {detail['msg'].lower()}; write {_FORMS.get(name, 'another value')}"


def _name(place: Location) -> str:
    """Return the field that a message is about: the last key, not an index in its list."""
    return next((part for part in reversed(place) if isinstance(part, str)), "the catalogue")


def _wrong_type(name: str, place: Location, kind: str, value: object, written: str | None) -> str:
    in_list = bool(place) and isinstance(place[-1], int)
    subject = f"an item of {name}" if in_list else name
    wanted = _TYPES[kind]
    if value is None:
        return f"{subject} is empty; write {_FORMS.get(name, wanted)}, or leave the key out"
    if kind == "string_type" and name not in _FORMS and written is not None:
        return f"{subject} is {written}, which YAML does not read as a text; put it in quotes: '{written}'"
    shown = f"'{written}'" if written is not None else _KINDS.get(type(value), f"{value!r}")
    return f"{subject} must be {wanted}, not {shown}; write {_FORMS.get(name, wanted)}"


_KINDS: Final[Mapping[type, str]] = {list: "a list", dict: "a mapping"}


def _section(place: Location) -> type[BaseModel]:
    """Return the model that a key stands in."""
    section: type[BaseModel] = CatalogueFile
    steps: Mapping[str | int, type[BaseModel]] = {
        "defaults": SettingsSection,
        "models": ModelSection,
        "discover": DiscoverSection,
        "tolerances": TolerancesSection,
        "latency": LatencySection,
        "gates": GatesSection,
        "variant_gates": VariantGatesSection,
        "canary": CanarySection,
        "retention": RetentionSection,
    }
    for part in place[:-1]:
        section = steps.get(part, section)
    return section


_MOVED: Final[Mapping[str, str]] = {
    "id": "repo_id",
    "model": "repo_id",
    "name": "repo_id",
    "commit": "revision",
    "branch": "revision",
    "license": "allowed_licences",
    "licence": "allowed_licences",
    "allowed_licenses": "allowed_licences",
    "pipeline_tag": "task",
    "model_id": "repo_id",
    "precision": "variants",
    "dtype": "variants",
    "max_size": "max_bytes",
}
"""Words that people use elsewhere for our keys."""


def _instead(name: str, place: Location) -> str:
    known = _section(place).model_fields
    if _MOVED.get(name.lower()) in known:
        return f"; did you mean '{_MOVED[name.lower()]}'?"
    return suggestion(name, known)


def _range(place: Location) -> str:
    field = _section(_keys_to_field(place)).model_json_schema()["properties"][_name(place)]
    for branch in (field, field.get("items", {}), *field.get("anyOf", ())):
        if "minimum" in branch:
            low, high = branch["minimum"], branch.get("maximum")
            return f"{low} or more" if high is None else f"a number from {low} to {high}"
    return "another number"


def _keys_to_field(place: Location) -> Location:
    """Return the place up to its last key, without an index in the field's own list."""
    return [*place[:-1]] if place and isinstance(place[-1], int) else place

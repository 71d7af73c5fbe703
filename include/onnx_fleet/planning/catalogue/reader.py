"""The catalogue: a YAML file that lists models, Hub searches and defaults -> entries, or every fault at once."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from onnx_fleet.entities.entry import Canary, Discover, Entry, Gates, LatencyGrid, Tolerances
from onnx_fleet.entities.naming import matches
from onnx_fleet.entities.retention import Retention
from onnx_fleet.entities.variant import FP32, VARIANTS, VariantGates
from onnx_fleet.errors import CatalogueInvalid
from onnx_fleet.planning.catalogue import conflicts
from onnx_fleet.planning.catalogue.faults import Fault, of
from onnx_fleet.planning.catalogue.schema import (
    CatalogueFile,
    DiscoverSection,
    KeptSection,
    ModelSection,
    SettingsSection,
    VariantGatesSection,
)
from onnx_fleet.planning.catalogue.values import suggestion
from onnx_fleet.planning.compatibility import misfit


@dataclass(frozen=True, slots=True, kw_only=True)
class Catalogue:
    """What a catalogue file asks for."""

    entries: tuple[Entry, ...]
    """The entries, in the file's order."""
    discover: tuple[Discover, ...]
    digest: str
    """The SHA-256 of the file's text, 64 hexadecimal digits."""
    defaults: Entry
    """The entry of a model that says nothing itself; its repo id is empty."""
    canary: Canary
    retention: Retention
    """What stays of a model that no exception matches."""
    exceptions: Mapping[str, Retention]
    """What stays of others, by patterns of their ids."""

    def retention_of(self, model_id: str) -> Retention:
        """Return what stays of a model, whether the catalogue lists it or not."""
        matching = (each for pattern, each in self.exceptions.items() if matches(model_id, [pattern]))
        return next(matching, self.retention)


def load(path: Path) -> Catalogue:
    """Read a catalogue file.

    Raises:
        CatalogueInvalid: the file cannot be read, or has faults; all of them are listed.
    """
    try:
        text = path.read_bytes().decode("utf-8")
    except OSError as err:
        reason = (err.strerror or str(err)).lower()
        raise CatalogueInvalid(f"{path}: cannot be read: {reason}; name a YAML file that you may read") from err
    except UnicodeDecodeError as err:
        line = err.object.count(b"\n", 0, err.start) + 1
        raise CatalogueInvalid(
            f"{path}:{line}: byte {err.object[err.start]:#04x} is not UTF-8; save the file as UTF-8"
        ) from err
    return parse(text, source=str(path))


def parse(text: str, *, source: str) -> Catalogue:
    """Read a catalogue's text.

    Args:
        source: what messages call the text, such as the file's path.

    Raises:
        CatalogueInvalid: the text has faults; all of them are listed.
    """
    from onnx_fleet.planning.catalogue import yaml_lines

    try:
        document = yaml_lines.read(text.removeprefix("\ufeff"))
    except yaml_lines.SyntaxFault as err:
        raise CatalogueInvalid(f"{source}:{err.line}: {err}") from err
    if document.value is None and not document.faults:
        raise CatalogueInvalid(f"{source}:1: the catalogue is empty; write models: with - org/name under it")
    faults = [*document.faults, *conflicts.of(document)]
    try:
        file = CatalogueFile.model_validate(document.value)
    except ValidationError as err:
        faults += of(err, text=document.text)
        raise _invalid(faults, source) from err
    if faults:
        raise _invalid(faults, source)
    return Catalogue(
        entries=tuple(_entry(file.defaults, _as_section(item)) for item in file.models),
        discover=tuple(_search(file.defaults, section) for section in file.discover),
        digest=hashlib.sha256(text.encode()).hexdigest(),
        defaults=_with_settings(file.defaults, repo_id=""),
        canary=Canary(shares=tuple(sorted({*file.canary.shares, 100})), min_models=file.canary.min_models),
        retention=_retention(file.retention),
        exceptions={
            pattern: _retention(section, otherwise=_retention(file.retention))
            for pattern, section in file.retention.exceptions.items()
        },
    )


def entry(settings: Mapping[str, object], *, source: str) -> Entry:
    """Make one entry of plain values, such as a run's parameters; keys and rules are a catalogue's under ``models``.

    Raises:
        CatalogueInvalid: the values have faults; all of them are listed, without lines.
    """
    try:
        section = ModelSection.model_validate(dict(settings))
    except ValidationError as err:
        from onnx_fleet.planning.catalogue import yaml_lines

        faults = of(err, text=yaml_lines.SourceText(None), within=["models", 0])
        raise CatalogueInvalid.of(f"{source}: {message}" for _, message in faults) from err
    tuned_with = section.calibration if {*section.variants, *section.required_variants} != {FP32} else None
    if why := misfit(section.task, recipe=section.recipe, decoder_form=section.decoder_form, calibrated=tuned_with):
        raise CatalogueInvalid(f"{source}: {why}")
    return _entry(SettingsSection(), section)


def select(entries: Iterable[Entry], only: Sequence[str], *, allow_unmatched: bool = False) -> tuple[Entry, ...]:
    """Return the entries whose repo id equals or matches one of the patterns; all of them when there is no pattern.

    Args:
        allow_unmatched: whether a pattern may match nothing.
    Raises:
        CatalogueInvalid: a pattern matches nothing and may not; all such patterns are listed.
    """
    entries = tuple(entries)
    if not only:
        return entries
    known = [item.repo_id.lower() for item in entries]
    unmatched = [pattern for pattern in only if not any(matches(name, [pattern]) for name in known)]
    if unmatched and not allow_unmatched:
        raise CatalogueInvalid.of(f"only '{word}' matches no entry{suggestion(word, known)}" for word in unmatched)
    return tuple(item for item in entries if matches(item.repo_id, only))


def expand(catalogue: Catalogue, search: Callable[[Discover], Iterable[str]]) -> tuple[Entry, ...]:
    """Return the listed entries, then what the searches find; what was listed or found before is not added again.

    Args:
        search: returns the repo ids that one search finds, best first.
    """
    entries = list(catalogue.entries)
    seen = {item.repo_id.lower() for item in entries}
    for discover in catalogue.discover:
        for repo_id in search(discover):
            if repo_id.lower() not in seen and not discover.excludes(repo_id):
                seen.add(repo_id.lower())
                entries.append(discover.entry(repo_id))
    return tuple(entries)


def _invalid(faults: Iterable[Fault], source: str) -> CatalogueInvalid:
    return CatalogueInvalid.of(f"{source}:{line}: {message}" for line, message in sorted(set(faults)))


def _as_section(item: str | ModelSection) -> ModelSection:
    return ModelSection(repo_id=item) if isinstance(item, str) else item


def _merged(defaults: SettingsSection, own: SettingsSection) -> dict[str, Any]:
    """Put a section's own settings over the defaults; those of tolerances, latency and gates key by key."""
    merged: dict[str, Any] = defaults.model_dump(exclude_unset=True)
    for key, value in own.model_dump(exclude_unset=True).items():
        merged[key] = {**merged.get(key, {}), **value} if isinstance(value, dict) else value
    return merged


def _entry(defaults: SettingsSection, own: ModelSection) -> Entry:
    section = ModelSection.model_validate(_merged(defaults, own))
    return replace(
        _with_settings(section, repo_id=section.repo_id),
        own=_own(own),
        revision=section.revision,
        architecture=section.architecture,
        weights_variant=section.weights_variant,
        trust_remote_code=section.trust_remote_code,
        allow_pickle=section.allow_pickle,
    )


def _search(defaults: SettingsSection, own: DiscoverSection) -> Discover:
    return Discover(
        author=own.author,
        tags=tuple(own.tags or ()),
        task=own.task,
        library=own.library,
        sort=own.sort,
        limit=own.limit,
        min_downloads=own.min_downloads,
        exclude=tuple(own.exclude),
        template=replace(
            _with_settings(DiscoverSection.model_validate(_merged(defaults, own)), repo_id=""), own=_own(own)
        ),
    )


def _own(section: SettingsSection) -> tuple[str, ...]:
    """Return the names of the settings that a section gives itself."""
    return tuple(sorted(section.model_fields_set & {field.name for field in fields(Entry)} - {"repo_id"}))


def _retention(section: KeptSection, *, otherwise: Retention | None = None) -> Retention:
    """Return what stays of models: what a section says, and else what holds without it."""
    given = section.model_dump(exclude_unset=True, exclude={"exceptions"})
    if given.get("release_keys") is not None:
        given["release_keys"] = tuple(given["release_keys"])
    return replace(otherwise or Retention(), **given)


def _licences(given: list[str] | None) -> tuple[str, ...] | None:
    return None if given is None else tuple(each.lower() for each in given)


def _gates_of(variant: str, section: VariantGatesSection) -> VariantGates:
    """Return a variant's gates: its own where nothing else is said."""
    given = {key: value for key, value in section.model_dump().items() if value is not None}
    return replace(VARIANTS[variant].gates, **given)


def _with_settings(section: SettingsSection, *, repo_id: str) -> Entry:
    tolerances = section.tolerances
    return Entry(
        repo_id=repo_id,
        task=section.task,
        recipe=section.recipe,
        variants=tuple(dict.fromkeys((*section.variants, *section.required_variants))),
        required_variants=tuple(section.required_variants),
        variant_gates={name: _gates_of(name, gates) for name, gates in section.variant_gates.items()},
        calibration=section.calibration,
        opset=section.opset,
        weights=section.weights,
        inline_max_bytes=section.inline_max_bytes,
        decoder_form=section.decoder_form,
        may_be_fixed=tuple(section.may_be_fixed),
        tokenizer=section.tokenizer,
        tokenizer_graph=section.tokenizer_graph,
        follow_renames=section.follow_renames,
        tolerances=None if tolerances is None else Tolerances(atol=tolerances.atol, rtol=tolerances.rtol),
        proof=section.proof,
        latency=LatencyGrid(
            batch_sizes=tuple(section.latency.batch_sizes),
            sequence_lengths=tuple(section.latency.sequence_lengths),
            warmup_runs=section.latency.warmup_runs,
            timed_runs=section.latency.timed_runs,
            threads=section.latency.threads,
            io_binding=section.latency.io_binding,
            precision=section.latency.precision,
            budget_s=section.latency.budget_s,
            reuse=section.latency.reuse,
            max_age_days=section.latency.max_age_days,
        ),
        gates=Gates(**section.gates.model_dump()),
        providers=tuple(section.providers),
        allowed_licences=_licences(section.allowed_licences),
        licences_to_approve=_licences(section.licences_to_approve),
        max_bytes=section.max_bytes,
        priority=section.priority,
    )

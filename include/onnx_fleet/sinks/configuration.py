"""The file of sinks: YAML that lists the registries of a deployment -> sinks, or every fault at once.

It is a file of its own and no part of the catalogue: where a registry stands is a matter of the deployment, and the
catalogue's digest is in every manifest.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from onnx_fleet.bundles.fleet_event import EventKind
from onnx_fleet.errors import SinksInvalid
from onnx_fleet.planning.catalogue.values import suggestion
from onnx_fleet.sinks.sink import Secrets, Sink, SinkKind

if TYPE_CHECKING:
    from onnx_fleet.planning.catalogue.yaml_lines import Document

KINDS: Final[Mapping[str, str]] = {
    "huggingface": "onnx_fleet.sinks.hub_repo:HUGGINGFACE",
    "mlflow": "onnx_fleet.sinks.mlflow_registry:MLFLOW",
    "oci": "onnx_fleet.sinks.oci_registry:OCI",
    "webhook": "onnx_fleet.sinks.webhook:WEBHOOK",
}
"""The kinds of sinks that are built in, and where they are: each imports its registry's client."""
_OWN: Final = "sinks."
"""What the kind of a fleet's own sink begins with: the module is include/sinks/<file>.py."""


class _Section(BaseModel):
    """What every sink is configured with; its kind has settings besides."""

    model_config = ConfigDict(extra="allow", frozen=True)

    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]{0,62}$")]
    """The name under which the store keeps how far it is: under another one, everything is delivered again."""
    kind: str
    only: list[str] = []
    """Patterns of model ids, such as ``BAAI/*``; none takes all."""
    events: list[EventKind] = []
    """The kinds of events; none takes all."""
    since: datetime | None = None
    """What happened before is not delivered; without a zone it is UTC."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ConfiguredSink:
    """A sink of a deployment."""

    name: str
    kind: str
    settings: BaseModel
    secrets: Secrets = field(repr=False)
    only: tuple[str, ...] = ()
    events: tuple[EventKind, ...] = ()
    since: datetime | None = None

    def open(self) -> Sink:
        """Return the sink itself, with its secrets.

        Raises:
            SinkDenied: a secret is missing, or of no use.
        """
        return _kind(self.kind).make(self.settings, self.secrets)


def load(path: Path, *, secrets: Secrets) -> tuple[ConfiguredSink, ...]:
    """Read a file of sinks.

    Raises:
        SinksInvalid: the file cannot be read, or has faults; all of them are listed.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as err:
        raise SinksInvalid(f"{path}: cannot be read: {err}; name a YAML file in UTF-8 that you may read") from err
    return parse(text, source=str(path), secrets=secrets)


def parse(text: str, *, source: str, secrets: Secrets) -> tuple[ConfiguredSink, ...]:
    """Read the text of a file of sinks, as load does.

    Args:
        source: what messages call the text, such as the file's path.
    """
    from onnx_fleet.planning.catalogue import yaml_lines  # ruamel.yaml takes 0.1 s

    try:
        document = yaml_lines.read(text)
    except yaml_lines.SyntaxFault as err:
        raise SinksInvalid(f"{source}:{err.line}: {err}") from err
    faults = list(document.faults)
    listed = document.value.get("sinks") if isinstance(document.value, dict) else None
    if not isinstance(listed, list) or not isinstance(document.value, dict) or len(document.value) != 1:
        raise SinksInvalid(f"{source}:1: write sinks: and under it a list, with - name: and kind: of each")
    found = [_section(document, index, faults) for index in range(len(listed))]
    faults += _twice(document, [section for section, _ in filter(None, found)])
    if faults:
        raise SinksInvalid("\n".join(f"{source}:{line}: {message}" for line, message in sorted(set(faults))))
    return tuple(
        ConfiguredSink(
            name=section.name,
            kind=section.kind,
            settings=settings,
            secrets=secrets,
            only=tuple(section.only),
            events=tuple(section.events),
            since=_aware(section.since),
        )
        for section, settings in filter(None, found)
    )


def chosen(sinks: Iterable[ConfiguredSink], names: Sequence[str]) -> tuple[ConfiguredSink, ...]:
    """Return the sinks of these names, or all where none is named.

    Raises:
        SinksInvalid: there is no sink of a name.
    """
    sinks = tuple(sinks)
    known = [sink.name for sink in sinks]
    for name in names:
        if name not in known:
            raise SinksInvalid(f"no sink is called '{name}'{suggestion(name, known)}")
    return tuple(sink for sink in sinks if not names or sink.name in names)


def _section(document: Document, index: int, faults: list[tuple[int, str]]) -> tuple[_Section, BaseModel] | None:
    """Read one sink; its faults are added to the list, and None stands for it."""
    raw: Any = document.value["sinks"][index]  # type: ignore[index,call-overload]  # the caller has looked
    try:
        section = _Section.model_validate(raw)
        settings = _kind(section.kind).settings.model_validate(section.model_extra)
    except ValidationError as err:
        faults += [_fault(document, index, detail) for detail in err.errors(include_url=False, include_input=False)]
    except SinksInvalid as err:
        faults.append((document.text.line(["sinks", index, "kind"]), str(err)))
    else:
        return section, settings
    return None


def _fault(document: Document, index: int, detail: Any) -> tuple[int, str]:
    place = [str(part) for part in detail["loc"]]
    name = place[0] if place else "a sink"
    line = document.text.line(["sinks", index, *detail["loc"]])
    match detail["type"]:
        case "missing":
            return line, f"no {name}; docs/sinks.md says what a sink of this kind needs"
        case "extra_forbidden":
            return line, f"unknown key '{name}'; docs/sinks.md says what a sink of this kind takes"
        case _:
            return line, f"{'.'.join(place) or name}: {detail['msg'].lower()}; docs/sinks.md says what it may be"


def _twice(document: Document, sections: Sequence[_Section]) -> list[tuple[int, str]]:
    names = [section.name for section in sections]
    return [
        (document.text.line(["sinks", index, "name"]), f"another sink is called '{name}', too; give it its own name")
        for index, name in enumerate(names)
        if name in names[:index]
    ]


def _kind(name: str) -> SinkKind:
    """Return a kind by its name: a built-in one, or ``sinks.file:NAME`` of a file in a folder sinks/.

    Raises:
        SinksInvalid: there is none of that name.
    """
    module, _, attribute = KINDS.get(name, name).partition(":")
    if name not in KINDS and not (name.startswith(_OWN) and attribute.isidentifier()):
        raise SinksInvalid(
            f"the kind '{name}' is not known; write {', '.join(KINDS)}, or sinks.file:NAME for the object NAME in"
            " sinks/file.py"
        )
    try:
        found = getattr(importlib.import_module(module), attribute, None)
    except ModuleNotFoundError as err:
        raise SinksInvalid(
            f"the kind '{name}': {err}; the folder that holds sinks/ must be on PYTHONPATH, and what the file imports"
            " must be installed"
        ) from err
    if not isinstance(found, SinkKind):
        raise SinksInvalid(f"the kind '{name}': {module} has no SinkKind of that name")
    return found


def _aware(at: datetime | None) -> datetime | None:
    return at if at is None or at.tzinfo else at.replace(tzinfo=UTC)

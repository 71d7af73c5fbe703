"""A sink of a fleet's own: a folder with a page of Markdown for each model, such as a documentation site builds from.

A file of sinks names it ``kind: sinks.pages:PAGES``.
"""

from pathlib import Path

from pydantic import BaseModel, ConfigDict

from onnx_fleet.bundles import bundle, channels, listing
from onnx_fleet.bundles.bundle import Ref
from onnx_fleet.bundles.fleet_event import FleetEvent
from onnx_fleet.errors import SinkUnavailable
from onnx_fleet.sinks.sink import Secrets, SinkKind
from onnx_fleet.store import ObjectStore


class PagesSettings(BaseModel):
    """How the pages are configured."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    folder: Path


class Pages:
    """Writes the page of a model anew at each of its events, from what the store says: so it may be done twice."""

    def __init__(self, settings: PagesSettings, secrets: Secrets) -> None:
        self.folder = settings.folder

    def deliver(self, event: FleetEvent, *, store: ObjectStore) -> str:
        lines = [f"# {event.model_id}", "", "| channel | version | licence | task |", "| --- | --- | --- | --- |"]
        for listed in listing.list_models(store, model_id=event.model_id):
            for channel in listed.channels:
                version = channels.read(store, event.model_id, channel).version
                sealed = bundle.find(Ref(model_id=event.model_id, channel=None, version=version), store=store).manifest
                lines.append(f"| {channel} | {version} | {sealed.source.licence or '–'} | {sealed.task} |")
        path = self.folder / f"{event.model_id.replace('/', '--')}.md"
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            path.write_text("\n".join([*lines, ""]), encoding="utf-8")
        except OSError as err:
            raise SinkUnavailable(f"{path}: {err.strerror}; is the folder mounted?") from err
        return f"wrote {path}"


PAGES = SinkKind(settings=PagesSettings, make=Pages)

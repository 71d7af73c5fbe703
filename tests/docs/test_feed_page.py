"""What the pages say of the feed and its events: the mirror runs, and an event looks as it is shown."""

from __future__ import annotations

import json
import re
from pathlib import Path

from fixtures.moved import REASON
from fixtures.planned_models import COMMIT, NEXT_COMMIT, NOW, VERSIONS, publish, resolved
from onnx_fleet.bundles import channels, events, feed, fleet_event
from onnx_fleet.entities.channel_move import MoveReason
from onnx_fleet.planning import plan
from onnx_fleet.store import ObjectStore

DOCS = Path(__file__).parents[2] / "docs"


def block(page: str, marker: str, language: str) -> str:
    """The block of a page behind a marker."""
    text = (DOCS / page).read_text()
    found = re.search(rf"<!-- {re.escape(marker)} -->\n```{language}\n(.*?)```", text, flags=re.DOTALL)
    assert found
    return found[1]


def published(store: ObjectStore, name: str, *, commit: str = COMMIT) -> str:
    (item,) = plan.plan([resolved(name, commit=commit)], store=store, versions=VERSIONS).items
    publish(store, item)
    return item.version


def test_the_mirror_of_the_page_fetches_what_has_changed(tmp_path: Path, local_store: ObjectStore) -> None:
    code = block("bundle-format.md", "tests/docs/test_feed_page.py runs this", "python")
    mirror = tmp_path / "mirror"
    mirror.mkdir()
    code = code.replace("/srv/fleet", local_store.address).replace("/srv/mirror", str(mirror))
    names = [f"acme/m{number}" for number in range(8)]
    for name in names:
        published(local_store, name)

    def mirrored() -> dict[str, float]:
        feed.rebuild(local_store, now=NOW)
        exec(code, {})
        return {path.name: path.stat().st_ino for path in mirror.iterdir()}

    first = mirrored()
    published(local_store, names[0], commit=NEXT_COMMIT)
    second = mirrored()

    assert len(first.keys() - second.keys()) == len(second.keys() - first.keys()) == 1
    assert {name: second[name] for name in first.keys() & second.keys()}.items() <= first.items()
    found = [model for path in mirror.iterdir() for model in json.loads(path.read_bytes())["models"]]
    assert sorted(model["model_id"] for model in found) == names
    assert sum(len(model["versions"]) for model in found) == len(names) + 1


def test_an_event_has_the_fields_that_the_page_shows(local_store: ObjectStore) -> None:
    shown = json.loads(block("operations.md", "tests/docs/test_feed_page.py holds this to what is printed", "json"))
    old = published(local_store, "acme/tiny")
    published(local_store, "acme/tiny", commit=NEXT_COMMIT)
    back = MoveReason(kind="rolled_back", by=REASON.by, why=shown["data"]["why"])
    channels.move(local_store, "acme/tiny", "latest", old, reason=back, now=NOW)
    feed.rebuild(local_store, now=NOW)
    *_, (position, event) = events.since(local_store)
    told = {**fleet_event.to_cloudevent(event, source=shown["source"]), "sequence": position}

    assert told.keys() == shown.keys()
    assert {name: type(value) for name, value in told["data"].items()} == {
        name: type(value) for name, value in shown["data"].items()
    }
    assert (told["type"], told["data"]["by"]["name"]) == (shown["type"], shown["data"]["by"]["name"])

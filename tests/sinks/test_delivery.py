"""Events that are delivered to webhooks: each of them, in order, whoever is down, killed or beside."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from standardwebhooks import WebhookVerificationError

from fixtures.faulty_stores import Interrupted, SteppedStore, interrupted
from fixtures.told_events import moved, published
from fixtures.webhook_receiver import KEY, Receiver
from onnx_fleet.errors import SinksInvalid
from onnx_fleet.sinks import configuration, delivery, sink_state
from onnx_fleet.sinks.configuration import ConfiguredSink
from onnx_fleet.sinks.delivery import Patience
from onnx_fleet.store import ObjectStore

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/sinks.md").read_text()
AT_ONCE = Patience(tries=2, first_pause_s=0, longest_pause_s=0)


def hook(receiver: Receiver, *, name: str = "hook", more: str = "", key: str = KEY) -> ConfiguredSink:
    text = f"sinks:\n- {{name: {name}, kind: webhook, url: '{receiver.url}', secret: a-key{more}}}\n"
    (made,) = configuration.parse(text, source="sinks.yaml", secrets=lambda _name: key)
    return made


def subjects(receiver: Receiver) -> list[str]:
    return [event["subject"] for event in receiver.taken]


def test_every_event_arrives_once_signed_and_in_order(tmp_path: Path, any_store: ObjectStore) -> None:
    versions = [published(tmp_path, any_store, digit=digit).version for digit in "ab"]
    with Receiver() as receiver:
        done = delivery.run(hook(receiver), store=any_store)
        again = delivery.run(hook(receiver), store=any_store)
        versions.append(published(tmp_path, any_store, digit="c").version)
        later = delivery.run(hook(receiver), store=any_store)

    assert (done.delivered, again.delivered, later.delivered) == (2, 0, 1)
    assert subjects(receiver) == [f"acme/tiny@{version}" for version in versions]
    first = receiver.taken[0]
    assert (first["specversion"], first["type"]) == ("1.0", "onnx-fleet.published")
    assert first["data"]["path"] == f"models/acme/tiny/{versions[0]}/"
    assert receiver.requests == [204, 204, 204]


def test_a_sink_that_is_down_holds_back_only_itself_and_catches_up(
    tmp_path: Path, local_store: ObjectStore, caplog: pytest.LogCaptureFixture
) -> None:
    published(tmp_path, local_store)
    down = True

    def answers(event: Mapping[str, Any]) -> int:
        return 503 if down else 204

    with Receiver(answers=answers) as weak, Receiver() as well:
        sinks = [hook(weak, name="weak"), hook(well, name="well")]
        first, second = (delivery.run(each, store=local_store, patience=AT_ONCE) for each in sinks)
        waits = sink_state.read(local_store, "weak").state
        assert (first.delivered, first.error, second.delivered) == (0, "SinkUnavailable", 1)
        assert weak.requests == [503, 503]  # each delivery is retried before its sink counts as down
        assert waits.trouble is not None
        assert "HTTP 503" in waits.trouble.message
        assert delivery.waiting(sinks[0], store=local_store) == 1

        published(tmp_path, local_store, digit="b")
        down = False
        with caplog.at_level(logging.INFO, logger="onnx_fleet.sinks.delivery"):
            caught_up = [delivery.run(each, store=local_store, patience=AT_ONCE).delivered for each in sinks]

    assert caught_up == [2, 1]
    assert subjects(weak) == subjects(well)
    assert sink_state.read(local_store, "weak").state.trouble is None
    assert "weak: published acme/tiny@" in caplog.text
    assert KEY not in caplog.text


def test_a_receiver_says_how_long_to_wait(tmp_path: Path, local_store: ObjectStore) -> None:
    published(tmp_path, local_store)
    answers = iter([429, 204])
    with Receiver(answers=lambda _event: next(answers), retry_after="0") as receiver:
        patience = Patience(tries=2, first_pause_s=300, longest_pause_s=600)
        assert delivery.run(hook(receiver), store=local_store, patience=patience).delivered == 1


def test_an_event_that_is_not_taken_is_set_aside_until_it_is(tmp_path: Path, local_store: ObjectStore) -> None:
    bad = published(tmp_path, local_store).version
    good = published(tmp_path, local_store, digit="b").version
    refuses = True

    def answers(event: Mapping[str, Any]) -> int:
        return 422 if refuses and bad in event["subject"] else 204

    with Receiver(answers=answers) as receiver:
        sink = hook(receiver)
        done = delivery.run(sink, store=local_store, patience=AT_ONCE)
        (aside,) = sink_state.read(local_store, "hook").state.set_aside
        refuses = False
        assert delivery.replay(sink, store=local_store, since=datetime.now(UTC) - timedelta(hours=1))
        again = delivery.run(sink, store=local_store, patience=AT_ONCE)

    assert (done.delivered, done.set_aside, done.error) == (1, 1, None)
    assert (aside.event.version, aside.error) == (bad, "EventRefused")
    assert again.delivered == 2
    assert sink_state.read(local_store, "hook").state.set_aside == ()
    assert subjects(receiver) == [f"acme/tiny@{version}" for version in (good, bad, good)]


@pytest.mark.parametrize(
    ("key", "why"),
    [
        ("whsec_YW5vdGhlciBrZXkgb2YgYSB3ZWJob29r", "HTTP 401"),
        ("not base64!", "openssl rand"),
        ("whsec_c2hvcnQ=", "openssl"),
    ],
)
def test_a_wrong_secret_delivers_nothing_and_loses_nothing(
    tmp_path: Path, local_store: ObjectStore, key: str, why: str
) -> None:
    published(tmp_path, local_store)
    with Receiver() as receiver:
        refused = delivery.run(hook(receiver, key=key), store=local_store, patience=AT_ONCE)
        assert (refused.delivered, refused.error) == (0, "SinkDenied")
        assert why in refused.message
        assert key not in refused.message
        assert delivery.run(hook(receiver), store=local_store).delivered == 1


def test_while_a_key_is_exchanged_both_sign(tmp_path: Path, local_store: ObjectStore) -> None:
    published(tmp_path, local_store)
    with Receiver() as old, Receiver(key="whsec_YW5vdGhlciBrZXkgb2YgYSB3ZWJob29r") as new:
        keys = f"{new.key} {old.key}"
        done = [
            delivery.run(hook(each, name=name, key=keys), store=local_store)
            for name, each in (("old", old), ("new", new))
        ]
    assert [each.delivered for each in done] == [1, 1]


def test_a_sink_takes_the_models_events_and_times_that_it_says(tmp_path: Path, local_store: ObjectStore) -> None:
    published(tmp_path, local_store, model_id="acme/tiny")
    published(tmp_path, local_store, model_id="other/tiny")
    with Receiver() as receiver:
        for name, more in (("a", ", only: ['other/*']"), ("b", ", events: [failed]"), ("c", ", since: 2030-01-01")):
            delivery.run(hook(receiver, name=name, more=more), store=local_store)
    assert [event["data"]["model_id"] for event in receiver.taken] == ["other/tiny"]


def test_two_drivers_at_once_skip_nothing(tmp_path: Path, local_store: ObjectStore) -> None:
    """A complete second driver runs before each store call of the first one."""
    for digit in "abc":
        published(tmp_path, local_store, digit=digit)
    step, wanted = 0, 3
    while True:
        step += 1
        with Receiver() as receiver:
            sink = hook(receiver, name=f"hook{step}")
            stepped = SteppedStore(
                local_store, step=step, before=lambda sink=sink: delivery.run(sink, store=local_store)
            )
            done = delivery.run(sink, store=stepped)
            assert done.error is None
            assert len({event["id"] for event in receiver.taken}) == wanted
            assert delivery.waiting(sink, store=local_store) == 0
        if stepped.steps < step:
            break
    assert step > 6


def test_a_driver_that_is_killed_anywhere_loses_nothing(tmp_path: Path, local_store: ObjectStore) -> None:
    for digit in "ab":
        published(tmp_path, local_store, digit=digit)
    step = 0
    while True:
        step += 1
        with Receiver() as receiver:
            sink = hook(receiver, name=f"hook{step}")
            try:
                delivery.run(sink, store=interrupted(local_store, step=step))
                break
            except Interrupted:
                delivery.run(sink, store=local_store)
            first_seen = list(dict.fromkeys(subjects(receiver)))
            assert len(first_seen) == 2
            assert subjects(receiver)[-1] == first_seen[-1]
    assert step > 6


def test_a_replay_delivers_again_what_happened_since(tmp_path: Path, any_store: ObjectStore) -> None:
    published(tmp_path, any_store)
    with Receiver() as receiver:
        sink = hook(receiver)
        assert not delivery.replay(sink, store=any_store, since=datetime(2026, 1, 1, tzinfo=UTC))
        delivery.run(sink, store=any_store)
        assert not delivery.replay(sink, store=any_store, since=datetime.now(UTC) + timedelta(hours=1))
        assert delivery.run(sink, store=any_store).delivered == 0
        assert delivery.replay(sink, store=any_store, since=datetime(2026, 1, 1, tzinfo=UTC))
        assert delivery.run(sink, store=any_store).delivered == 1
    assert receiver.taken[0] == receiver.taken[1]


def test_every_fault_of_a_file_of_sinks_is_named_by_its_line() -> None:
    text = """sinks:
- name: first
  kind: webhok
- name: first
  kind: webhook
  urk: http://x
- name: First
  kind: webhook
"""
    with pytest.raises(SinksInvalid) as caught:
        configuration.parse(text, source="sinks.yaml", secrets=lambda name: name)
    assert [line.partition(";")[0] for line in str(caught.value).splitlines()] == [
        "sinks.yaml:3: the kind 'webhok' is not known",
        "sinks.yaml:4: no secret",
        "sinks.yaml:4: no url",
        "sinks.yaml:6: unknown key 'urk'",
        "sinks.yaml:7: name: string should match pattern '^[a-z0-9][a-z0-9_-]{0,62}$'",
    ]


def test_two_sinks_of_one_name_are_refused() -> None:
    one = "- {name: hook, kind: webhook, url: 'http://x', secret: key}\n"
    with pytest.raises(SinksInvalid, match=r"sinks\.yaml:3: another sink is called 'hook', too"):
        configuration.parse(f"sinks:\n{one}{one}", source="sinks.yaml", secrets=lambda name: name)


def test_the_state_of_a_sink_has_no_secret(tmp_path: Path, local_store: ObjectStore) -> None:
    published(tmp_path, local_store)
    with Receiver() as receiver:
        sink = hook(receiver)
        delivery.run(sink, store=local_store)
    assert KEY not in repr(sink)
    assert "key" not in json.loads(local_store.read("sinks/hook.json"))
    assert KEY.encode() not in local_store.read("sinks/hook.json")


def test_a_fleets_own_sink_is_one_file(tmp_path: Path, local_store: ObjectStore) -> None:
    folder = tmp_path / "pages"
    text = f"sinks:\n- {{name: pages, kind: 'sinks.pages:PAGES', folder: {folder}}}\n"
    (sink,) = configuration.parse(text, source="sinks.yaml", secrets=lambda name: name)
    (old, new) = (published(tmp_path, local_store, digit=digit).version for digit in "ab")
    moved(local_store, "stable", old)
    assert delivery.run(sink, store=local_store).delivered == 3
    page = (folder / "acme--tiny.md").read_text()
    assert f"| latest | {new} | apache-2.0 | feature-extraction |" in page
    assert f"| stable | {old} |" in page


def test_a_fault_of_a_fleets_own_sink_stays_with_it(tmp_path: Path, local_store: ObjectStore) -> None:
    published(tmp_path, local_store)
    (tmp_path / "pages").write_text("a file where a folder should be")
    text = f"sinks:\n- {{name: pages, kind: 'sinks.pages:PAGES', folder: {tmp_path / 'pages'}}}\n"
    (sink,) = configuration.parse(text, source="sinks.yaml", secrets=lambda name: name)
    done = delivery.run(sink, store=local_store, patience=AT_ONCE)
    assert (done.delivered, done.error) == (0, "SinkUnavailable")
    assert "pages" in done.message


def test_the_page_shows_the_example_as_it_is_and_a_file_that_loads() -> None:
    (shown,) = re.findall(r"```python\n# include/sinks/pages\.py\n(.*?)```", PAGE, flags=re.DOTALL)
    assert shown == (ROOT / "include/sinks/pages.py").read_text()
    (text,) = re.findall(r"```yaml\n(.*?)```", PAGE, flags=re.DOTALL)
    sinks = configuration.parse(text, source="docs/sinks.md", secrets=lambda _name: KEY)
    assert [(each.name, each.kind) for each in sinks] == [
        ("mlflow", "mlflow"),
        ("registry", "oci"),
        ("hub", "huggingface"),
        ("chat", "webhook"),
    ]
    assert [type(each.open()).__name__ for each in sinks] == ["MlflowSink", "OciSink", "HubRepoSink", "WebhookSink"]


def test_the_lines_of_the_page_verify_an_event(tmp_path: Path, local_store: ObjectStore) -> None:
    published(tmp_path, local_store)
    (lines,) = re.findall(r"```python\n(from standardwebhooks.*?)```", PAGE, flags=re.DOTALL)
    with Receiver() as receiver:
        delivery.run(hook(receiver), store=local_store)
    (body, headers), names = receiver.bodies[0], dict[str, Any]()
    exec(lines, {"key": KEY, "body": body, "headers": headers}, names)
    assert names["event"] == receiver.taken[0]
    with pytest.raises(WebhookVerificationError):
        exec(lines, {"key": KEY, "body": body.replace(b"acme/tiny", b"acme/huge"), "headers": headers}, {})

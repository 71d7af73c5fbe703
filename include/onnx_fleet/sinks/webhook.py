"""The sink of webhooks: each event is posted as a CloudEvent, signed as https://www.standardwebhooks.com asks.

Receivers have a verifier of that standard in most languages. An event may come again, after a time-out or a replay:
``webhook-id`` is the event's id, by which a receiver knows it.
"""

from __future__ import annotations

import base64
import binascii
from datetime import UTC, datetime
from typing import Annotated, Final

import httpx2
from pydantic import BaseModel, ConfigDict, Field
from standardwebhooks import Webhook

from onnx_fleet.bundles import events
from onnx_fleet.bundles.fleet_event import FleetEvent
from onnx_fleet.errors import EventRefused, SinkDenied, SinkUnavailable
from onnx_fleet.sinks.http_client import client
from onnx_fleet.sinks.sink import Secrets, SinkKind
from onnx_fleet.store import ObjectStore

_PASSES: Final = frozenset({408, 425, 429, 500, 502, 503, 504})
"""The statuses of a receiver that may take the same event later."""
_KEY_BYTES: Final = 24
"""The shortest key that the standard allows."""
_NO_KEY: Final = "make one with `openssl rand -base64 32`, and enter whsec_ and what it prints"


class WebhookSettings(BaseModel):
    """How a webhook is configured."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    url: Annotated[str, Field(pattern=r"^https?://[^\s@]+$")]
    """Where events are posted; a secret does not belong in it."""
    secret: str
    """The name of the secret that events are signed with; several keys in it, with spaces between, sign each."""
    timeout_s: float = 10.0
    """The seconds within which the receiver has to answer."""


class WebhookSink:
    """Posts events."""

    def __init__(self, settings: WebhookSettings, secrets: Secrets) -> None:
        self.settings = settings
        self._keys = [_key(each, name=settings.secret) for each in secrets(settings.secret).split()]
        if not self._keys:
            raise SinkDenied(f"the secret {settings.secret!r} is empty: {_NO_KEY}")

    def deliver(self, event: FleetEvent, *, store: ObjectStore) -> str:
        """Post an event; any answer of 200 to 299 says that it is taken."""
        body = events.to_bytes(store, event).decode()
        now = datetime.now(UTC)
        headers = {
            "Content-Type": "application/cloudevents+json; charset=utf-8",
            "User-Agent": "onnx-fleet",
            "webhook-id": event.id,
            "webhook-timestamp": str(int(now.timestamp())),
            "webhook-signature": " ".join(key.sign(event.id, now, body) for key in self._keys),
        }
        try:
            answer = client().post(
                self.settings.url, content=body.encode(), headers=headers, timeout=self.settings.timeout_s
            )
        except (httpx2.HTTPError, httpx2.InvalidURL) as err:
            raise SinkUnavailable(
                f"{self.settings.url}: {type(err).__name__}: {err}; is the receiver running?"
            ) from err
        self._require_taken(answer)
        return f"posted to {self.settings.url}"

    def _require_taken(self, answer: httpx2.Response) -> None:
        status, where = answer.status_code, self.settings.url
        if answer.is_success:
            return
        said = f"{where}: HTTP {status}: {answer.text[:200].strip() or answer.reason_phrase}"
        if status in _PASSES:
            asked = answer.headers.get("Retry-After", "")
            raise SinkUnavailable(f"{said}; it is tried again", retry_after_s=float(asked) if asked.isdigit() else None)
        if status in (401, 403):
            raise SinkDenied(f"{said}; the receiver has to know the secret {self.settings.secret!r}")
        if 300 <= status < 400 or status in (404, 405):
            raise SinkDenied(f"{said}; no receiver is at this address: correct url")
        raise EventRefused(f"{said}; the receiver does not take this event")


def _key(text: str, *, name: str) -> Webhook:
    """Return a key; the library decodes anything, and would sign with what is left of a key that was cut short."""
    try:
        key = base64.b64decode(text.removeprefix("whsec_"), validate=True)
    except binascii.Error:
        key = b""
    if not text.startswith("whsec_") or len(key) < _KEY_BYTES:
        raise SinkDenied(f"the secret {name!r} is no key of webhooks: {_NO_KEY}")
    return Webhook(key)


WEBHOOK = SinkKind(settings=WebhookSettings, make=WebhookSink)

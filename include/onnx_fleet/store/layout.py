"""Where things lie in a store: the bundle contract's keys, each written once.

models/<org>/<name>/<version>/…                 a bundle; without its manifest.json it does not exist
models/<org>/<name>/channels/<channel>.json     a channel
unfinished/<org>/<name>/<version>/…             what publishing keeps until the manifest stands
audits/<org>/<name>/<version>/<time>.json       what an audit of a published bundle found
cache/<kind>/<key>.zip                          what one export leaves for the next one of the same kind
"""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Final

MODELS: Final = "models/"
MANIFEST: Final = "manifest.json"

MANIFEST_KEY: Final = re.compile(rf"{MODELS}([^/]+/[^/]+)/([0-9a-f]{{8}}-[0-9a-f]{{8}})/{re.escape(MANIFEST)}")
"""Model id and version."""
CHANNEL_KEY: Final = re.compile(rf"{MODELS}([^/]+/[^/]+)/channels/([^/]+)\.json")
"""Model id and channel."""

UNFINISHED: Final = "unfinished/"
CACHE: Final = "cache/"
CACHE_KEY: Final = re.compile(rf"{CACHE}(graphs|tokenizers)/([0-9a-f]{{64}})\.zip")
"""Kind and key."""

IN_PARTS: Final = (MODELS, UNFINISHED, CACHE)
"""How the keys begin of all that may be large enough to go up in parts."""


def cache_key(kind: str, key: str) -> str:
    """Where an entry of the cache lies."""
    return f"{CACHE}{kind}/{key}.zip"


def bundle_prefix(model_id: str, version: str) -> str:
    """Of a bundle's keys, with a slash at the end."""
    return f"{MODELS}{model_id}/{version}/"


def manifest_key(model_id: str, version: str) -> str:
    """Where a bundle's manifest lies; while it is absent the bundle does not exist."""
    return bundle_prefix(model_id, version) + MANIFEST


def channel_key(model_id: str, channel: str) -> str:
    """Where a channel lies; the name has been checked."""
    return f"{MODELS}{model_id}/channels/{channel}.json"


def unfinished_prefix(model_id: str, version: str) -> str:
    """Of what publishing keeps until the manifest stands, with a slash at the end."""
    return f"{UNFINISHED}{model_id}/{version}/"


def model_prefix(model_id: str) -> str:
    """Of all that is published of one model, with a slash at the end."""
    return f"{MODELS}{model_id}/"


def audit_key(model_id: str, version: str, *, at: datetime) -> str:
    """Where one audit's result lies; keys stand in the order of their times."""
    return f"audits/{model_id}/{version}/{at.astimezone(UTC):%Y%m%dT%H%M%S.%fZ}.json"

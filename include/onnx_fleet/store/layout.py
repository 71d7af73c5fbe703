"""Where things lie in a store: the bundle contract's keys, each written once.

models/<org>/<name>/<version>/…                 a bundle; without its manifest.json it does not exist
models/<org>/<name>/channels/<channel>.json     a channel
models/<org>/<name>/renamed.json                the id that the model is published under now
history/<org>/<name>/<channel>/<row>.json       one move of a channel, or a version that was kept from it
unfinished/<org>/<name>/<version>/…             what publishing keeps until it is through
audits/<org>/<name>/<version>/<time>.json       what an audit of a published bundle found
cache/<kind>/<key>.zip                          what one export leaves for the next one of the same kind
claims/<org>/<name>.json                        the run that works on a model
costs/<org>/<name>.json                         what the steps of a model took when it was last published
latencies/<key>.json                            what one variant's graphs take on one kind of machine
rollouts/<id>.json                              how far the models have followed a change of the toolchain
scratch/<run>/<org>/<name>/…                    what the tasks of one run hand on to each other, on several machines
watch/state.json                                what the last poll of the Hub has seen, and the runs that it asks for
"""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Final

MODELS: Final = "models/"
MANIFEST: Final = "manifest.json"

MANIFEST_KEY: Final = re.compile(rf"{MODELS}([^/]+/[^/]+)/([0-9a-f]{{8}}-[0-9a-f]{{8}})/{re.escape(MANIFEST)}")
"""The pattern of a manifest's key, whose groups are the model id and the version."""
CHANNEL_KEY: Final = re.compile(rf"{MODELS}([^/]+/[^/]+)/channels/([^/]+)\.json")
"""The pattern of a channel's key, whose groups are the model id and the channel."""
RENAMED_KEY: Final = re.compile(rf"{MODELS}([^/]+/[^/]+)/renamed\.json")
"""The pattern of the key of a note that a model was renamed, whose group is the id that it had."""

HISTORY: Final = "history/"
HISTORY_KEY: Final = re.compile(
    rf"{HISTORY}([^/]+/[^/]+)/([^/]+)/(\d{{8,}}-[0-9a-f]{{16}}|held-[0-9a-f]{{8}}-[0-9a-f]{{8}})\.json"
)
"""The pattern of the key of a row of a channel's history, whose groups are the model id, the channel and the row."""

UNFINISHED: Final = "unfinished/"
UNFINISHED_KEY: Final = re.compile(rf"{UNFINISHED}([^/]+/[^/]+)/([0-9a-f]{{8}}-[0-9a-f]{{8}})/(.+)")
"""The pattern of a key that publishing keeps, whose groups are the model id, the version and the rest."""

AUDITS: Final = "audits/"

CACHE: Final = "cache/"
CACHE_KEY: Final = re.compile(rf"{CACHE}(graphs|tokenizers)/([0-9a-f]{{64}})\.zip")
"""The pattern of a cache entry's key, whose groups are its kind and its own key."""

SCRATCH: Final = "scratch/"
ROLLOUTS: Final = "rollouts/"
WATCH_KEY: Final = "watch/state.json"

IN_PARTS: Final = (MODELS, UNFINISHED, CACHE, SCRATCH)
"""How the keys begin of all that may be large enough to go up in parts."""


def cache_key(kind: str, key: str) -> str:
    """Return where an entry of the cache lies."""
    return f"{CACHE}{kind}/{key}.zip"


def bundle_prefix(model_id: str, version: str) -> str:
    """Return what a bundle's keys begin with, a slash at its end."""
    return f"{MODELS}{model_id}/{version}/"


def manifest_key(model_id: str, version: str) -> str:
    """Return where a bundle's manifest lies; while it is absent the bundle does not exist."""
    return bundle_prefix(model_id, version) + MANIFEST


def channel_key(model_id: str, channel: str) -> str:
    """Return where a channel lies; its name has been checked."""
    return f"{MODELS}{model_id}/channels/{channel}.json"


def history_prefix(model_id: str, channel: str) -> str:
    """Return what the keys begin with of the rows of a channel's history, a slash at its end."""
    return f"{HISTORY}{model_id}/{channel}/"


def history_key(model_id: str, channel: str, row: str) -> str:
    """Return where a row of a channel's history lies."""
    return f"{history_prefix(model_id, channel)}{row}.json"


def renamed_key(model_id: str) -> str:
    """Return where the note lies that says what a model is called now."""
    return f"{MODELS}{model_id}/renamed.json"


def unfinished_prefix(model_id: str, version: str) -> str:
    """Return what the keys begin with that publishing keeps until it is through, with a slash at the end."""
    return f"{UNFINISHED}{model_id}/{version}/"


def model_prefix(model_id: str) -> str:
    """Return what the keys of all that is published of one model begin with, a slash at its end."""
    return f"{MODELS}{model_id}/"


def scratch_prefix(run: str, model_id: str) -> str:
    """Return what the keys begin with of what a run's tasks hand on about one model, a slash at its end."""
    return f"{SCRATCH}{run_name(run)}/{model_id}/"


def run_name(label: str) -> str:
    """Return a run's label as the name of a file or a folder; it may hold characters that such a name should not."""
    return re.sub(r"[^A-Za-z0-9._-]+", "_", label).strip(".") or "_"


def claim_key(model_id: str) -> str:
    """Return where the claim on a model lies."""
    return f"claims/{model_id}.json"


def costs_key(model_id: str) -> str:
    """Return where it lies what the steps of a model took when it was last published."""
    return f"costs/{model_id}.json"


def latency_key(key: str) -> str:
    """Return where the figures lie that models with the same graphs may take over."""
    return f"latencies/{key}.json"


def rollout_key(rollout_id: str) -> str:
    """Return where a rollout's document lies."""
    return f"{ROLLOUTS}{rollout_id}.json"


def audit_key(model_id: str, version: str, *, at: datetime) -> str:
    """Return where one audit's result lies; keys stand in the order of their times."""
    return f"{AUDITS}{model_id}/{version}/{at.astimezone(UTC):%Y%m%dT%H%M%S.%fZ}.json"

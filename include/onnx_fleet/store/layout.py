"""Where things lie in a store: the bundle contract's keys, each written once.

models/<org>/<name>/<version>/…                 a bundle; without its manifest.json it does not exist
models/<org>/<name>/channels/<channel>.json     a channel
models/<org>/<name>/renamed.json                the id that the model is published under now
history/<org>/<name>/<channel>/<row>.json       one move of a channel, or a version that was kept from it
signatures/<org>/<name>/<version>/<key>.sig.json  a signature of a bundle, by the id of its key
unfinished/<org>/<name>/<version>/…             what publishing keeps until it is through
deleted/<org>/<name>/<version>.json             what stays of a version that was removed: its tombstone
audits/<org>/<name>/<version>/<time>.json       what an audit of a published bundle found
cache/<kind>/<key>.zip                          what one export leaves for the next one of the same kind
claims/<org>/<name>.json                        the run that works on a model
costs/<org>/<name>.json                         what the steps of a model took when it was last published
feed/events/<yyyy>/<mm>/<dd>/<event>.json       something that happened to a bundle or a channel
latencies/<key>.json                            what one variant's graphs take on one kind of machine
licences/<org>/<name>.json                      what persons have answered about the licences of a model
proofs/<key>.json                               the whole proof of graphs that other models have, too
rollouts/<id>.json                              how far the models have followed a change of the toolchain
scratch/<run>/<org>/<name>/…                    what the tasks of one run hand on to each other, on several machines
sinks/<name>.json                               how far the events are delivered to a registry
watch/state.json                                what the last poll of the Hub has seen, and the runs that it asks for
"""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Final

MODELS: Final = "models/"
MANIFEST: Final = "manifest.json"

BUNDLE_KEY: Final = re.compile(rf"{MODELS}([^/]+/[^/]+)/([0-9a-f]{{8}}-[0-9a-f]{{8}})/(.+)")
"""The pattern of the key of any file of a bundle, whose groups are the model id, the version and the file's path."""
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

SIGNATURES: Final = "signatures/"
SIGNATURE_SUFFIX: Final = ".sig.json"
SIGNATURE_KEY: Final = re.compile(
    rf"{SIGNATURES}([^/]+/[^/]+)/([0-9a-f]{{8}}-[0-9a-f]{{8}})/([0-9a-f]{{64}}){re.escape(SIGNATURE_SUFFIX)}"
)
"""The pattern of a signature's key, whose groups are the model id, the version and the id of the key that signed."""

UNFINISHED: Final = "unfinished/"
UNFINISHED_KEY: Final = re.compile(rf"{UNFINISHED}([^/]+/[^/]+)/([0-9a-f]{{8}}-[0-9a-f]{{8}})/(.+)")
"""The pattern of a key that publishing keeps, whose groups are the model id, the version and the rest."""

THROUGH: Final = "through"
"""The rest of the key that says of a publication that it is through, where its publisher may not delete."""

DELETED: Final = "deleted/"
DELETED_KEY: Final = re.compile(rf"{DELETED}([^/]+/[^/]+)/([0-9a-f]{{8}}-[0-9a-f]{{8}})\.json")
"""The pattern of a tombstone's key, whose groups are the model id and the version."""

REPORTS: Final = "reports/"
AUDITS: Final = "audits/"
AUDIT_KEY: Final = re.compile(rf"{AUDITS}([^/]+/[^/]+)/([0-9a-f]{{8}}-[0-9a-f]{{8}})/([^/]+)\.json")
"""The pattern of the key of an audit's result, whose groups are the model id, the version and the time."""

CACHE: Final = "cache/"
CACHE_KEY: Final = re.compile(rf"{CACHE}(graphs|tokenizers)/([0-9a-f]{{64}})\.zip")
"""The pattern of a cache entry's key, whose groups are its kind and its own key."""

EVENTS: Final = "feed/events/"
LICENCES: Final = "licences/"
LICENCES_KEY: Final = re.compile(rf"{LICENCES}([^/]+/[^/]+)\.json")
"""The pattern of the key of the answers about a model's licences, whose group is the model id."""
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


def signatures_prefix(model_id: str, version: str) -> str:
    """Return what the keys of all signatures of a version begin with, a slash at its end."""
    return f"{SIGNATURES}{model_id}/{version}/"


def signature_key(model_id: str, version: str, key_id: str) -> str:
    """Return where the signature that a key made of a version lies."""
    return f"{signatures_prefix(model_id, version)}{key_id}{SIGNATURE_SUFFIX}"


def unfinished_prefix(model_id: str, version: str) -> str:
    """Return what the keys begin with that publishing keeps until it is through, with a slash at the end."""
    return f"{UNFINISHED}{model_id}/{version}/"


def deleted_prefix(model_id: str | None = None) -> str:
    """Return what the keys of the tombstones begin with of one model, or of all, a slash at its end."""
    return f"{DELETED}{model_id}/" if model_id else DELETED


def deleted_key(model_id: str, version: str) -> str:
    """Return where the tombstone of a version lies."""
    return f"{deleted_prefix(model_id)}{version}.json"


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


def licences_key(model_id: str) -> str:
    """Return where it lies what persons have answered about the licences of a model."""
    return f"{LICENCES}{model_id}.json"


def latency_key(key: str) -> str:
    """Return where the figures lie that models with the same graphs may take over."""
    return f"latencies/{key}.json"


def proof_key(key: str) -> str:
    """Return where the whole proof lies that models with the same graphs repeat in part."""
    return f"proofs/{key}.json"


def rollout_key(rollout_id: str) -> str:
    """Return where a rollout's document lies."""
    return f"{ROLLOUTS}{rollout_id}.json"


def sink_key(name: str) -> str:
    """Return where it lies how far the events are delivered to a sink; its name has been checked."""
    return f"sinks/{name}.json"


def audit_key(model_id: str, version: str, *, at: datetime) -> str:
    """Return where one audit's result lies; keys stand in the order of their times."""
    return f"{AUDITS}{model_id}/{version}/{at.astimezone(UTC):%Y%m%dT%H%M%S.%fZ}.json"

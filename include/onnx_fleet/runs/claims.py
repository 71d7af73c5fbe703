"""Claims: one run at a time works on a model, so that what two are asked for is done once.

claims/<org>/<name>.json    the run that has a model, and until when nobody else takes it

A claim is no lock: it saves work, and nothing is wrong where it fails. Publishing is right with any number of writers,
and it looks at no claim. A run renews its claims while it works on a model; one that was killed lets them run out, and
whoever waited goes on. Clocks that differ, or a pause that is too long, cost double work and nothing else.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import ClassVar, Final, Literal

from pydantic import AwareDatetime, ConfigDict, ValidationError

from onnx_fleet import jsonio
from onnx_fleet.errors import BundleNotFound, ModelBusy, OnnxFleetError, StoreDenied, VersionConflict
from onnx_fleet.store import ObjectStore, layout

log = logging.getLogger(__name__)

GOOD_FOR: Final = timedelta(minutes=5)
"""How long a claim lasts that is not renewed: what a run that was killed costs those who wait."""
BETWEEN_TASKS: Final = timedelta(hours=1)
"""How long it lasts while no task works on the model: one that waits for a worker, or to be tried again."""
ASK_AGAIN_S: Final = 30.0
"""The longest that a run which waits goes without looking."""
RENEWED_EVERY_S: Final = 60.0
"""How often a run that works on a model renews its claim."""
_TRIES: Final = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """A run's claim on a model."""

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    schema_version: Literal[1] = 1
    model_id: str
    version: str
    """The version that the run makes."""
    run: str
    """The label of the run."""
    since: AwareDatetime
    good_until: AwareDatetime
    """The time until which no other run takes the model; a run that is through has it in the past."""


def take(model_id: str, version: str, *, run: str, store: ObjectStore, now: datetime) -> bool:
    """Claim a model for a run; False, with nothing claimed, where another run has published the version.

    Raises:
        ModelBusy: another run has it.
        StoreUnavailable, StoreNotFound: the store cannot be asked.
    """
    for _ in range(_TRIES):
        standing, etag = _read(store, model_id)
        is_ours = standing is not None and standing.run == run
        if standing is not None and not is_ours and standing.good_until > now:
            raise _busy(standing, now=now)
        # Looked at behind the claim: whoever published it gave the claim back afterwards.
        if not is_ours and store.stat(layout.manifest_key(model_id, version)) is not None:
            return False
        since = standing.since if standing is not None and is_ours else now
        wanted = Claim(model_id=model_id, version=version, run=run, since=since, good_until=now + GOOD_FOR)
        try:
            _write(store, wanted, etag=etag)
        except VersionConflict:
            continue
        except StoreDenied as err:
            log.warning("%s: another run may make it at the same time, since it cannot be claimed: %s", model_id, err)
        return True
    raise ModelBusy(f"{model_id}: other runs keep claiming it; try again", retry_after_s=ASK_AGAIN_S)


def wait(
    model_id: str,
    version: str,
    *,
    run: str,
    store: ObjectStore,
    on_wait: Callable[[str], None],
    sleep: Callable[[float], None] = time.sleep,
) -> bool:
    """Claim a model for a run as take does, as soon as no other run has it.

    Args:
        on_wait: is told once for each run that is waited for why.
    """
    told = ""
    while True:
        try:
            return take(model_id, version, run=run, store=store, now=datetime.now(UTC))
        except ModelBusy as err:
            if str(err) != told:
                told = str(err)
                on_wait(told)
            sleep(err.retry_after_s)


@contextmanager
def renewed(
    model_id: str,
    *,
    run: str,
    store: ObjectStore,
    left_for: timedelta | None = None,
    every_s: float = RENEWED_EVERY_S,
) -> Iterator[None]:
    """Renew a run's claim for as long as the block lasts.

    Args:
        left_for: how long it lasts afterwards, for the task behind this one; None gives it back.
    """
    done = threading.Event()

    def keep() -> None:
        while not done.wait(every_s):
            _move(store, model_id, run=run, until=datetime.now(UTC) + GOOD_FOR)

    thread = threading.Thread(target=keep, name="claim", daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
        if left_for is None:
            release(model_id, run=run, store=store)
        else:
            _move(store, model_id, run=run, until=datetime.now(UTC) + left_for)


def release(model_id: str, *, run: str, store: ObjectStore) -> None:
    """Give a claim back, where the run has it."""
    _move(store, model_id, run=run, until=datetime.now(UTC))


def _move(store: ObjectStore, model_id: str, *, run: str, until: datetime) -> None:
    """Let a run's claim last until then; what hinders that is logged, since a claim only saves work."""
    try:
        standing, etag = _read(store, model_id)
        if standing is not None and standing.run == run:
            _write(store, replace(standing, good_until=until), etag=etag)
    except OnnxFleetError as err:
        log.warning("%s: the claim of %s stays as it was: %s", model_id, run, err)


def _busy(claim: Claim, *, now: datetime) -> ModelBusy:
    left_s = (claim.good_until - now).total_seconds()
    return ModelBusy(
        f"{claim.model_id}: the run {claim.run} is making {claim.version}, since {claim.since:%Y-%m-%d %H:%M} UTC; what"
        " it publishes is not made again",
        retry_after_s=min(ASK_AGAIN_S, left_s + 0.1),
    )


def _read(store: ObjectStore, model_id: str) -> tuple[Claim | None, str | None]:
    """Return a model's claim and its tag; one that cannot be read counts as none."""
    try:
        data, etag = store.read_tagged(layout.claim_key(model_id))
    except BundleNotFound:
        return None, None
    try:
        return jsonio.adapter(Claim).validate_json(data, strict=True), etag
    except ValidationError:
        return None, etag


def _write(store: ObjectStore, claim: Claim, *, etag: str | None) -> None:
    store.replace(layout.claim_key(claim.model_id), jsonio.canonical(jsonio.to_json(claim)), etag=etag)

"""The Hub's webhooks: a push to a model of the catalogue starts a run of fleet_reexport for it within seconds.

Whoever knows the secret may ask for this and for nothing else. An event names a model and a commit; the run itself asks
the Hub what is there, and its plan decides. So a forged or an old event costs at most one run that finds nothing new,
and an event that is lost or turned away costs nothing: the next poll of hub_watch finds the same commit.
"""

from __future__ import annotations

import asyncio
import hmac
import logging
import math
import time
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Final

from airflow.api.common.trigger_dag import trigger_dag
from airflow.exceptions import DagNotFound, DagRunAlreadyExists
from airflow.models.dagrun import DagRun
from airflow.sdk import BaseHook
from airflow.sdk.exceptions import AirflowNotFoundException
from airflow.utils.session import create_session
from airflow.utils.state import DagRunState
from airflow.utils.types import DagRunTriggeredByType
from fastapi import FastAPI, Header, HTTPException, Request, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import JSONResponse
from huggingface_hub import WebhookPayload
from limits import RateLimitItemPerMinute
from limits.storage import MemoryStorage
from limits.strategies import MovingWindowRateLimiter
from pydantic import ValidationError
from sqlalchemy import select
from sqlalchemy.exc import IntegrityError
from starlette.requests import ClientDisconnect

from onnx_fleet.airflow import run_params, settings
from onnx_fleet.entities.entry import Entry
from onnx_fleet.errors import CatalogueInvalid
from onnx_fleet.planning.catalogue import reader
from onnx_fleet.planning.catalogue.reader import Catalogue

log = logging.getLogger(__name__)

PATH: Final = "/webhook/hub"
"""The path of the endpoint, below the prefix of our pages."""
OLD_SECRET: Final = "old_secret"
"""The key in the connection's extra of a second secret, which counts while the secret is exchanged."""
BODY_BYTES: Final = 64 * 1024
"""The size limit of an event: the Hub's have about 1 KiB."""
BODY_SECONDS: Final = 10.0
"""The time limit for sending it."""
PER_MINUTE: Final = 60
"""The number of events that one process of the api-server takes in a minute."""

_RATE: Final = RateLimitItemPerMinute(PER_MINUTE)
_CALLER: Final = "hub-webhook"
"""The name under which Airflow shows who has started a run."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Push:
    """New content of a model that the catalogue lists."""

    model: str
    """The id of its entry."""
    commit: str
    """The commit, 40 hexadecimal digits."""

    @property
    def runs(self) -> str:
        """What the ids of this model's runs begin with."""
        return f"webhook__{self.model.replace('/', '--')}__"

    @property
    def run_id(self) -> str:
        """The id of the run that this commit starts: the same event twice cannot start two."""
        return self.runs + self.commit


def attach(pages: FastAPI) -> None:
    """Add the endpoint to the application that the plugin hangs into Airflow's server."""
    limiter = MovingWindowRateLimiter(MemoryStorage())

    async def receive(request: Request, x_webhook_secret: Annotated[str | None, Header()] = None) -> Response:
        wanted = settings.read()
        await run_in_threadpool(_require_secret, x_webhook_secret, conn_id=wanted.webhook_conn_id)
        _require_room(limiter)
        event = _event(await _body(request))
        if isinstance(event, str):
            return _ignored(event)
        return await run_in_threadpool(_answer, event, catalogue=wanted.catalogue)

    pages.post(PATH)(receive)


def pushed(event: WebhookPayload, catalogue: Catalogue) -> Push | str:
    """Return what an event says was pushed to a model of the catalogue, or the reason why it starts nothing."""
    if event.repo.type != "model" or event.event.action != "update" or not event.event.scope.startswith("repo.content"):
        return f"{event.event.action} of {event.event.scope} of a {event.repo.type} is no new content of a model"
    entry = next((each for each in catalogue.entries if _is_of(each, event.repo.name)), None)
    if entry is None:
        return f"the catalogue does not list {event.repo.name}"
    commit = _commit(entry, event)
    if commit is None:
        return f"nothing was pushed to revision {entry.revision} of {entry.repo_id}"
    return Push(model=entry.repo_id, commit=commit)


def _is_of(entry: Entry, repo: str) -> bool:
    """Say whether a repo is an entry's, which may be short: ``gpt2``."""
    name, repo = entry.repo_id.lower(), repo.lower()
    return name == repo or ("/" not in name and repo.endswith(f"/{name}"))


def _commit(entry: Entry, event: WebhookPayload) -> str | None:
    """Return the commit that an entry's revision points to now; None if the event does not move it, or removes it."""
    refs = (f"refs/heads/{entry.revision}", f"refs/tags/{entry.revision}")
    return next((each.newSha for each in event.updatedRefs or () if each.ref in refs), None)


def _require_secret(given: str | None, *, conn_id: str | None) -> None:
    """Refuse a request that does not have the secret; nothing of its body has been read then."""
    if conn_id is None:
        raise HTTPException(404, "no webhook is configured: set [onnx_fleet] webhook_conn_id")
    if given is None:
        raise HTTPException(401, "the header X-Webhook-Secret is missing: enter the secret in the webhook's settings")
    try:
        connection = BaseHook.get_connection(conn_id)
    except AirflowNotFoundException as err:
        log.error("there is no Airflow connection %r, which [onnx_fleet] webhook_conn_id names: create it", conn_id)
        raise HTTPException(503, "the webhook has no secret; the api-server's log says why") from err
    secrets = [each for each in (connection.password, connection.extra_dejson.get(OLD_SECRET)) if each]
    if not secrets:
        log.error("the Airflow connection %r has no password: enter the webhook's secret there", conn_id)
        raise HTTPException(503, "the webhook has no secret; the api-server's log says why")
    # Each is compared, so that the time does not tell which of them it was.
    alike = [hmac.compare_digest(given.encode("latin-1"), str(secret).encode()) for secret in secrets]
    if True not in alike:
        raise HTTPException(403, "the secret in X-Webhook-Secret is not the one of this deployment")


def _require_room(limiter: MovingWindowRateLimiter) -> None:
    if not limiter.hit(_RATE, _CALLER):
        wait_s = max(1, math.ceil(limiter.get_window_stats(_RATE, _CALLER).reset_time - time.time()))
        raise HTTPException(
            429,
            f"more than {PER_MINUTE} events in a minute; hub_watch finds the others",
            headers={"Retry-After": str(wait_s)},
        )


async def _body(request: Request) -> bytes:
    """Return the body of a request; it is counted as it comes, whatever its headers say of its size."""
    data = bytearray()
    try:
        async with asyncio.timeout(BODY_SECONDS):
            async for chunk in request.stream():
                data += chunk
                if len(data) > BODY_BYTES:
                    raise HTTPException(413, f"an event has at most {BODY_BYTES} bytes")
    except TimeoutError as err:
        raise HTTPException(408, f"the event was not there after {BODY_SECONDS:.0f} s") from err
    except ClientDisconnect as err:
        raise HTTPException(400, "the event ended early") from err
    return bytes(data)


def _event(body: bytes) -> WebhookPayload | str:
    """Return an event, or the reason why it is of a kind that the Hub's client does not know, such as of a bucket."""
    try:
        return WebhookPayload.model_validate_json(body)
    except ValidationError as err:
        faults = [
            (".".join(map(str, fault["loc"])) or "the body", fault["type"], fault["msg"]) for fault in err.errors()
        ]
        why = "; ".join(f"{where}: {message}" for where, _, message in faults[:5])
        if all(kind == "literal_error" and where != "webhook.version" for where, kind, _ in faults):
            return why
        raise HTTPException(422, f"this is no event of the Hub's webhooks, version 3: {why}") from err


def _answer(event: WebhookPayload, *, catalogue: Path) -> Response:
    """Start the run that an event asks for, and say what became of it."""
    try:
        found = pushed(event, _catalogue(catalogue, _state(catalogue)))
    except CatalogueInvalid as err:
        log.error("an event of the Hub's webhooks starts nothing: %s", err)
        raise HTTPException(503, "the catalogue cannot be read; the api-server's log says why") from err
    if isinstance(found, str):
        return _ignored(found)
    run_id = _waiting(found)
    if run_id is None:
        run_id = found.run_id
        try:
            _start(found, catalogue=catalogue)
            log.info("%s@%s was pushed: run %s of %s is started", found.model, found.commit, run_id, run_params.FLEET)
            return JSONResponse({"state": "started", "run_id": run_id}, status_code=202)
        except (DagRunAlreadyExists, IntegrityError):
            pass  # the same event came before, or at this moment to another process
    return JSONResponse({"state": "already", "run_id": run_id})


def _ignored(reason: str) -> Response:
    return JSONResponse({"state": "ignored", "reason": reason}, status_code=202)


def _state(path: Path) -> tuple[int, int]:
    """Return what tells whether a file was written again; an absent one is the reader's to report."""
    if not path.exists():
        return 0, 0
    found = path.stat()
    return found.st_mtime_ns, found.st_size


@lru_cache(maxsize=1)
def _catalogue(path: Path, state: tuple[int, int]) -> Catalogue:
    """Read the catalogue when it has changed: a large one takes seconds."""
    return reader.load(path)


def _waiting(push: Push) -> str | None:
    """Return the run of a model that has not begun: it takes the commit that is the newest when it does."""
    asked = (
        select(DagRun.run_id)
        .where(
            DagRun.dag_id == run_params.FLEET,
            DagRun.state == DagRunState.QUEUED,
            DagRun.run_id.startswith(push.runs, autoescape=True),
        )
        .limit(1)
    )
    with create_session() as session:
        return session.scalar(asked)


def _start(push: Push, *, catalogue: Path) -> None:
    try:
        trigger_dag(
            run_params.FLEET,
            triggered_by=DagRunTriggeredByType.REST_API,
            triggering_user_name=_CALLER,
            run_id=push.run_id,
            conf=run_params.of_models([push.model], catalogue=str(catalogue)),
        )
    except DagNotFound as err:
        log.error("an event of the Hub's webhooks starts nothing: %s", err)
        raise HTTPException(503, f"Airflow does not know {run_params.FLEET}; is the dag-processor running?") from err

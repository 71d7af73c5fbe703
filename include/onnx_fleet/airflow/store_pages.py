"""The pages of the store in Airflow's own server: reports, pictures of validations and latencies, manifests, audits.

They are for people who may read the runs of fleet_reexport, and read-only: what may be asked for is told by the form of
its key. A page runs no script and asks for nothing from elsewhere, whoever wrote it.
"""

from __future__ import annotations

import logging
import re
from typing import Final

from airflow.api_fastapi.auth.managers.models.resource_details import DagAccessEntity
from airflow.api_fastapi.core_api.security import requires_access_dag
from fastapi import Depends, FastAPI, HTTPException, Response

from onnx_fleet.airflow import connections, settings
from onnx_fleet.errors import BundleNotFound, OnnxFleetError, Retryable, UnsafeModel
from onnx_fleet.store import layout

log = logging.getLogger(__name__)

_NAME: Final = r"[^/]+"
_SERVED: Final = re.compile(
    "|".join(
        [
            rf"reports/{_NAME}\.(html|json)",
            rf"reports/{_NAME}/{_NAME}/{_NAME}\.(svg|json)",
            layout.MANIFEST_KEY.pattern,
            rf"{layout.MODELS}{_NAME}/{_NAME}/[0-9a-f]{{8}}-[0-9a-f]{{8}}/reports/{_NAME}\.(svg|json)",
            rf"{layout.AUDITS}{_NAME}/{_NAME}/{_NAME}/{_NAME}\.json",
        ]
    )
)
"""The pattern of the keys that are shown."""

_TYPES: Final = {"html": "text/html; charset=utf-8", "svg": "image/svg+xml", "json": "application/json"}
_HEADERS: Final = {
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none';"
    " frame-ancestors 'self'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "private, no-cache",
}


def app() -> FastAPI:
    """Make the application that the plugin hangs into Airflow's server."""
    made = FastAPI(title="onnx-fleet", docs_url=None, redoc_url=None, openapi_url=None)
    may_read_runs = requires_access_dag("GET", DagAccessEntity.RUN, param_dag_id="fleet_reexport")
    made.get("/store/{key:path}", dependencies=[Depends(may_read_runs)])(show)
    return made


def show(key: str) -> Response:
    """Return an object of the store as a browser shows it."""
    if not _SERVED.fullmatch(key):
        raise HTTPException(404, "no page of onnx-fleet")
    try:
        data = connections.store(settings.read()).read(key)
    except (BundleNotFound, UnsafeModel) as err:
        why = f"{key} is not in the store; a report is written when the task report of its run ends"
        raise HTTPException(404, why) from err
    except OnnxFleetError as err:
        log.warning("%s cannot be shown: %s: %s", key, type(err).__name__, err)
        status = 503 if isinstance(err, Retryable) else 500
        why = f"the store cannot be read ({type(err).__name__}); the api-server's log says why"
        raise HTTPException(status, why) from err
    return Response(data, media_type=_TYPES[key.rpartition(".")[2]], headers=_HEADERS)

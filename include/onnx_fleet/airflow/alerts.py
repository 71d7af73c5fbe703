"""Tell people of a run that failed or is late, by whichever of Airflow's notifiers the deployment chooses.

Airflow calls ``failed`` in its dag-processor. It calls ``late`` in its triggerer, since not every executor runs
callbacks of deadlines: the KubernetesExecutor of Airflow 3.3.2 does not.
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import quote

from airflow.sdk import BaseNotifier
from airflow.sdk.configuration import conf
from airflow.sdk.definitions.callback import AsyncCallback
from airflow.sdk.definitions.deadline import DeadlineAlert, DeadlineReference
from airflow.sdk.exceptions import AirflowConfigException

from onnx_fleet.airflow import settings, store_links
from onnx_fleet.airflow.settings import FleetSettings

log = logging.getLogger(__name__)

ALERT: Final = "alert"
"""What the templates of ``[onnx_fleet] alert_options`` call the text."""
_UNDER_WAY: Final = ("queued", "running")


def options(wanted: FleetSettings) -> dict[str, Any]:
    """Return what a DAG says to alert people when a run of it fails, as arguments of ``@dag``.

    Raises:
        AirflowConfigException: the notifier cannot be made as it is configured.
    """
    return {} if _notifier(wanted) is None else {"on_failure_callback": failed}


def deadline(wanted: FleetSettings) -> dict[str, Any]:
    """Return what a DAG says to alert people when a run of it is late, likewise."""
    if wanted.deadline is None:
        return {}
    reference = DeadlineReference.DAGRUN_QUEUED_AT
    return {"deadline": DeadlineAlert(reference=reference, interval=wanted.deadline, callback=AsyncCallback(late))}


def failed(context: Mapping[str, Any]) -> None:
    """Tell of a run that failed, with its note: the models and why, and the link to the report."""
    notifier = _notifier(settings.read())
    if notifier is None:
        return
    dag_run = context.get("dag_run")
    note = getattr(dag_run, "note", None) or f"Airflow's reason is {context.get('reason')}; it has no note"
    notifier({**context, ALERT: _text(context["dag"].dag_id, context["run_id"], f"failed. {note}")})


async def late(context: Mapping[str, Any]) -> None:
    """Tell of a run that has not ended at its deadline.

    Args:
        context: what Airflow has for callbacks of deadlines: ``dag_run`` and ``deadline``, as JSON.
    """
    run = context["dag_run"]
    dag_id, run_id = run["dag_id"], run["dag_run_id"]
    notifier = _notifier(settings.read())
    if notifier is None or run["state"] not in _UNDER_WAY:  # Airflow keeps the deadline of a run that failed
        return
    alert = _text(dag_id, run_id, f"is late: it should have ended by {context['deadline']['deadline_time']}")
    log.info("%s", alert)
    told = {**context, ALERT: alert}
    if type(notifier).async_notify is BaseNotifier.async_notify:
        await asyncio.to_thread(notifier, told)
    else:
        notifier.context = told  # type: ignore[assignment]  # a callback of a deadline has no more of it
        await notifier


def _notifier(wanted: FleetSettings) -> BaseNotifier | None:
    """Make the notifier that is configured; None where there is none."""
    if wanted.alert_notifier is None:
        return None
    kind = conf.getimport(settings.SECTION, "alert_notifier")
    if not (isinstance(kind, type) and issubclass(kind, BaseNotifier)):
        raise AirflowConfigException(
            f"[{settings.SECTION}] alert_notifier: {wanted.alert_notifier!r} is no notifier; name a class such as"
            " airflow.providers.smtp.notifications.smtp.SmtpNotifier"
        )
    try:
        return kind(**wanted.alert_options)
    except TypeError as err:
        raise AirflowConfigException(
            f"[{settings.SECTION}] alert_options do not fit {wanted.alert_notifier}: {err}"
        ) from err


def _text(dag_id: str, run_id: str, what: str) -> str:
    """Return an alert in Markdown; the links in a note, which are relative to Airflow's pages, become whole."""
    base = conf.get("api", "base_url", fallback="http://localhost:8080").rstrip("/")
    whole = re.sub(rf"\]\((?={store_links.PREFIX}/)", f"]({base}/", what)
    return f"{dag_id}: run {run_id} {whole}\n\n{base}/dags/{dag_id}/runs/{quote(run_id)}"

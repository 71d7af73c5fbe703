"""The tasks that bring what happens to registries: choose the sinks, deliver to each by itself."""

from __future__ import annotations

import logging
from datetime import UTC, datetime
from typing import Any, Final

from airflow.sdk import AssetOrTimeSchedule, CronTriggerTimetable, get_current_context, task

from onnx_fleet import errors, jsonio
from onnx_fleet.airflow import assets, connections, retries, run_notes, run_params
from onnx_fleet.airflow.settings import FleetSettings
from onnx_fleet.errors import OnnxFleetError
from onnx_fleet.jsonio import Json
from onnx_fleet.sinks import configuration, delivery
from onnx_fleet.sinks.configuration import ConfiguredSink

log = logging.getLogger(__name__)

_NAME: Final = "{{ task.op_kwargs['name'] }}"


def schedule(settings: FleetSettings) -> Any:
    """Return when sinks are delivered to: after publications, and every now and then for what else has happened."""
    if settings.sinks is None:
        return None
    if settings.sinks_schedule is None:
        return [assets.FLEET]
    timetable = CronTriggerTimetable(settings.sinks_schedule, timezone="UTC")
    return AssetOrTimeSchedule(timetable=timetable, assets=[assets.FLEET])


def delivers(*, settings: FleetSettings) -> None:
    """Wire the tasks into the DAG that is being defined; each sink has a task, so that it is retried by itself."""

    def choose() -> list[str]:
        with run_notes.of_failure():
            run_params.require_known()
            return _choose(settings)

    def deliver(name: str) -> Json:
        return _deliver(name, settings=settings)

    options = retries.options(settings)
    names = task(**options)(choose)()
    task(map_index_template=_NAME, **options)(deliver).expand(name=names)


def _sinks(settings: FleetSettings, names: list[str]) -> tuple[ConfiguredSink, ...]:
    if settings.sinks is None:
        log.info("[onnx_fleet] sinks names no file: there is nothing to deliver to")
        return ()
    return configuration.chosen(configuration.load(settings.sinks, secrets=connections.secret), names)


def _choose(settings: FleetSettings) -> list[str]:
    """Return the names of the sinks to deliver to, each set back to a time where the run asks for a replay."""
    params = get_current_context()["params"]
    sinks = _sinks(settings, run_params.patterns(params["names"]))
    if params["replay_since"]:
        said, store = datetime.fromisoformat(params["replay_since"]), connections.store(settings)
        since = said if said.tzinfo else said.replace(tzinfo=UTC)
        for each in sinks:
            set_back = delivery.replay(each, store=store, since=since)
            log.info("%s: %s", each.name, f"set back to {since}" if set_back else f"is not behind {since} yet")
    return [each.name for each in sinks]


def _deliver(name: str, *, settings: FleetSettings) -> Json:
    """Deliver to one sink.

    Raises:
        OnnxFleetError: the error for which its events wait, as its own class.
    """
    (sink,) = _sinks(settings, [name])
    done = delivery.run(sink, store=connections.store(settings))
    if done.error:
        message = f"{name}: {done.message}"
        raise errors.named(done.error, message) or OnnxFleetError(f"{message} ({done.error})")
    return jsonio.to_json(done)

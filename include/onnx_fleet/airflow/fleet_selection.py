"""The part of the catalogue that a run of fleet_reexport takes, from its parameters."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from onnx_fleet.airflow import run_context, run_params
from onnx_fleet.airflow.run_context import Run
from onnx_fleet.planning.catalogue import reader
from onnx_fleet.runs import run_report, selection
from onnx_fleet.runs.selection import Selection, Wanted


def wanted(run: Run) -> Wanted:
    """Read the catalogue, and return what the run is asked for of it.

    Raises:
        CatalogueInvalid: the catalogue has faults, or a pattern matches nothing.
        BundleNotFound: there is no report of the run whose failures are wanted.
        HubUnavailable, HubRateLimited, ModelGated: the Hub cannot be asked.
    """
    params: Any = run.params
    file = reader.load(Path(params["catalogue"]))
    selected = Selection(
        only=tuple(run_params.patterns(params["only"])),
        allow_unmatched=params["allow_unmatched"],
        since=datetime.fromisoformat(params["since"]).replace(tzinfo=UTC) if params["since"] else None,
        retry_failed=_label(params["retry_failed"], run) if params["retry_failed"] else None,
    )
    return selection.wanted(file, selected, services=run.services, force=params["force"])


def _label(named: str, run: Run) -> str:
    """Return what the report calls a run: the name itself where there is such a report, else a run id of this DAG."""
    named = named.strip()
    return named if run.services.store.stat(run_report.key(named)) else run_context.label(run.dag_id, named)

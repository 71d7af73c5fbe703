"""The buttons of a task, in Airflow's words operator extra links: to what the store has of its run and its model.

They lead to store_pages.py, by addresses without a slash in front: Airflow's pages say what those are relative to, so
that they hold behind any ``[api] base_url``, and tasks need not know it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final
from urllib.parse import quote

from airflow.sdk import BaseOperatorLink

from onnx_fleet.airflow import run_context
from onnx_fleet.entities.provider import CPU, report_name
from onnx_fleet.jsonio import Json
from onnx_fleet.runs import report_page, run_report
from onnx_fleet.store import layout

PREFIX: Final = "onnx-fleet"
"""What the addresses of our pages begin with, below Airflow's own."""
BEFORE_VALIDATION: Final = ("resolve", "plan", "export")
"""The steps whose failure leaves no validation to look at."""


def address(key: str) -> str:
    """Return the address of the page that shows an object of the store."""
    return f"{PREFIX}/store/{quote(key)}"


def report_address(dag_id: str, run_id: str) -> str:
    """Return the address of a run's report."""
    return address(report_page.key_of(run_report.key(run_context.label(dag_id, run_id))))


class ReportLink(BaseOperatorLink):
    """A button that leads to the report of the task's run, which is there when the report task is through."""

    name = "Report"

    def get_link(self, operator: Any, *, ti_key: Any) -> str:
        return report_address(ti_key.dag_id, ti_key.run_id)


class ResultLink(BaseOperatorLink):
    """A button that leads to what a task's result tells of; a task that failed has none."""

    def __init__(self, name: str, key_in: Callable[[Json, str], str | None]) -> None:
        """Make a button.

        Args:
            key_in: returns the key in the store, given the task's result and the label of its run.
        """
        self._name = name
        self._key_in = key_in

    @property
    def name(self) -> str:
        return self._name

    @property
    def xcom_key(self) -> str:
        return f"link_{self._name.lower()}"

    def get_link(self, operator: Any, *, ti_key: Any) -> str:
        """Return the address; Airflow shows no button where it is empty.

        Args:
            ti_key: the task instance that has ended: Airflow calls this in its process.
        """
        if ti_key.state != "success":
            return ""
        result = ti_key.xcom_pull(task_ids=ti_key.task_id, map_indexes=ti_key.map_index)
        key = self._key_in(result, run_context.label(ti_key.dag_id, ti_key.run_id)) if result else None
        return address(key) if key else ""


def manifest_in(result: Mapping[str, Any], label: str) -> str | None:
    """Return the key of the manifest of the bundle that a publication or a record is of."""
    return layout.manifest_key(result["model_id"], result["version"]) if result["location"] else None


def validation_in(result: Mapping[str, Any], label: str) -> str | None:
    """Return the key of the picture of a model's validation: in its bundle, or what its run kept of it."""
    picture = f"{report_name('validation', CPU)}.svg"
    if result["location"]:
        return f"{layout.bundle_prefix(result['model_id'], result['version'])}reports/{picture}"
    if result["step"] in BEFORE_VALIDATION:
        return None
    return f"{run_report.kept_prefix(label, result['model_id'])}{picture}"


REPORT: Final = ReportLink()
MANIFEST: Final = ResultLink("Manifest", manifest_in)
VALIDATION: Final = ResultLink("Validation", validation_in)
OF_MODEL: Final = (REPORT, MANIFEST, VALIDATION)
"""The buttons of the tasks whose result tells what became of a model."""


def attach(task: Any, links: tuple[BaseOperatorLink, ...]) -> Any:
    """Give buttons to a task that was called, and return it."""
    task.operator.operator_extra_links = links
    return task

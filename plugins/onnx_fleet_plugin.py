"""What onnx-fleet adds to Airflow: a pool, notes on runs, pages of the store; the code lives in onnx_fleet.airflow.

Airflow puts this file into ``sys.modules`` under its stem, so the name must be one that nothing imports.
"""

from __future__ import annotations

from functools import cached_property
from typing import Any

from airflow.plugins_manager import AirflowPlugin

from onnx_fleet.airflow.note_listener import NotesOfRuns
from onnx_fleet.airflow.pools import EnsurePool


class OnnxFleetPlugin(AirflowPlugin):
    """Registers what is found in the class attributes."""

    name = "onnx_fleet"
    listeners = [EnsurePool(), NotesOfRuns()]  # noqa: RUF012  # Airflow's own attribute

    @cached_property
    def fastapi_apps(self) -> list[dict[str, Any]]:
        """The pages of the store; Airflow's server alone asks for them, and no other process needs what they import."""
        from onnx_fleet.airflow import store_links, store_pages

        return [{"name": "onnx-fleet", "app": store_pages.app(), "url_prefix": f"/{store_links.PREFIX}"}]

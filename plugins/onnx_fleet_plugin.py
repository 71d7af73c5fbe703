"""What onnx-fleet adds to Airflow: a pool, notes on runs, pages of the store, an endpoint for webhooks of the Hub.

The code lives in onnx_fleet.airflow.

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
        """What Airflow's server alone asks for; no other process needs what that imports."""
        from onnx_fleet.airflow import hub_webhook, store_links, store_pages

        pages = store_pages.app()
        hub_webhook.attach(pages)
        return [{"name": "onnx-fleet", "app": pages, "url_prefix": f"/{store_links.PREFIX}"}]

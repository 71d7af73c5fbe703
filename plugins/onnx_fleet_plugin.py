"""What onnx-fleet adds to Airflow; the code lives in onnx_fleet.airflow.

Airflow puts this file into ``sys.modules`` under its stem, so the name must be one that nothing imports.
"""

from __future__ import annotations

from airflow.plugins_manager import AirflowPlugin

from onnx_fleet.airflow.pools import EnsurePool


class OnnxFleetPlugin(AirflowPlugin):
    """Registers what is found in the class attributes."""

    name = "onnx_fleet"
    listeners = [EnsurePool()]  # noqa: RUF012  # Airflow's own attribute

"""Registries that are real. `make test-consumers` installs MLflow, and says where it is."""

from __future__ import annotations

import os

collect_ignore = [] if "CONSUMERS" in os.environ else ["test_mlflow_registry.py"]

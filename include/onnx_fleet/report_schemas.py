"""JSON Schemas of the reports in a bundle, and of the audits beside it.

``python -m onnx_fleet.report_schemas docs`` refreshes the schema files.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from onnx_fleet import jsonio
from onnx_fleet.audit import Audit
from onnx_fleet.entities.latency_report import LatencyReport
from onnx_fleet.entities.validation_report import ValidationReport

REPORTS: Mapping[str, type] = {"audit": Audit, "latency": LatencyReport, "validation": ValidationReport}


def json_schema(name: str) -> dict[str, Any]:
    """The JSON Schema of ``reports/<name>.json``, and of the one of another provider; or of an audit's result."""
    schema = jsonio.adapter(REPORTS[name]).json_schema()
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema, "title": f"onnx-fleet {name} report"}


def main(arguments: list[str]) -> None:
    """Write each schema into the folder that is named."""
    (folder,) = arguments
    for name in REPORTS:
        text = json.dumps(json_schema(name), indent=2) + "\n"
        Path(folder, f"{name}.schema.json").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])

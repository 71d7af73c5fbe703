"""JSON Schemas of the catalogue, of a bundle's manifest and reports, and of what a store has beside bundles.

``python -m onnx_fleet.schemas docs`` refreshes the schema files.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from onnx_fleet import jsonio
from onnx_fleet.bundles import manifest
from onnx_fleet.bundles.channel_history import Row
from onnx_fleet.bundles.channels import Channel
from onnx_fleet.bundles.feed_document import FeedIndex, FeedShard
from onnx_fleet.bundles.fleet_event import CloudEvent
from onnx_fleet.bundles.licence_answers import LicenceAnswers
from onnx_fleet.bundles.tombstones import Tombstone
from onnx_fleet.entities.latency_report import LatencyReport
from onnx_fleet.entities.validation_report import ValidationReport
from onnx_fleet.planning.catalogue import schema as catalogue_schema
from onnx_fleet.runs.audit import Audit


def _titled(title: str, kind: type) -> dict[str, Any]:
    schema = jsonio.adapter(kind).json_schema()
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema, "title": f"onnx-fleet {title}"}


SCHEMAS: Mapping[str, Callable[[], dict[str, Any]]] = {
    "audit": partial(_titled, "audit report", Audit),
    "catalogue": catalogue_schema.json_schema,
    "channel": partial(_titled, "channel", Channel),
    "event": partial(_titled, "event", CloudEvent),
    "feed": partial(_titled, "index of the feed", FeedIndex),
    "feed-shard": partial(_titled, "shard of the feed", FeedShard),
    "history": partial(_titled, "row of a channel's history", Row),
    "latency": partial(_titled, "latency report", LatencyReport),
    "licences": partial(_titled, "answers about the licences of a model", LicenceAnswers),
    "manifest": manifest.json_schema,
    "tombstone": partial(_titled, "tombstone of a removed version", Tombstone),
    "validation": partial(_titled, "validation report", ValidationReport),
}
"""By the name of the schema's file; that of a report is of ``reports/<name>.json`` and of another provider's too."""


def json_schema(name: str) -> dict[str, Any]:
    """The JSON Schema of a name."""
    return SCHEMAS[name]()


def main(arguments: list[str]) -> None:
    """Write each schema into the folder that is named."""
    (folder,) = arguments
    for name in SCHEMAS:
        text = json.dumps(json_schema(name), indent=2) + "\n"
        Path(folder, f"{name}.schema.json").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])

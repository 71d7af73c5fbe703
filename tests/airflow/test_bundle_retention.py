"""The DAG bundle_retention: what a run says that it would remove, and what it removes when it is told to."""

from __future__ import annotations

import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from fixtures.airflow import AirflowHome
from fixtures.fleet_options import in_folder
from fixtures.stages import PROVENANCE, tiny_stage, work_item
from onnx_fleet.bundles import tombstones
from onnx_fleet.bundles.listing import list_models
from onnx_fleet.bundles.publish import publish
from onnx_fleet.bundles.stage import Stage
from onnx_fleet.formatting import human_bytes
from onnx_fleet.store import layout, open_store

pytestmark = [pytest.mark.airflow, pytest.mark.timeout(600)]

OLD, NEXT, NEW = (f"01234567-{digit * 8}" for digit in "abc")


def test_a_run_says_what_would_go_and_removes_it_where_it_is_no_dry_run(
    tmp_path: Path, airflow_home: AirflowHome
) -> None:
    options = in_folder(tmp_path, hub="http://127.0.0.1:9")
    store, then = open_store(str(tmp_path / "store")), datetime.now(UTC) - timedelta(days=100)
    for number, version in enumerate((OLD, NEXT, NEW)):
        stage = tiny_stage(tmp_path / version, item=work_item(fingerprint=version[-1] * 64))
        made_at = then + timedelta(hours=number)
        publish(Stage.open(stage), store=store, provenance=PROVENANCE, created_at=made_at)
    for path in (tmp_path / "store").rglob("*"):
        os.utime(path, (then.timestamp(), then.timestamp()))
    (tmp_path / "fleet.yaml").write_text("models: [acme/tiny]\nretention: {keep_last: 1}\n")
    conf = {"catalogue": str(tmp_path / "fleet.yaml")}
    size = human_bytes(sum(info.size_bytes for info in store.list(layout.bundle_prefix("acme/tiny", OLD))))

    shown = airflow_home.run("bundle_retention", conf, options=options)
    assert (shown.state, shown.results["collect"]) == ("success", f"would remove 1 version, {size}")
    assert shown.note
    assert shown.note.startswith(f"[would remove 1 version, {size}](onnx-fleet/store/reports/bundle_retention__")
    assert list_models(store)[0].versions == (OLD, NEXT, NEW)

    done = airflow_home.run("bundle_retention", {**conf, "dry_run": False}, options=options)
    assert (done.state, done.results["collect"]) == ("success", f"removed 1 version, {size}"), done.log
    assert list_models(store)[0].versions == (NEXT, NEW)
    stone = tombstones.find(store, "acme/tiny", OLD)
    assert stone is not None
    assert (stone.by.kind, stone.by.name.partition("__")[0]) == ("run", "bundle_retention")
    page = store.read(f"reports/bundle_retention__{done.run_id.replace(':', '_').replace('+', '_')}.html").decode()
    assert f"<span>{OLD}</span>" in page
    assert "2: a channel points to it, or would go back to it first" in page

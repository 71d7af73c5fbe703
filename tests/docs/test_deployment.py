"""The page about deployment: the lines that delete a version leave a store in which everything else is as it was."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from datetime import timedelta
from pathlib import Path

from fixtures.stages import NOW, PROVENANCE, tiny_stage, work_item
from onnx_fleet.bundles import feed, verify
from onnx_fleet.bundles.bundle import Ref
from onnx_fleet.bundles.publish import publish
from onnx_fleet.bundles.stage import Stage
from onnx_fleet.store import open_store

PAGE = (Path(__file__).parents[2] / "docs/deployment.md").read_text()


def test_a_version_that_is_deleted_as_the_page_says_is_gone_and_nothing_else_is(tmp_path: Path) -> None:
    folder = tmp_path / "fleet"
    store = open_store(str(folder))
    old, in_use = (
        publish(
            Stage.open(tiny_stage(tmp_path / digit, item=work_item(fingerprint=digit * 64))),
            store=store,
            provenance=PROVENANCE,
            created_at=NOW + timedelta(hours=number),
        ).version
        for number, digit in enumerate("ab")
    )
    feed.rebuild(store, now=NOW)
    (lines,) = re.findall(r"test_deployment.py runs this -->\n```sh\n(.*?)```", PAGE, flags=re.DOTALL)
    for said, meant in (("/srv/fleet", str(folder)), ("org/name", "acme/tiny"), ("OLD", old), ("IN-USE", in_use)):
        assert said in lines
        lines = lines.replace(said, meant)

    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    subprocess.run(["sh", "-euc", lines], env={**os.environ, "PATH": path}, check=True)

    (model,) = feed.read(store)
    assert ([each.version for each in model.versions], model.problems) == ([in_use], ())
    assert [each.version for each in model.channels] == [in_use]
    assert verify.verify(Ref.parse("acme/tiny"), store=store).passed
    assert [info.key for info in store.list("models/acme/tiny/") if old in info.key] == []

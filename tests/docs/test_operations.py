"""The page about operations: what it says of promotion and rollback is what the commands print."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
from datetime import timedelta
from pathlib import Path

from fixtures.stages import NOW, PROVENANCE, tiny_stage, work_item
from onnx_fleet.bundles.publish import publish
from onnx_fleet.bundles.stage import Stage
from onnx_fleet.entities.channel_move import Actor
from onnx_fleet.store import open_store

PAGE = (Path(__file__).parents[2] / "docs/operations.md").read_text()
RUNS = ("fleet_reexport__scheduled__2026-11-20T03:00:00+00:00", "fleet_reexport__scheduled__2026-11-21T03:00:00+00:00")
CALLS = """
import json, shlex, sys
from typer.testing import CliRunner
from onnx_fleet.cli import app
calls = [CliRunner().invoke(app, shlex.split(line)[1:]) for line in json.load(sys.stdin)]
print(json.dumps([done.output if done.exit_code else done.stdout for done in calls]))
"""
"""One process for all lines, since each would import the same."""
TIME = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d")


def printed(folder: Path, lines: list[str]) -> list[str]:
    """What lines of the page print one after the other, with the page's user and machine, in a terminal like its."""
    done = subprocess.run(
        [sys.executable, "-c", CALLS],
        env={**os.environ, "ONNX_FLEET_STORE": str(folder), "LOGNAME": "ada", "COLUMNS": "120"},
        input=json.dumps(lines),
        capture_output=True,
        text=True,
        check=True,
    )
    return [each.replace(f"ada@{socket.gethostname()}", "ada@build-7") for each in json.loads(done.stdout)]


def same(text: str) -> list[list[str]]:
    """The words of each line: how wide columns are depends on the machine's name."""
    return [TIME.sub("WHEN", line).split() for line in text.splitlines()]


def test_the_sequence_of_the_page_prints_what_the_page_says(tmp_path: Path) -> None:
    store = open_store(str(tmp_path / "store"))
    for number, (digit, run) in enumerate(zip("ab", RUNS, strict=True)):
        for model_id in ("acme/small", "acme/tiny"):
            item = work_item(model_id=model_id, fingerprint=digit * 64)
            publish(
                Stage.open(tiny_stage(tmp_path / f"{model_id[5:]}-{digit}", item=item)),
                store=store,
                provenance=PROVENANCE,
                created_at=NOW + timedelta(days=number),
                by=Actor(kind="run", name=run),
            )
    section = PAGE[PAGE.index("test_operations.py runs these lines") : PAGE.index("## Keep a served folder current")]
    blocks = "\n".join(re.findall(r"```console\n(.*?)```", section, flags=re.DOTALL))
    told = re.findall(r"^\$ (.*)\n((?:(?!\$ ).*\n)*)", blocks, flags=re.MULTILINE)
    assert len(told) > 5
    outputs = printed(tmp_path / "store", [line for line, _shown in told])
    for (line, shown), output in zip(told, outputs, strict=True):
        assert same(output) == same(shown.strip("\n")), f"$ {line}\n{output}"

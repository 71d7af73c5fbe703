"""What a command imports: time and memory that every call pays, so that only what it needs is there."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from onnx_fleet.runs import services
from onnx_fleet_demo.hub_server import HubServer
from onnx_fleet_demo.models import CLASSIFIER

HEAVY = frozenset({"torch", "transformers", "onnx_ir", "onnxscript", "sympy", "onnxruntime", "matplotlib"})
"""Nothing but tracing, converting a tokenizer, validating and measuring needs these."""
FOR_SOME_COMMANDS = frozenset({"numpy", "onnx", "boto3", "huggingface_hub", "ruamel", "tenacity", "airflow"})

COMMAND = """
import json, sys
sys.argv = ["onnx-fleet", *sys.argv[1:]]
from onnx_fleet import cli
if len(sys.argv) > 1:
    cli.app(standalone_mode=False)
print(json.dumps(sorted({name.partition(".")[0] for name in sys.modules})))
"""


def imported(*arguments: str | Path, **settings: str) -> set[str]:
    """The packages that are there when a command has run; without arguments, when the command line is imported."""
    done = subprocess.run(
        [sys.executable, "-c", COMMAND, *arguments],
        env={**os.environ, **settings},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return set(json.loads(done.stdout.splitlines()[-1]))


def test_the_command_line_imports_what_every_command_needs_and_no_more() -> None:
    assert imported() & (HEAVY | FOR_SOME_COMMANDS) == set()


@pytest.fixture(scope="module")
def settings(demo_hub_server: HubServer, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """A local Hub and a store in a folder."""
    home = tmp_path_factory.mktemp("imports")
    (home / "store").mkdir()
    return {
        "HF_ENDPOINT": demo_hub_server.url,
        "HF_HOME": str(home / "hf"),
        "ONNX_FLEET_STORE": str(home / "store"),
        "ONNX_FLEET_WORK_DIR": str(home / "work"),
    }


def test_every_module_that_a_process_to_fork_from_imports_is_there() -> None:
    assert [name for name in services.EXPORT_IMPORTS + services.STEP_IMPORTS if find_spec(name) is None] == []


def test_an_export_from_the_cache_imports_nothing_that_traces(settings: dict[str, str], tmp_path: Path) -> None:
    for _ in range(2):
        found = imported("export", CLASSIFIER, "--out", tmp_path / "made", **settings)

    exported = json.loads((tmp_path / "made" / ".onnx-fleet" / "export.json").read_bytes())
    assert exported["traced"] == "cached"
    assert found & HEAVY == set()

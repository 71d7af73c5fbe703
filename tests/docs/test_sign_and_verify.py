"""The page about operations: its lines about signatures are run, and print what the page says."""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
import sys
from pathlib import Path

from fixtures.stages import tiny_stage

PAGE = (Path(__file__).parents[2] / "docs/operations.md").read_text()
CALLS = """
import json, shlex, subprocess, sys
from click.testing import CliRunner
from model_signing._cli import main as model_signing
from typer.main import get_command
from onnx_fleet import cli
from onnx_fleet.errors import OnnxFleetError

def call(line):
    if "onnx-fleet " not in line and not line.startswith("model_signing"):
        return subprocess.run(["bash", "-c", line], check=True, capture_output=True, text=True).stdout
    words = shlex.split(subprocess.check_output(["bash", "-c", f'printf "%q " {line}'], text=True))
    env = dict([words.pop(0).split("=", 1)] if "=" in words[0] else [])
    command = model_signing if words[0] == "model_signing" else get_command(cli.app)
    done = CliRunner().invoke(command, words[1:], env=env)
    error = done.exception
    return f"{type(error).__name__}\\n{error}" if isinstance(error, OnnxFleetError) else done.output

print(json.dumps([call(line) for line in json.load(sys.stdin)]))
"""
"""One process for all lines, since each would import the same."""
CHANGING = ((re.compile(r"[0-9a-f]{64}|[0-9a-f]{12}(?=…)"), "KEY"), (re.compile(r"[\d.]+ kB"), "SIZE"))
STEP = re.compile(r"^\S+: (publish|pull|verify)\n", flags=re.MULTILINE)
"""A line for who waits, which a terminal overwrites."""


def same(text: str) -> list[str]:
    """The words of a text without what differs from key to key; the order of keys is that of their ids."""
    for pattern, name in CHANGING:
        text = pattern.sub(name, text)
    return sorted(re.split(r"; |\n", text.strip()))


def test_the_lines_about_signatures_print_what_the_page_says(tmp_path: Path) -> None:
    section = PAGE[PAGE.index("test_sign_and_verify.py runs these lines") : PAGE.index("## Users and roles")]
    tiny_stage(tmp_path / "stage")
    blocks = "\n".join(re.findall(r"```console\n(.*?)```", section, flags=re.DOTALL))
    told = re.findall(r"^\$ (.*)\n((?:(?!\$ ).*\n)*)", blocks, flags=re.MULTILINE)
    assert len(told) > 10
    for policy in re.findall(r"```yaml\n(.*?)```", section, flags=re.DOTALL):
        name = re.search(r"# (\S+)", policy)
        assert name
        (tmp_path / name[1]).write_text(policy)
    outputs = printed(tmp_path, [line for line, _shown in told[:-1]])
    revoked = tmp_path / "policy-revoked.yaml"
    key_id = hashlib.sha256((tmp_path / "ci.pub").read_bytes()).hexdigest()
    revoked.write_text(revoked.read_text().replace("KEY-ID-OF-CI", key_id))
    outputs += printed(tmp_path, [told[-1][0]])
    for (line, shown), output in zip(told, outputs, strict=True):
        assert same(output) == same(shown), f"$ {line}\n{output}"


def printed(folder: Path, lines: list[str]) -> list[str]:
    done = subprocess.run(
        [sys.executable, "-c", CALLS],
        env={**os.environ, "ONNX_FLEET_STORE": "store", "ONNX_FLEET_WORK_DIR": str(folder / "work"), "COLUMNS": "120"},
        input=json.dumps(lines),
        capture_output=True,
        text=True,
        check=False,
        cwd=folder,
    )
    assert done.returncode == 0, done.stderr
    found: list[str] = json.loads(done.stdout.splitlines()[-1])
    return [STEP.sub("", output.replace(f"{folder}/", "")) for output in found]

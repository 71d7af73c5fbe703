"""The page about serving: its commands lay out the demo's MiniLM, and it shows what they write."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
from typer.testing import CliRunner

from fixtures.arranged import published
from fixtures.exported import Exported
from onnx_fleet.cli import app

PAGE = (Path(__file__).parents[2] / "docs/serving.md").read_text()


def shown(language: str) -> str:
    (text,) = re.findall(rf"test_serving.py makes this -->\n```{language}\n(.*?)```", PAGE, flags=re.DOTALL)
    return str(text)


def test_the_commands_of_the_page_lay_out_what_the_page_shows(
    minilm: Exported, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = published(minilm, tmp_path)
    commands = re.findall(r"^onnx-fleet (pull .*MiniLM.* --to minilm --layout .*)$", PAGE, flags=re.MULTILINE)
    assert len(commands) == 2
    for number, command in enumerate(commands):
        (tmp_path / str(number)).mkdir()
        monkeypatch.chdir(tmp_path / str(number))
        done = CliRunner().invoke(app, [*shlex.split(command), "--store", store.address])
        assert done.exit_code == 0, done.output

    for folder in (tmp_path / "0/minilm", tmp_path / "1/minilm"):
        assert (folder / "models/all-MiniLM-L6-v2/config.pbtxt").read_text() == shown("")
        for path in re.findall(r"^    (1/\S+)", PAGE, flags=re.MULTILINE):
            assert (folder / "models/all-MiniLM-L6-v2" / path).is_file(), path
    service = (tmp_path / "1/minilm/inferenceservice.yaml").read_text()
    assert service == shown("yaml").replace("VERSION", minilm.stage.item.version)


def test_options_of_layouts_without_one_are_misuse(tmp_path: Path) -> None:
    for options in (["--variant", "q4"], ["--layout", "triton", "--storage-uri", "pvc://models/tiny"]):
        done = CliRunner().invoke(app, ["pull", "acme/tiny", "--to", "tiny", "--store", str(tmp_path), *options])
        assert done.exit_code == 2
        assert "--storage-uri to --layout kserve" in " ".join(done.output.replace("│", " ").split())
    done = CliRunner().invoke(app, ["pull", "acme/tiny", "--to", "tiny", "--store", str(tmp_path), "--layout", "other"])
    assert done.exit_code == 2

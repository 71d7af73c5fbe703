"""The page about operations: what it says of promotion, rollback and garbage is what the commands print."""

from __future__ import annotations

import os
import re
import socket
from datetime import UTC, datetime, timedelta
from pathlib import Path

from fixtures.printed_lines import printed
from fixtures.stages import NOW, PROVENANCE, tiny_stage, work_item
from onnx_fleet.bundles.publish import publish
from onnx_fleet.bundles.stage import Stage
from onnx_fleet.entities.channel_move import Actor
from onnx_fleet.store import open_store

PAGE = (Path(__file__).parents[2] / "docs/operations.md").read_text()
RUNS = ("fleet_reexport__scheduled__2026-11-20T03:00:00+00:00", "fleet_reexport__scheduled__2026-11-21T03:00:00+00:00")
TIME = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d")
SIZE = re.compile(r"\d+(\.\d)? k?B\b")


def same(text: str) -> list[list[str]]:
    """The words of each line: how wide columns are depends on the machine's name."""
    return [SIZE.sub("SIZE", TIME.sub("WHEN", line)).split() for line in text.splitlines()]


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
    require_printed(tmp_path / "store", begin="## Promote, and roll back", end="## Collect garbage", lines=6)


def test_what_is_old_is_collected_as_the_page_says(tmp_path: Path) -> None:
    store, then = open_store(str(tmp_path / "store")), datetime.now(UTC) - timedelta(days=200)
    for number, digit in enumerate("abcd"):
        stage = tiny_stage(tmp_path / digit, item=work_item(fingerprint=digit * 64))
        made_at = then - timedelta(days=7 * (3 - number))
        publish(Stage.open(stage), store=store, provenance=PROVENANCE, created_at=made_at)
    for path in (tmp_path / "store").rglob("*"):
        os.utime(path, (then.timestamp(), then.timestamp()))
    require_printed(tmp_path / "store", begin="## Collect garbage", end="## Mirror into a registry", lines=2)


def test_an_answer_about_a_licence_is_kept_as_the_page_says(tmp_path: Path) -> None:
    begin, end = "## When a licence needs approval", "## Promote, and roll back"
    require_printed(tmp_path / "store", begin=begin, end=end, lines=3)


def require_printed(folder: Path, *, begin: str, end: str, lines: int) -> None:
    """A section's lines print what stands below them."""
    section = PAGE[PAGE.index(begin) : PAGE.index(end)]
    assert "test_operations.py runs these lines" in section
    blocks = "\n".join(re.findall(r"```console\n(.*?)```", section, flags=re.DOTALL))
    told = re.findall(r"^\$ (.*)\n((?:(?!\$ ).*\n)*)", blocks, flags=re.MULTILINE)
    assert len(told) == lines
    outputs = printed([line for line, _shown in told], ONNX_FLEET_STORE=str(folder), LOGNAME="ada")
    for (line, shown), done in zip(told, outputs, strict=True):
        output = done.text.replace(f"ada@{socket.gethostname()}", "ada@build-7")
        assert same(output) == same(shown.strip("\n")), f"$ {line}\n{output}"

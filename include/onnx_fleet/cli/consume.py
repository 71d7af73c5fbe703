"""The commands for those who use bundles: list, verify, pull."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.text import Text

from onnx_fleet import jsonio
from onnx_fleet.bundles import publish as publishing
from onnx_fleet.bundles import pull as pulling
from onnx_fleet.bundles import verify as verifying
from onnx_fleet.bundles.bundle import Ref
from onnx_fleet.bundles.channels import read as read_channel
from onnx_fleet.cli import step_display, terminal
from onnx_fleet.cli.options import Json, Store
from onnx_fleet.cli.settings import opened_store
from onnx_fleet.formatting import human_bytes

RefText = Annotated[
    str,
    typer.Argument(metavar="REF", help="ORG/NAME, ORG/NAME@CHANNEL or ORG/NAME@VERSION.", show_default=False),
]


def list_(
    model: Annotated[str | None, typer.Argument(help="Only this model: ORG/NAME.", show_default=False)] = None,
    store: Store = None,
    as_json: Json = False,
) -> None:
    """What is published: models, their versions, and where their channels point."""
    with opened_store(store) as opened:
        found = [each for each in publishing.list_models(opened) if model in (None, each.model_id)]
        pointers = {
            each.model_id: {name: read_channel(opened, each.model_id, name).version for name in each.channels}
            for each in found
        }
    if as_json:
        terminal.as_json(
            [
                {"model_id": each.model_id, "versions": list(each.versions), "channels": pointers[each.model_id]}
                for each in found
            ]
        )
        return
    if not found:
        terminal.say(f"nothing is published in {opened.address}" + (f" for {model}" if model else ""))
        return
    terminal.table(
        ("model", "version", "channels"),
        [
            (
                each.model_id,
                version,
                ", ".join(name for name, target in pointers[each.model_id].items() if target == version),
            )
            for each in found
            for version in each.versions
        ],
    )


def verify(ref: RefText, store: Store = None, as_json: Json = False) -> None:
    """Re-hash every file of a bundle against its manifest; exit status 1 names each bad file."""
    with opened_store(store) as opened, step_display.steps() as steps:
        steps.begin(ref, "verify")
        found = verifying.verify(Ref.parse(ref), store=opened, progress=steps.bytes_moved)
    if as_json:
        terminal.as_json({**jsonio.to_json(found), "passed": found.passed})
    elif found.passed:
        terminal.line(
            f"[green]intact[/] {found.model_id}@{found.version}: {found.files} files, {human_bytes(found.size_bytes)}",
        )
    else:
        terminal.table(
            ("file", "fault", "detail"),
            [(fault.path, Text(fault.fault, style="red"), fault.detail) for fault in found.faults],
            prose=("detail",),
            below=("detail",),
        )
        terminal.say(f"[red]corrupt[/] {found.location}; publish it again with --force, then move the channel")
    if not found.passed:
        raise typer.Exit(1)


def pull(
    ref: RefText,
    to: Annotated[Path, typer.Option(help="The folder to make.")],
    store: Store = None,
    as_json: Json = False,
) -> None:
    """Have a bundle in a folder, whole and verified, or not at all; an interrupted pull goes on where it was."""
    with opened_store(store) as opened, step_display.steps() as steps:
        steps.begin(ref, "pull")
        found = pulling.pull(Ref.parse(ref), store=opened, to=to, progress=steps.bytes_moved)
    if as_json:
        terminal.as_json({"model_id": found.bundle.model_id, "version": found.bundle.version, "to": str(to)})
    else:
        size = human_bytes(found.size_bytes)
        terminal.line(
            f"{found.bundle.model_id}@{found.bundle.version}: {len(found.files)} files, {size}, verified, in {to}",
        )

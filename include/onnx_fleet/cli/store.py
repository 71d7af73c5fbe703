"""The command for the store itself: store check."""

from __future__ import annotations

import typer
from rich.text import Text

from onnx_fleet import jsonio
from onnx_fleet.cli import terminal
from onnx_fleet.cli.options import Json, Store
from onnx_fleet.cli.settings import opened_store
from onnx_fleet.store import check as store_check
from onnx_fleet.store.capability import Capability, StoreCheck

store_app = typer.Typer(help="Find out what a store supports.", no_args_is_help=True)


@store_app.command("check")
def check(store: Store = None, as_json: Json = False) -> None:
    """Try what the store supports, with small objects under scratch/ that are removed again, and say what it means.

    The exit status is 1 where something is missing that onnx-fleet cannot do without.
    """
    with opened_store(store) as opened, terminal.console.status("asking the store") as progress:
        found = store_check.check(opened, trying=lambda name: progress.update(f"trying {_words(name)}"))
    if as_json:
        terminal.as_json(jsonio.to_json(found))
    else:
        _show(found)
    if not found.usable:
        raise typer.Exit(1)


def _show(found: StoreCheck) -> None:
    terminal.table(
        ("what", "supported", "seen", "what onnx-fleet does"),
        [(_words(name), _supported(each), each.seen, each.means) for name, each in found.capabilities.items()],
        prose=("seen", "what onnx-fleet does"),
        below=("seen", "what onnx-fleet does"),
    )
    missing = [_words(name) for name, each in found.capabilities.items() if each.needed and each.supported == "no"]
    if missing:
        terminal.paragraphs(f"\n{found.address} cannot be used as it is configured: {', '.join(missing)}")
    if found.left:
        terminal.paragraphs("\nthese objects of the check could not be removed:", *found.left)


def _words(name: str) -> str:
    return name.replace("_", " ")


def _supported(each: Capability) -> Text:
    colour = {"yes": "green", "no": "red" if each.needed else "yellow", "not tried": "yellow"}[each.supported]
    return Text(each.supported, style=colour)

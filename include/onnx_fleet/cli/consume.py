"""The commands for those who use bundles: list, verify, pull."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer
from rich.text import Text

from onnx_fleet import jsonio
from onnx_fleet.bundles import feed, manifest, renames, trust
from onnx_fleet.bundles import pull as pulling
from onnx_fleet.bundles import verify as verifying
from onnx_fleet.bundles.bundle import Ref
from onnx_fleet.bundles.feed_document import FeedModel, FeedVersion
from onnx_fleet.bundles.trust import TrustReport
from onnx_fleet.cli import step_display, terminal
from onnx_fleet.cli.options import Json, Store, TrustPolicyFile
from onnx_fleet.cli.settings import opened_store, policy
from onnx_fleet.entities.naming import ref_of
from onnx_fleet.entities.variant import FP32
from onnx_fleet.formatting import human_bytes
from onnx_fleet.layouts import pulled
from onnx_fleet.layouts.arrangement import Choice
from onnx_fleet.layouts.pulled import LayoutName

RefText = Annotated[
    str,
    typer.Argument(metavar="REF", help="ORG/NAME, ORG/NAME@CHANNEL or ORG/NAME@VERSION.", show_default=False),
]


def list_(
    model: Annotated[str | None, typer.Argument(help="Only this model: ORG/NAME.", show_default=False)] = None,
    store: Store = None,
    as_json: Json = False,
) -> None:
    """List what is published, newest first: each version's date, task, precisions, size and channels."""
    with opened_store(store) as opened, terminal.console.status("reading the store"):
        found = sorted(feed.models(opened, model_id=model), key=_last_published, reverse=True)
        note = renames.find(opened, model) if model and not found else None
    if as_json:
        terminal.dataclasses_as_json(found)
        return
    if not found:
        terminal.say(f"nothing is published in {opened.address}" + (f" for {model}" if model else ""))
        _say_renames([note] if note else [])
        return
    terminal.table(
        ("model", "version", "published", "channels", "size", "task", "precisions"),
        [
            (
                each.model_id,
                version.version,
                f"{version.created_at:%Y-%m-%d}",
                _standing(each, version),
                human_bytes(version.size_bytes),
                version.task,
                ", ".join(version.variants),
            )
            for each in found
            for version in each.versions
        ],
        numbers=("size",),
        below=("precisions", "task", "size", "channels", "published"),
        named_by=2,
    )
    for problem in (problem for each in found for problem in each.problems):
        terminal.paragraphs(f"not listed: {problem}")
    _say_renames(filter(None, map(_renamed, found)))


def _say_renames(notes: Iterable[renames.Rename]) -> None:
    for note in notes:
        terminal.say(str(note))


def _renamed(model: FeedModel) -> renames.Rename | None:
    if model.renamed_to is None or model.renamed_since is None:
        return None
    return renames.Rename(model_id=model.model_id, renamed_to=model.renamed_to, since=model.renamed_since)


def _last_published(model: FeedModel) -> datetime:
    """Return when its newest version was published; long ago where none can be read."""
    return max((version.created_at for version in model.versions), default=datetime.min.replace(tzinfo=UTC))


def _standing(model: FeedModel, version: FeedVersion) -> Text:
    """Say which channels point at a version, or that its gates hold it back."""
    if version.held:
        return Text("held back", style="yellow")
    own = (each for each in model.channels if each.version == version.version)
    return Text(", ".join(f"{each.channel} (held there)" if each.held else each.channel for each in own))


def verify(ref: RefText, trust_policy: TrustPolicyFile = None, store: Store = None, as_json: Json = False) -> None:
    """Hash every file of a published bundle and compare it with the manifest; the exit status is 1 if one differs.

    With a trust policy, the exit status is also 1 if the bundle does not have the signatures that it asks for.
    """
    wanted = policy(trust_policy)
    with opened_store(store) as opened, step_display.steps() as steps:
        steps.begin(ref, "verify")
        found = verifying.verify(Ref.parse(ref), store=opened, policy=wanted, progress=steps.bytes_moved)
    if as_json:
        terminal.as_json({**jsonio.to_json(found), "passed": found.passed})
    elif not found.faults:
        terminal.line(
            f"[green]intact[/] {ref_of(found)}: {found.files} files, {human_bytes(found.size_bytes)}",
        )
    else:
        terminal.table(
            ("file", "fault", "detail"),
            [(fault.path, Text(fault.fault, style="red"), fault.detail) for fault in found.faults],
            prose=("detail",),
            below=("detail",),
        )
        terminal.say(f"[red]corrupt[/] {found.location}; {manifest.remedy(found.model_id)}")
    if found.trust and not as_json:
        _show_trust(found.trust)
    if not found.passed:
        raise typer.Exit(1)


def _show_trust(report: TrustReport) -> None:
    if report.passed:
        terminal.line(f"[green]trusted[/] signed by {', '.join(report.signed_by) or 'nobody, which the policy allows'}")
    else:
        terminal.say("[red]not trusted[/]")
        terminal.paragraphs(trust.untrusted_because(report))


def pull(
    ref: RefText,
    to: Annotated[Path, typer.Option(help="The folder to write.")],
    update: Annotated[
        bool,
        typer.Option(
            "--update", help="Replace another version of the model in that folder, in one step; equal files are kept."
        ),
    ] = False,
    trust_policy: TrustPolicyFile = None,
    layout: Annotated[
        LayoutName | None,
        typer.Option(help="Arrange the folder for a server.", show_default=False),
    ] = None,
    variant: Annotated[str, typer.Option(help="With --layout: the precision that the server runs.")] = FP32,
    storage_uri: Annotated[
        str | None,
        typer.Option(
            help="With --layout kserve: the address at which KServe will find the folder.", show_default=False
        ),
    ] = None,
    store: Store = None,
    as_json: Json = False,
) -> None:
    """Download a bundle into a folder, which appears complete and verified, or not at all.

    An interrupted pull continues where it stopped. With a trust policy, a bundle that does not have the signatures that
    it asks for is refused.
    """
    if (variant != FP32 and not layout) or (storage_uri and layout != "kserve"):
        raise typer.BadParameter("--variant belongs to --layout, and --storage-uri to --layout kserve")
    wanted = policy(trust_policy)
    with opened_store(store) as opened, step_display.steps() as steps:
        steps.begin(ref, "pull")
        if layout:
            choice = Choice(variant=variant, storage_uri=storage_uri)
            found = pulled.pull(
                Ref.parse(ref),
                store=opened,
                to=to,
                layout=layout,
                choice=choice,
                update=update,
                policy=wanted,
                progress=steps.bytes_moved,
            )
        else:
            found = pulling.pull(
                Ref.parse(ref), store=opened, to=to, update=update, policy=wanted, progress=steps.bytes_moved
            )
        note = renames.find(opened, found.bundle.model_id)
    if as_json:
        terminal.as_json(
            {
                "model_id": found.bundle.model_id,
                "version": found.bundle.version,
                "to": str(to),
                "renamed_to": note.renamed_to if note else None,
            }
        )
    else:
        size = human_bytes(found.size_bytes)
        terminal.line(
            f"{ref_of(found.bundle)}: {len(found.files)} files, {size}, verified, in {to}",
        )
        _say_renames([note] if note else [])

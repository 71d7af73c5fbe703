"""The command that signs published bundles: as a release, or with a new key."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from onnx_fleet.bundles import bundle, listing, signatures, trust
from onnx_fleet.bundles.bundle import Ref
from onnx_fleet.cli import terminal
from onnx_fleet.cli.options import Json, OnlyPublished, Store, TrustPolicyFile
from onnx_fleet.cli.settings import opened_store, policy, signing_key
from onnx_fleet.entities.naming import ref_of
from onnx_fleet.errors import BundleNotFound
from onnx_fleet.store import ObjectStore


def sign(
    refs: Annotated[
        list[str] | None,
        typer.Argument(metavar="REF…", help="ORG/NAME, ORG/NAME@CHANNEL or ORG/NAME@VERSION.", show_default=False),
    ] = None,
    only: OnlyPublished = None,
    channel: Annotated[
        str, typer.Option(help="With --only: sign what this channel of each model points to.")
    ] = bundle.LATEST,
    key: Annotated[
        Path | None,
        typer.Option(help="A private key in PEM; default: ONNX_FLEET_SIGNING_KEY.", show_default=False),
    ] = None,
    certificates: Annotated[
        Path | None,
        typer.Option(
            help="The key's certificate and those behind it, in PEM; default: ONNX_FLEET_SIGNING_CERTIFICATES.",
            show_default=False,
        ),
    ] = None,
    trust_policy: TrustPolicyFile = None,
    unverified: Annotated[
        bool,
        typer.Option("--unverified", help="Sign also a bundle of which no signature counts by the trust policy."),
    ] = False,
    store: Store = None,
    as_json: Json = False,
) -> None:
    """Sign published bundles. The signature is stored beside the bundle, which does not change.

    With a trust policy, a bundle is signed only if a signature of a signer whom the policy knows is there already.
    """
    own = signing_key(key, certificates)
    if own is None:
        raise typer.BadParameter("name a private key, or set ONNX_FLEET_SIGNING_KEY", param_hint="--key")
    wanted = None if unverified else policy(trust_policy)
    done: list[tuple[str, bool]] = []
    with opened_store(store) as opened:
        for ref in _named(refs or [], only or [], channel, store=opened):
            found = bundle.find(ref, store=opened)
            if wanted:
                trust.require_known(trust.judge(found, policy=wanted, store=opened))
            done.append((ref_of(found), signatures.add(found, key=own, store=opened)))
    if as_json:
        terminal.as_json([{"bundle": name, "key_id": own.key_id, "added": added} for name, added in done])
        return
    for name, added in done:
        terminal.line(f"{name}: {'signed with' if added else 'has the signature of'} {own.key_id}")


def _named(refs: Sequence[str], only: Sequence[str], channel: str, *, store: ObjectStore) -> list[Ref]:
    """The bundles that the arguments name, or that the options choose."""
    if bool(refs) == bool(only):
        raise typer.BadParameter("name bundles, or choose with --only", param_hint="REF")
    if refs:
        return [Ref.parse(ref) for ref in refs]
    models = [model for model in listing.list_models(store, only=only) if channel in model.channels]
    if not models:
        raise BundleNotFound(
            f"{', '.join(only)}: no such model has the channel {channel} in {store.address}; see `onnx-fleet list`"
        )
    return [Ref(model_id=model.model_id, channel=channel, version=None) for model in models]

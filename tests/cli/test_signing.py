"""sign, and the trust policy of verify and pull, as a user calls them."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from typer.testing import CliRunner

from fixtures.signers import PASSPHRASE, SignerFiles, signer
from fixtures.stages import NOW, PROVENANCE, tiny_stage, work_item
from onnx_fleet.bundles.publish import publish
from onnx_fleet.bundles.stage import Stage
from onnx_fleet.cli import app
from onnx_fleet.errors import BundleNotFound, BundleUntrusted, SigningKeyInvalid
from onnx_fleet.store import ObjectStore

MODEL = "acme/tiny"
REF = f"{MODEL}@01234567-ffffffff"


@pytest.fixture
def ci(tmp_path: Path) -> SignerFiles:
    files = signer(tmp_path / "keys", "ci")
    document = {"signers": {"ci": {"public_key": files.public.name}}, "rules": [{"models": ["*"], "signers": ["ci"]}]}
    (tmp_path / "keys" / "policy.yaml").write_text(json.dumps(document))
    return files


@pytest.fixture
def command(tmp_path: Path, local_store: ObjectStore, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Call onnx-fleet in this process, on a store with two models that nobody has signed."""
    monkeypatch.setenv("ONNX_FLEET_STORE", local_store.address)
    for name in ("tiny", "small"):
        stage = tiny_stage(tmp_path / name, item=work_item(model_id=f"acme/{name}"))
        publish(Stage.open(stage), store=local_store, provenance=PROVENANCE, created_at=NOW)

    def call(*words: str | Path, **environment: str | Path) -> Result:
        env = {f"ONNX_FLEET_{name}": str(value) for name, value in environment.items()}
        return CliRunner().invoke(app, [*map(str, words)], env=env)

    return call


def test_a_bundle_is_signed_once_and_then_trusted(command: Any, ci: SignerFiles, tmp_path: Path) -> None:
    policy = ci.folder / "policy.yaml"
    untrusted = command("verify", MODEL, "--trust-policy", policy)
    assert (untrusted.exit_code, "not trusted" in untrusted.output) == (1, True)
    assert isinstance(command("pull", MODEL, "--to", tmp_path / "no", TRUST_POLICY=policy).exception, BundleUntrusted)
    for added in (True, False):
        signed = command("sign", MODEL, "--key", ci.private, "--json")
        assert json.loads(signed.stdout) == [{"bundle": REF, "key_id": ci.signing_key.key_id, "added": added}]
    trusted = command("verify", MODEL, TRUST_POLICY=policy)
    assert (trusted.exit_code, trusted.stdout.splitlines()[-1]) == (0, "trusted signed by ci")
    said = json.loads(command("verify", MODEL, "--json", TRUST_POLICY=policy).stdout)
    assert (said["passed"], said["trust"]["signatures"][0]["signer"]) == (True, "ci")
    assert command("pull", MODEL, "--to", tmp_path / "pulled", TRUST_POLICY=policy).exit_code == 0
    assert [path.stem for path in (tmp_path / "pulled" / "signatures").iterdir()] == [f"{ci.signing_key.key_id}.sig"]


def test_many_bundles_are_signed_by_a_pattern_and_a_channel(command: Any, ci: SignerFiles) -> None:
    done = command("sign", "--only", "acme/*", SIGNING_KEY=ci.encrypted, SIGNING_PASSPHRASE=PASSPHRASE)
    assert done.stdout.split() == [
        word
        for name in ("small", "tiny")
        for word in (f"acme/{name}@01234567-ffffffff:", "signed", "with", ci.signing_key.key_id)
    ]
    stable = command("sign", "--only", "acme/*", "--channel", "stable", SIGNING_KEY=ci.private)
    assert isinstance(stable.exception, BundleNotFound)


def test_with_a_policy_what_no_known_signer_has_signed_is_not_signed_unless_asked_for(
    command: Any, ci: SignerFiles
) -> None:
    release, policy = signer(ci.folder, "release").private, ci.folder / "policy.yaml"
    refused = command("sign", MODEL, "--key", release, TRUST_POLICY=policy)
    assert isinstance(refused.exception, BundleUntrusted)
    assert "sign it with --unverified" in str(refused.exception)
    assert command("sign", MODEL, "--key", ci.private, "--unverified", TRUST_POLICY=policy).exit_code == 0
    assert command("sign", MODEL, "--key", release, TRUST_POLICY=policy).exit_code == 0


def test_what_is_missing_to_sign_is_named(command: Any, ci: SignerFiles) -> None:
    assert "name a private key, or set ONNX_FLEET_SIGNING_KEY" in " ".join(command("sign", MODEL).output.split())
    assert command("sign", SIGNING_KEY=ci.private).exit_code == 2
    assert command("sign", MODEL, "--only", "*", SIGNING_KEY=ci.private).exit_code == 2
    gone = command("sign", MODEL, SIGNING_KEY=ci.folder / "none.pem").exception
    assert isinstance(gone, SigningKeyInvalid)
    assert "none.pem: cannot be read: No such file or directory" in str(gone)
    wrong = command("sign", MODEL, SIGNING_KEY=ci.encrypted, SIGNING_PASSPHRASE="guess").exception
    assert isinstance(wrong, SigningKeyInvalid)


def test_publish_signs_and_neither_output_logs_nor_store_has_anything_of_the_key(
    command: Any, local_store: ObjectStore, ci: SignerFiles, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    stage = tiny_stage(tmp_path / "newer", item=work_item(fingerprint="e" * 64))
    environment = {"SIGNING_KEY": ci.encrypted, "SIGNING_PASSPHRASE": PASSPHRASE, "WORK_DIR": tmp_path / "work"}
    with caplog.at_level(logging.DEBUG):
        outputs = [
            command("--verbose", "publish", stage, **environment),
            command("--verbose", "sign", "acme/small", **environment),
            command("--verbose", "sign", "acme/small", **{**environment, "SIGNING_PASSPHRASE": "guess"}),
        ]
    assert [each.exit_code for each in outputs] == [0, 0, 1]
    policy = ci.folder / "policy.yaml"
    assert command("verify", f"{MODEL}@01234567-eeeeeeee", TRUST_POLICY=policy).exit_code == 0
    kept = [local_store.read(info.key) for info in local_store.list("")]
    kept += [path.read_bytes() for path in (tmp_path / "newer").rglob("*") if path.is_file()]
    kept += [each.output.encode() + repr(each.exception).encode() for each in outputs] + [caplog.text.encode()]
    assert [secret for secret in ci.secrets if any(secret.encode() in data for data in kept)] == []

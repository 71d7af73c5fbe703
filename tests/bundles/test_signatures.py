"""Signatures: made with a publication or after it, and verified by the library of OpenSSF and its own command."""

from __future__ import annotations

import base64
import hashlib
import json
import subprocess
import sys
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from fixtures.faulty_stores import Interrupted, SteppedStore, interrupted
from fixtures.signers import NOW as SIGNED_AT
from fixtures.signers import PASSPHRASE, SignerFiles, certified, signer
from fixtures.stages import NOW, PROVENANCE, tiny_stage
from onnx_fleet.bundles import bundle, manifest, model_signing_format, seal, signatures
from onnx_fleet.bundles.publish import Publication, publish, unfinished
from onnx_fleet.bundles.pull import pull
from onnx_fleet.bundles.signing_key import SigningKey, digests_of
from onnx_fleet.bundles.stage import Stage
from onnx_fleet.bundles.verify import verify
from onnx_fleet.errors import SigningKeyInvalid, VersionConflict
from onnx_fleet.store import ObjectStore, layout, open_store

MODEL = "acme/tiny"
VERSION = "01234567-ffffffff"


@pytest.fixture(scope="module")
def ci(tmp_path_factory: pytest.TempPathFactory) -> SignerFiles:
    return signer(tmp_path_factory.mktemp("ci"), "ci")


def publish_signed(stage: Path, store: ObjectStore, key: SigningKey | None) -> Publication:
    return publish(Stage.open(stage), store=store, provenance=PROVENANCE, created_at=NOW, signing_key=key)


def model_signing(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Run the command of the library, which knows nothing of ours."""
    command = [sys.executable, "-m", "model_signing", "verify", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def pulled(store: ObjectStore, folder: Path) -> tuple[Path, list[Path]]:
    pull(MODEL, store=store, to=folder)
    return folder, sorted((folder / "signatures").iterdir())


def test_a_pulled_bundle_is_what_model_signing_says_was_signed(
    tmp_path: Path, s3_store: ObjectStore, ci: SignerFiles
) -> None:
    """With a second signature beside the first; and not so when a file is another one, or there is one more."""
    publish_signed(tiny_stage(tmp_path / "stage"), s3_store, ci.signing_key)
    release = signer(tmp_path / "keys", "release", curve=ec.SECP384R1())
    assert signatures.add(bundle.find(MODEL, store=s3_store), key=release.signing_key, store=s3_store)
    folder, placed = pulled(s3_store, tmp_path / "pulled")
    assert len(placed) == 2
    for files in (ci, release):
        own = folder / "signatures" / f"{hashlib.sha256(files.public.read_bytes()).hexdigest()}.sig.json"
        done = model_signing("key", folder, "--signature", own, "--public_key", files.public)
        assert (done.returncode, done.stdout) == (0, "Verification succeeded\n"), done.stderr
    (folder / "config.json").write_text('{"model_type": "gpt2"}')
    (folder / "more.txt").touch()
    done = model_signing("key", folder, "--signature", placed[0], "--public_key", ci.public)
    assert done.returncode == 1
    done = model_signing("key", folder, "--signature", own, "--public_key", release.public)
    assert "Extra files found in model 'pulled': more.txt" in done.stderr
    assert "Hash mismatch for 'config.json'" in done.stderr


def test_a_certificate_signs_and_its_authority_verifies(
    tmp_path: Path, local_store: ObjectStore, ci: SignerFiles
) -> None:
    authority = signer(tmp_path / "keys", "Acme authority")
    (tmp_path / "authority.pem").write_bytes(certified(authority, authority))
    key = SigningKey.load(
        ci.encrypted.read_bytes(),
        where="a test",
        now=SIGNED_AT,
        passphrase=PASSPHRASE,
        certificates_pem=certified(ci, authority),
    )
    publish_signed(tiny_stage(tmp_path / "stage"), local_store, key)
    folder, [placed] = pulled(local_store, tmp_path / "pulled")
    assert placed.name == f"{key.key_id}.sig.json"
    done = model_signing(
        "certificate", folder, "--signature", placed, "--certificate_chain", tmp_path / "authority.pem"
    )
    assert done.returncode == 0, done.stderr


def test_the_signature_lists_every_file_of_the_folder(
    tmp_path: Path, local_store: ObjectStore, ci: SignerFiles
) -> None:
    publish_signed(tiny_stage(tmp_path / "stage"), local_store, ci.signing_key)
    folder, [placed] = pulled(local_store, tmp_path / "pulled")
    statement = json.loads(base64.b64decode(json.loads(placed.read_bytes())["dsseEnvelope"]["payload"]))
    assert statement["predicateType"] == "https://model_signing/signature/v1.0"
    assert statement["subject"][0]["name"] == f"{MODEL}@{VERSION}"
    assert {each["name"]: each["digest"] for each in statement["predicate"]["resources"]} == {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file() and path.parent.name != "signatures"
    }


def test_no_bundle_is_ever_visible_without_its_signature(tmp_path: Path, ci: SignerFiles) -> None:
    """Whatever operation the writer dies before, and whoever finishes it: with the same key, or without any."""
    first, again = tiny_stage(tmp_path / "first"), tiny_stage(tmp_path / "again", latency_ms=7.0)
    counted = SteppedStore(open_store(str(tmp_path / "counted")), step=0, before=lambda: None)
    publish_signed(first, counted, ci.signing_key)
    for step in range(1, counted.steps + 1):
        for key in (ci.signing_key, None):
            store = open_store(str(tmp_path / f"store-{step}-{bool(key)}"))
            with pytest.raises(Interrupted):
                publish_signed(first, interrupted(store, step=step), ci.signing_key)
            _require_signed_if_visible(store, ci)
            decided = store.stat(f"{layout.unfinished_prefix(MODEL, VERSION)}decision.json") is not None
            publish_signed(again, store, key)
            if key or decided:
                _require_signed_if_visible(store, ci)
            assert verify(MODEL, store=store).passed
            assert unfinished(store) == frozenset()


def test_of_two_writers_with_one_key_the_signature_is_over_what_stands(tmp_path: Path, ci: SignerFiles) -> None:
    ours, theirs = tiny_stage(tmp_path / "ours"), tiny_stage(tmp_path / "theirs", latency_ms=7.0)
    for step in range(1, 60):
        store = open_store(str(tmp_path / f"store-{step}"))
        racing = SteppedStore(
            store,
            step=step,
            before=lambda s=store: publish_signed(theirs, s, ci.signing_key),  # type: ignore[misc]
        )
        publish_signed(ours, racing, ci.signing_key)
        _require_signed_if_visible(store, ci)
        if racing.steps < step:
            break
    assert step > 20


def _require_signed_if_visible(store: ObjectStore, files: SignerFiles) -> None:
    if store.stat(layout.manifest_key(MODEL, VERSION)) is None:
        return
    found = bundle.find(f"{MODEL}@{VERSION}", store=store)
    [stored] = signatures.find(store, MODEL, VERSION)
    digests = digests_of(found.manifest, manifest_json=found.manifest_json)
    assert model_signing_format.fault_by_key(stored.data, digests, public_key_pem=files.public.read_bytes()) == ""


def test_a_decision_that_somebody_slipped_in_is_not_signed(
    tmp_path: Path, local_store: ObjectStore, ci: SignerFiles
) -> None:
    """Whoever may write to the bucket can have a publisher carry out their manifest, and does not get it signed."""
    sealed = seal.seal(Stage.open(tiny_stage(tmp_path / "theirs", scale=9.0)), provenance=PROVENANCE, created_at=NOW)
    prefix = layout.unfinished_prefix(MODEL, VERSION)
    local_store.create(f"{prefix}decision.json", manifest.write(sealed))
    for file in sealed.files:
        local_store.upload(f"{prefix}files/{file.sha256}", tmp_path / "theirs" / file.path, sha256=file.sha256)
    with pytest.raises(VersionConflict):
        publish_signed(tiny_stage(tmp_path / "ours"), local_store, ci.signing_key)
    assert bundle.find(MODEL, store=local_store).manifest == sealed
    assert signatures.find(local_store, MODEL, VERSION) == ()


def test_a_signature_of_a_version_that_was_removed_gives_way(
    tmp_path: Path, any_store: ObjectStore, ci: SignerFiles
) -> None:
    publish_signed(tiny_stage(tmp_path / "one"), any_store, ci.signing_key)
    for info in list(any_store.list(layout.MODELS)):
        any_store.delete(info.key)
    publish(
        Stage.open(tiny_stage(tmp_path / "two")),
        store=any_store,
        provenance=PROVENANCE,
        created_at=NOW + timedelta(days=1),
        signing_key=ci.signing_key,
    )
    _require_signed_if_visible(any_store, ci)


def test_signing_twice_adds_one_signature(tmp_path: Path, any_store: ObjectStore, ci: SignerFiles) -> None:
    publish_signed(tiny_stage(tmp_path / "stage"), any_store, None)
    assert signatures.find(any_store, MODEL, VERSION) == ()
    found = bundle.find(MODEL, store=any_store)
    assert [signatures.add(found, key=ci.signing_key, store=any_store) for _ in range(2)] == [True, False]
    [stored] = signatures.find(any_store, MODEL, VERSION)
    assert stored.key_id == ci.signing_key.key_id == hashlib.sha256(ci.public.read_bytes()).hexdigest()


@pytest.mark.parametrize("while_publishing", [True, False])
def test_what_only_looks_like_its_signature_gives_way(
    tmp_path: Path, local_store: ObjectStore, ci: SignerFiles, while_publishing: bool
) -> None:
    """Somebody has put it there, of the right files and under the right name, so that nothing would be signed."""
    elsewhere = open_store(str(tmp_path / "elsewhere"))
    stage = tiny_stage(tmp_path / "stage")
    publish_signed(stage, elsewhere, ci.signing_key)
    [stored] = signatures.find(elsewhere, MODEL, VERSION)
    forged = json.loads(stored.data)
    forged["dsseEnvelope"]["signatures"][0]["sig"] = base64.b64encode(b"forged").decode()
    place = layout.signature_key(MODEL, VERSION, ci.signing_key.key_id)
    local_store.create(place, json.dumps(forged).encode())
    publish_signed(stage, local_store, ci.signing_key if while_publishing else None)
    if not while_publishing:
        assert signatures.add(bundle.find(MODEL, store=local_store), key=ci.signing_key, store=local_store)
    _require_signed_if_visible(local_store, ci)


def test_a_pull_brings_signatures_that_were_made_since(tmp_path: Path, any_store: ObjectStore, ci: SignerFiles) -> None:
    """Into the folder that holds the bundle; and the folder stays one that can be updated, and published again."""
    stage = tiny_stage(tmp_path / "stage")
    publish_signed(stage, any_store, None)
    folder = tmp_path / "pulled"
    pull(MODEL, store=any_store, to=folder)
    assert not (folder / "signatures").exists()
    signatures.add(bundle.find(MODEL, store=any_store), key=ci.signing_key, store=any_store)
    for update in (False, True):
        pull(MODEL, store=any_store, to=folder, update=update)
        assert len(list((folder / "signatures").iterdir())) == 1
    (folder / "LICENSE").unlink()
    pull(MODEL, store=any_store, to=folder, update=True)
    assert len(list((folder / "signatures").iterdir())) == 1
    listed = {file.path for file in bundle.find(MODEL, store=any_store).manifest.files}
    assert set(Stage(folder, Stage.open(stage).item).published_files()) == {*listed, "manifest.json"}


@pytest.mark.parametrize(
    ("pem", "passphrase", "said"),
    [
        (b"no key", None, "is no private key in PEM"),
        ("encrypted", None, "no passphrase is given"),
        ("encrypted", "guess", "or the passphrase is not the key's"),
        ("private", "guess", "is not encrypted"),
        ("other curve", None, "P-256, P-384 and P-521"),
    ],
)
def test_a_key_that_cannot_be_used_is_refused_and_not_shown(
    tmp_path: Path, ci: SignerFiles, pem: bytes | str, passphrase: str | None, said: str
) -> None:
    other = signer(tmp_path, "other", curve=ec.SECP256K1())
    kinds = {"encrypted": ci.encrypted, "private": ci.private, "other curve": other.private}
    data = kinds[pem].read_bytes() if isinstance(pem, str) else pem
    with pytest.raises(SigningKeyInvalid, match=said) as caught:
        SigningKey.load(data, where="the key", now=SIGNED_AT, passphrase=passphrase)
    assert caught.value.__cause__ is None
    assert not [secret for secret in (*ci.secrets, *other.secrets, "guess") if secret in str(caught.value)]


def test_a_certificate_that_cannot_sign_is_refused_before_it_is_used(tmp_path: Path, ci: SignerFiles) -> None:
    authority = signer(tmp_path, "authority")

    def load(certificates: bytes) -> None:
        SigningKey.load(ci.private.read_bytes(), where="the key", now=SIGNED_AT, certificates_pem=certificates)

    with pytest.raises(SigningKeyInvalid, match="not of this key"):
        load(certified(authority, authority))
    with pytest.raises(SigningKeyInvalid, match="not for signatures"):
        load(certified(ci, authority, for_signatures=False))
    with pytest.raises(SigningKeyInvalid, match=r"valid from 2026-10-01 to 2026-10-04"):
        load(certified(ci, authority, valid_from=SIGNED_AT.replace(month=10, day=1)))
    with pytest.raises(SigningKeyInvalid, match="not in PEM"):
        load(b"nothing")


def test_a_key_shows_nothing_of_itself(ci: SignerFiles) -> None:
    assert repr(ci.signing_key) == f"SigningKey(key_id='{ci.signing_key.key_id}')"

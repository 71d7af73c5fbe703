"""Trust policies: whose signatures count, for which models, and until when; and what is refused, and how it is told."""

from __future__ import annotations

import base64
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from fixtures.signers import NOW as SIGNED_AT
from fixtures.signers import SignerFiles, certified, policy, signer
from fixtures.stages import NOW, PROVENANCE, tiny_stage, work_item
from fixtures.watched_store import WatchedStore
from onnx_fleet.bundles import bundle, signatures, trust, trust_policy
from onnx_fleet.bundles.publish import publish
from onnx_fleet.bundles.pull import pull
from onnx_fleet.bundles.signing_key import SigningKey
from onnx_fleet.bundles.stage import Stage
from onnx_fleet.bundles.trust import TrustReport
from onnx_fleet.bundles.verify import verify
from onnx_fleet.errors import BundleUntrusted, TrustPolicyInvalid
from onnx_fleet.store import ObjectStore, layout

MODEL = "acme/tiny"
REF = f"{MODEL}@01234567-ffffffff"


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> dict[str, SignerFiles]:
    """Three keys in one folder, with their public ones."""
    folder = tmp_path_factory.mktemp("keys")
    made = {name: signer(folder, name) for name in ("ci", "next", "release")}
    assert all(files.public.exists() for files in made.values())
    return made


@pytest.fixture
def published(tmp_path: Path, any_store: ObjectStore, keys: dict[str, SignerFiles]) -> ObjectStore:
    """A store with one bundle, which ``ci`` has signed."""
    stage = Stage.open(tiny_stage(tmp_path / "stage"))
    publish(stage, store=any_store, provenance=PROVENANCE, created_at=NOW, signing_key=keys["ci"].signing_key)
    return any_store


def asked(keys: dict[str, SignerFiles], *names: str, at_least: int = 1, **further: Any) -> trust_policy.TrustPolicy:
    document = {
        "signers": {name: {"public_key": f"{name}.pub"} for name in keys},
        "rules": [{"models": ["acme/*"], "signers": names, "at_least": at_least}],
        **further,
    }
    return policy(keys["ci"].folder, document)


def judged(store: ObjectStore, asked: trust_policy.TrustPolicy) -> TrustReport:
    return trust.judge(bundle.find(REF, store=store), policy=asked, store=store)


def sign(store: ObjectStore, key: SigningKey) -> None:
    assert signatures.add(bundle.find(REF, store=store), key=key, store=store)


def test_a_bundle_with_the_signatures_that_are_asked_for_is_pulled_and_verified(
    tmp_path: Path, published: ObjectStore, keys: dict[str, SignerFiles]
) -> None:
    wanted = asked(keys, "ci", "release")
    assert verify(REF, store=published, policy=wanted).passed
    pull(REF, store=published, to=tmp_path / "pulled", policy=wanted)
    assert (tmp_path / "pulled" / "manifest.json").exists()


def test_a_bundle_without_them_is_refused_before_a_byte_of_it_is_fetched(
    tmp_path: Path, published: ObjectStore, keys: dict[str, SignerFiles]
) -> None:
    wanted, watched = asked(keys, "release", "next"), WatchedStore(published)
    with pytest.raises(BundleUntrusted) as caught:
        pull(REF, store=watched, to=tmp_path / "pulled", policy=wanted)
    said = str(caught.value)
    assert said.startswith(f"{REF}: {wanted.where} asks for signatures of 1 of release, next, and the bundle has none")
    assert f"{keys['ci'].signing_key.key_id[:12]}… does not count: it is of ci, whom the rule does not name" in said
    assert f"`onnx-fleet sign {REF} --key KEY.pem`" in said
    assert not list(tmp_path.glob("*pulled*"))
    report = verify(REF, store=published, policy=wanted)
    assert (report.faults, report.passed) == ((), False)


def test_two_signers_are_two_keys(published: ObjectStore, keys: dict[str, SignerFiles]) -> None:
    wanted = asked(keys, "ci", "release", at_least=2)
    assert not judged(published, wanted).passed
    sign(published, keys["release"].signing_key)
    assert judged(published, wanted).signed_by == ("ci", "release")
    assert judged(published, wanted).passed


def test_a_copy_of_a_signature_under_another_name_does_not_count_twice(
    published: ObjectStore, keys: dict[str, SignerFiles]
) -> None:
    [stored] = signatures.find(published, MODEL, REF.partition("@")[2])
    for name in ("release", "next"):
        place = layout.signature_key(MODEL, REF.partition("@")[2], keys[name].signing_key.key_id)
        published.create(place, stored.data)
    report = judged(published, asked(keys, "ci", "release", "next", at_least=2))
    assert report.signed_by == ("ci",)
    assert not report.passed


@pytest.mark.parametrize("change", ["a file's digest", "the manifest", "the envelope", "another model's", "not JSON"])
def test_whoever_may_write_to_the_store_and_has_no_key_makes_nothing_trusted(
    tmp_path: Path, local_store: ObjectStore, keys: dict[str, SignerFiles], change: str
) -> None:
    """They change the bundle and its manifest alike, or move signatures about."""
    for model_id in (MODEL, "acme/other"):
        stage = tiny_stage(tmp_path / model_id.replace("/", "-"), item=work_item(model_id=model_id))
        publish(
            Stage.open(stage),
            store=local_store,
            provenance=PROVENANCE,
            created_at=NOW,
            signing_key=keys["ci"].signing_key,
        )
    version = REF.partition("@")[2]
    place = layout.signature_key(MODEL, version, keys["ci"].signing_key.key_id)
    key = layout.manifest_key(MODEL, version)
    said = json.loads(local_store.read(key))
    signature = json.loads(local_store.read(place))
    if change == "a file's digest":
        said["files"][0]["sha256"] = "0" * 64
        _overwrite(local_store, key, json.dumps(said).encode())
    elif change == "the manifest":
        _overwrite(local_store, key, json.dumps(said).encode())
    elif change == "the envelope":
        payload = base64.b64decode(signature["dsseEnvelope"]["payload"])  # of the same files, and not what was signed
        signature["dsseEnvelope"]["payload"] = base64.b64encode(payload.replace(b"@01234567", b"@11234567")).decode()
        _overwrite(local_store, place, json.dumps(signature).encode())
    elif change == "another model's":
        other = layout.signature_key("acme/other", version, keys["ci"].signing_key.key_id)
        _overwrite(local_store, place, local_store.read(other))
    else:
        _overwrite(local_store, place, b"[]")
    report = judged(local_store, asked(keys, "ci"))
    assert report.signed_by == ()
    why = {"the envelope": r"does not hold \(InvalidSignature", "not JSON": "does not know its key"}
    with pytest.raises(BundleUntrusted, match=f"does not count: .*{why.get(change, 'it is over other')}"):
        trust.require_trusted(report)


def _overwrite(store: ObjectStore, key: str, data: bytes) -> None:
    store.replace(key, data, etag=store.read_tagged(key)[1])


def test_a_key_that_was_revoked_counts_for_what_was_signed_before(
    published: ObjectStore, keys: dict[str, SignerFiles]
) -> None:
    """The store says when; a signature that is put there later does not count, whatever it says of itself."""
    key_id, now = keys["ci"].signing_key.key_id, datetime.now(UTC)
    later, before = (now + timedelta(hours=1)).isoformat(), (now - timedelta(hours=1)).isoformat()
    assert judged(published, asked(keys, "ci", revoked={key_id: later})).passed
    report = judged(published, asked(keys, "ci", revoked={key_id: before}))
    assert not report.passed
    assert report.signatures[0].detail.startswith("ci was revoked on ")


def test_a_key_is_exchanged_for_the_next_one(published: ObjectStore, keys: dict[str, SignerFiles]) -> None:
    """Both count for a while; what is in use is signed anew; then the old one is revoked."""
    old, both = asked(keys, "ci"), asked(keys, "ci", "next")
    assert judged(published, both).signed_by == ("ci",)
    sign(published, keys["next"].signing_key)
    assert judged(published, old).signed_by == ("ci",)
    assert judged(published, both).signed_by == ("ci", "next")
    revoked = {keys["ci"].signing_key.key_id: "2026-01-01T00:00:00Z"}
    assert judged(published, asked(keys, "ci", "next", revoked=revoked)).signed_by == ("next",)


def test_a_certificate_counts_for_its_subject_and_its_authority_until_it_is_revoked(
    tmp_path: Path, local_store: ObjectStore, keys: dict[str, SignerFiles]
) -> None:
    publish(Stage.open(tiny_stage(tmp_path / "stage")), store=local_store, provenance=PROVENANCE, created_at=NOW)
    authority, impostor = signer(tmp_path / "keys", "Acme authority"), signer(tmp_path / "keys", "Another authority")
    (tmp_path / "keys" / "authority.pem").write_bytes(certified(authority, authority))
    certificates = {
        "good": certified(keys["release"], authority),
        "other subject": certified(keys["release"], authority, subject="Eve"),
        "other authority": certified(keys["release"], impostor),
    }
    for certificate in certificates.values():
        pem = keys["release"].private.read_bytes()
        sign(local_store, SigningKey.load(pem, where="a test", now=SIGNED_AT, certificates_pem=certificate))
    document: dict[str, Any] = {
        "signers": {"release": {"authority": "authority.pem", "subject": "CN=onnx-fleet release,O=Acme"}},
        "rules": [{"models": ["*"], "signers": ["release"]}],
    }
    report = judged(local_store, policy(tmp_path / "keys", document))
    assert report.passed
    [counts] = [each for each in report.signatures if each.counts]
    details = sorted(each.detail for each in report.signatures if not each.counts)
    assert details[0].startswith("it does not hold (")
    assert details[1] == "the policy does not know CN=Eve,O=Acme"
    revoked = {**document, "revoked": {counts.key_id: "2026-01-01T00:00:00Z"}}
    assert not judged(local_store, policy(tmp_path / "keys", revoked)).passed


def test_the_first_rule_that_matches_counts_and_without_one_a_model_is_refused(
    published: ObjectStore, keys: dict[str, SignerFiles]
) -> None:
    open_to_all = {"models": ["ACME/*"], "signers": [], "at_least": 0}
    assert judged(published, asked(keys, rules=[open_to_all, {"models": ["*"], "signers": ["next"]}])).passed
    report = judged(published, asked(keys, rules=[{"models": ["BAAI/*"], "signers": ["ci"]}]))
    with pytest.raises(BundleUntrusted, match=r"no rule of .*policy\.yaml is for this model; add one"):
        trust.require_trusted(report)


RULE = {"models": ["*"], "signers": ["ci"]}
CI = {"ci": {"public_key": "ci.pub"}}


@pytest.mark.parametrize(
    ("document", "said"),
    [
        ({"signers": CI, "rules": []}, "rules: List should have at least 1 item"),
        ({"signers": CI, "rules": [{**RULE, "signers": ["cl"]}]}, "rules name cl, and signers has ci"),
        ({"signers": CI, "rules": [{**RULE, "at_least": 2}]}, "rules.0: at_least is 2, and signers names 1"),
        ({"signers": CI, "rules": [{**RULE, "model": "*"}]}, "rules.0.model: Extra inputs are not permitted"),
        ({"signers": {"ci": {"authority": "ca.pem"}}, "rules": [RULE]}, "write public_key, or authority and subject"),
        ({"signers": {"ci": {"public_key": "no.pub"}}, "rules": [RULE]}, "no.pub cannot be read: No such file"),
        ({"signers": {"ci": {"public_key": "ci.pem"}}, "rules": [RULE]}, "is no public key in PEM"),
        ({"signers": {"ci": {"public_key": "odd.pub"}}, "rules": [RULE]}, "P-256, P-384 and P-521"),
        ({"signers": {**CI, "ci2": CI["ci"]}, "rules": [RULE]}, "ci and ci2 are the same signer"),
        ({"signers": {"ci": {"authority": "ci.pub", "subject": "CN=x"}}, "rules": [RULE]}, "no certificate in PEM"),
        ({"signers": CI, "rules": [RULE], "revoked": {"ci": "2026-01-01T00:00:00Z"}}, "revoked.ci"),
        ({"signers": CI, "rules": [RULE], "revoked": {"0" * 64: "2026-01-01T00:00:00"}}, "timezone"),
    ],
)
def test_a_fault_of_a_policy_is_named(keys: dict[str, SignerFiles], document: object, said: str) -> None:
    assert keys["ci"].private.exists()
    assert signer(keys["ci"].folder, "odd", curve=ec.SECP256K1()).public.exists()
    with pytest.raises(TrustPolicyInvalid) as caught:
        policy(keys["ci"].folder, document)
    assert said in str(caught.value)
    assert not [secret for secret in keys["ci"].secrets if secret in str(caught.value)]


def test_a_policy_that_is_no_yaml_or_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TrustPolicyInvalid, match="cannot be read"):
        trust_policy.read(tmp_path / "none.yaml")
    (tmp_path / "policy.yaml").write_text("rules: [\n")
    with pytest.raises(TrustPolicyInvalid, match="is not YAML"):
        trust_policy.read(tmp_path / "policy.yaml")

"""Trust: hold the signatures of a bundle to a trust policy. Nothing of the bundle but its manifest is read."""

from __future__ import annotations

from dataclasses import dataclass

from onnx_fleet.bundles import signatures
from onnx_fleet.bundles.bundle import Bundle
from onnx_fleet.bundles.signatures import StoredSignature
from onnx_fleet.bundles.signing_key import digests_of
from onnx_fleet.bundles.trust_policy import TrustedAuthority, TrustedKey, TrustPolicy
from onnx_fleet.entities.naming import ref_of
from onnx_fleet.errors import BundleUntrusted
from onnx_fleet.store import ObjectStore


@dataclass(frozen=True, slots=True, kw_only=True)
class SignatureVerdict:
    """What one signature of a bundle is worth."""

    key_id: str
    signer: str | None
    """The name that the policy has for who made it; None where it has none, or it does not hold."""
    counts: bool
    detail: str
    """Why it does not count; empty where it does."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrustReport:
    """A bundle's signatures beside what a policy asks for."""

    model_id: str
    version: str
    policy: str
    """The file of the policy."""
    wanted: tuple[str, ...] | None
    """The signers that its rule names; None where no rule is for the model."""
    at_least: int
    signatures: tuple[SignatureVerdict, ...]

    @property
    def signed_by(self) -> tuple[str, ...]:
        """The signers whose signatures count, each once."""
        return tuple(sorted({each.signer for each in self.signatures if each.counts and each.signer}))

    @property
    def passed(self) -> bool:
        return self.wanted is not None and len(self.signed_by) >= self.at_least


def judge(found: Bundle, *, policy: TrustPolicy, store: ObjectStore) -> TrustReport:
    """Check every signature of a bundle; what is wrong is in the report."""
    rule = policy.rule_for(found.model_id)
    stored = signatures.find(store, found.model_id, found.version)
    wanted = rule.signers if rule else None
    return TrustReport(
        model_id=found.model_id,
        version=found.version,
        policy=policy.where,
        wanted=wanted,
        at_least=rule.at_least if rule else 0,
        signatures=tuple(_verdict(each, found, policy=policy, wanted=wanted or ()) for each in stored),
    )


def require_trusted(report: TrustReport) -> None:
    """Refuse a bundle that does not have the signatures that the policy asks for.

    Raises:
        BundleUntrusted: it lacks some; the message says which, and why the others do not count.
    """
    if not report.passed:
        raise BundleUntrusted(f"{ref_of(report)}: {untrusted_because(report)}")


def require_known(report: TrustReport) -> None:
    """Refuse a bundle that no signer of its rule has signed, before another one signs it.

    Raises:
        BundleUntrusted: it has no signature that counts.
    """
    if not report.signed_by:
        raise BundleUntrusted(
            f"{ref_of(report)}: no signature of it counts by {report.policy}, so nothing says that its manifest is the"
            " one that was published; look at it with `onnx-fleet verify`, and sign it with --unverified"
        )


def untrusted_because(report: TrustReport) -> str:
    """Say what a report that did not pass lacks, and what to do about it."""
    if report.wanted is None:
        return f"no rule of {report.policy} is for this model; add one, or use another model"
    others = [f"{each.key_id[:12]}… does not count: {each.detail}" for each in report.signatures if not each.counts]
    return "; ".join(
        (
            f"{report.policy} asks for signatures of {report.at_least} of {', '.join(report.wanted)}, and the bundle"
            f" has {', '.join(report.signed_by) or 'none that counts'}",
            *others,
            f"use a version that has them, or have a signer run `onnx-fleet sign {ref_of(report)} --key KEY.pem`",
        )
    )


def _verdict(
    stored: StoredSignature, found: Bundle, *, policy: TrustPolicy, wanted: tuple[str, ...]
) -> SignatureVerdict:
    key_id, signer, fault = _checked(stored, found, policy=policy)
    since = policy.revoked.get(key_id)
    if not fault and since is not None and (stored.stored_at is None or stored.stored_at >= since):
        fault = f"{signer} was revoked on {since:%Y-%m-%d %H:%M %Z}, and it is not known to be older"
    if not fault and signer not in wanted:
        fault = f"it is of {signer}, whom the rule does not name"
    return SignatureVerdict(key_id=key_id, signer=signer, counts=not fault, detail=fault)


def _checked(stored: StoredSignature, found: Bundle, *, policy: TrustPolicy) -> tuple[str, str | None, str]:
    """Return the id of the key that really made a signature, the signer's name, and why it does not hold.

    Its name in the store says nothing: whoever may write there gives it.
    """
    from onnx_fleet.bundles import model_signing_format as oms

    digests = digests_of(found.manifest, manifest_json=found.manifest_json)
    certificate = oms.certificate_of(stored.data)
    if certificate is None:
        hint = oms.key_hint(stored.data)
        keys = {each.key_id: (name, each) for name, each in policy.signers.items() if isinstance(each, TrustedKey)}
        if hint is None or hint not in keys:
            return hint or stored.key_id, None, "the policy does not know its key"
        name, key = keys[hint]
        fault = oms.fault_by_key(stored.data, digests, public_key_pem=key.public_key_pem)
        return hint, None if fault else name, fault and f"it does not hold ({fault})"
    key_id, subject, fault = oms.certificate_id(certificate), certificate.subject.rfc4514_string(), ""
    for name, each in policy.signers.items():
        if isinstance(each, TrustedAuthority) and each.subject == subject:
            fault = oms.fault_by_authority(stored.data, digests, authority_pem=each.authority_pem)
            return key_id, None if fault else name, fault and f"it does not hold ({fault})"
    return key_id, None, f"the policy does not know {subject}"

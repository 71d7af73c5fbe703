"""A trust policy: whose signatures a bundle needs, by patterns of model ids. A YAML file, read whole or refused.

    signers:
      ci: {public_key: ci.pub}                          a file beside this one
      release: {authority: acme-ca.pem, subject: "CN=onnx-fleet release,O=Acme"}
    rules:                                              the first that matches a model counts
      - {models: ["acme/*"], signers: [ci, release], at_least: 2}
      - {models: ["*"], signers: [ci]}
    revoked:
      3f0a…: 2026-11-01T00:00:00Z                       the id of a key or certificate, and since when

A model that no rule matches is refused.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError, model_validator

from onnx_fleet.bundles.signing_key import is_supported, public_key_id, public_key_pem
from onnx_fleet.entities.naming import matches
from onnx_fleet.errors import TrustPolicyInvalid

KeyId = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


@dataclass(frozen=True, slots=True, kw_only=True)
class TrustedKey:
    """Signatures of one key."""

    public_key_pem: bytes = field(repr=False)
    key_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class TrustedAuthority:
    """Signatures of whoever has a certificate of this authority for this subject."""

    authority_pem: bytes = field(repr=False)
    subject: str
    """The certificate's subject as RFC 4514 writes it: ``CN=onnx-fleet release,O=Acme``."""


Signer = TrustedKey | TrustedAuthority


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """What the models that match need."""

    models: tuple[str, ...]
    signers: tuple[str, ...]
    at_least: int
    """The number of these signers of whom there has to be a signature; 0 needs none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrustPolicy:
    """Whose signatures a bundle needs."""

    where: str
    """The file, for messages."""
    signers: Mapping[str, Signer]
    rules: tuple[Rule, ...]
    revoked: Mapping[str, AwareDatetime]
    """Keys and certificates by their ids, and the time from which on a signature is not theirs any more."""

    def rule_for(self, model_id: str) -> Rule | None:
        """Return the first rule that matches a model; None where none does."""
        return next((rule for rule in self.rules if matches(model_id, rule.models)), None)


def read(path: Path) -> TrustPolicy:
    """Read a policy and the keys that it names.

    Raises:
        TrustPolicyInvalid: a file is missing, or has a fault; all faults of the policy are named.
    """
    from ruamel.yaml import YAML
    from ruamel.yaml.error import YAMLError

    try:
        said = YAML(typ="base").load(path.read_bytes())
        document = _Document.model_validate(said)
    except OSError as err:
        raise TrustPolicyInvalid(f"{path}: cannot be read: {err.strerror}; name another file") from err
    except (YAMLError, UnicodeDecodeError) as err:
        raise TrustPolicyInvalid(f"{path}: is not YAML: {' '.join(str(err).split())}") from err
    except ValidationError as err:
        raise TrustPolicyInvalid(f"{path}: {'; '.join(_told(err))}") from err
    signers = {
        name: _signer(each, where=f"{path}: signers.{name}", folder=path.parent)
        for name, each in document.signers.items()
    }
    _require_different(signers, where=str(path))
    rules = tuple(
        Rule(models=tuple(rule.models), signers=tuple(dict.fromkeys(rule.signers)), at_least=rule.at_least)
        for rule in document.rules
    )
    return TrustPolicy(where=str(path), signers=signers, rules=rules, revoked=document.revoked)


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class _SignerSettings(_Part):
    public_key: str | None = None
    authority: str | None = None
    subject: str | None = None

    @model_validator(mode="after")
    def _one_kind(self) -> Self:
        if bool(self.public_key) == bool(self.authority) or bool(self.authority) != bool(self.subject):
            raise ValueError("write public_key, or authority and subject")
        return self


class _RuleSettings(_Part):
    models: Annotated[list[str], Field(min_length=1)]
    signers: list[str] = []
    at_least: Annotated[int, Field(ge=0)] = 1

    @model_validator(mode="after")
    def _can_be_kept(self) -> Self:
        if self.at_least > len(set(self.signers)):
            raise ValueError(f"at_least is {self.at_least}, and signers names {len(set(self.signers))}")
        return self


class _Document(_Part):
    signers: dict[str, _SignerSettings] = {}
    rules: Annotated[list[_RuleSettings], Field(min_length=1)]
    revoked: dict[KeyId, AwareDatetime] = {}

    @model_validator(mode="after")
    def _signers_are_known(self) -> Self:
        unknown = sorted({name for rule in self.rules for name in rule.signers} - set(self.signers))
        if unknown:
            raise ValueError(f"rules name {', '.join(unknown)}, and signers has {', '.join(self.signers) or 'none'}")
        return self


def _told(err: ValidationError) -> Iterable[str]:
    for fault in err.errors(include_url=False, include_input=False):
        place = ".".join(str(part) for part in fault["loc"])
        message = str(fault["msg"]).removeprefix("Value error, ")
        yield f"{place}: {message}" if place else message


def _signer(said: _SignerSettings, *, where: str, folder: Path) -> Signer:
    if said.public_key:
        key = _public_key(_bytes(folder / said.public_key, where=where), where=where)
        return TrustedKey(public_key_pem=public_key_pem(key), key_id=public_key_id(key))
    authority = _bytes(folder / str(said.authority), where=where)
    _require_certificates(authority, where=where)
    return TrustedAuthority(authority_pem=authority, subject=str(said.subject))


def _bytes(path: Path, *, where: str) -> bytes:
    try:
        return path.read_bytes()
    except OSError as err:
        raise TrustPolicyInvalid(f"{where}: {path} cannot be read: {err.strerror}; name another file") from err


def _public_key(pem: bytes, *, where: str) -> Any:
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    try:
        key = load_pem_public_key(pem)
    except (ValueError, UnsupportedAlgorithm):
        key = None
    if not is_supported(key):
        raise TrustPolicyInvalid(
            f"{where}: is no public key in PEM on one of the curves P-256, P-384 and P-521;"
            " `openssl ec -in KEY.pem -pubout -out KEY.pub` writes it"
        )
    return key


def _require_certificates(pem: bytes, *, where: str) -> None:
    from cryptography import x509

    try:
        x509.load_pem_x509_certificates(pem)
    except ValueError as err:
        raise TrustPolicyInvalid(f"{where}: authority has no certificate in PEM; name the authority's own one") from err


def _require_different(signers: Mapping[str, Signer], *, where: str) -> None:
    """Refuse one key under two names: its signature would count twice."""
    counts = Counter(each.key_id for each in signers.values() if isinstance(each, TrustedKey))
    counts.update(each.subject for each in signers.values() if isinstance(each, TrustedAuthority))
    for shared in (each for each, count in counts.items() if count > 1):
        named = [
            name
            for name, each in signers.items()
            if shared in (getattr(each, "key_id", ""), getattr(each, "subject", ""))
        ]
        raise TrustPolicyInvalid(f"{where}: {' and '.join(named)} are the same signer; leave one name out")

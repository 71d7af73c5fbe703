"""Signing keys: an elliptic curve key, with a certificate or without, read once and never shown.

No message, no ``repr`` and no record of ours has anything of a private key or of its passphrase.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Final, Self

from onnx_fleet.bundles.manifest import FILE_NAME, Manifest
from onnx_fleet.entities.naming import ref_of
from onnx_fleet.errors import SigningKeyInvalid
from onnx_fleet.store import transfer

if TYPE_CHECKING:
    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey, EllipticCurvePublicKey

_CURVES: Final = ("secp256r1", "secp384r1", "secp521r1")
_MAKE_ONE: Final = "make one with `openssl ecparam -name prime256v1 -genkey -noout -out KEY.pem`"


@dataclass(frozen=True, slots=True, kw_only=True)
class SigningKey:
    """What bundles are signed with."""

    key_id: str
    """The SHA-256 of the public key's PEM file, or of the certificate: the name of its signatures."""
    private_key_pem: bytes = field(repr=False)
    certificates_pem: tuple[bytes, ...] = field(default=(), repr=False)
    """The key's own certificate, and those between it and an authority; empty for a key alone."""

    @classmethod
    def load(
        cls,
        private_key_pem: bytes,
        *,
        where: str,
        now: datetime,
        passphrase: str | None = None,
        certificates_pem: bytes | None = None,
    ) -> Self:
        """Read a key in PEM.

        Args:
            where: what a message calls the place that the key comes from.
            now: the time at which its certificate has to be valid.
            certificates_pem: its certificate, and those behind it.
        Raises:
            SigningKeyInvalid: it is no such key, the passphrase is not its own, or the certificate cannot sign.
        """
        from cryptography.hazmat.primitives import serialization

        key = _private_key(private_key_pem, passphrase=passphrase, where=where)
        chain = _chain(certificates_pem, key=key, where=where, now=now) if certificates_pem else ()
        return cls(
            key_id=_certificate_id(chain[0]) if chain else public_key_id(key.public_key()),
            private_key_pem=key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            ),
            certificates_pem=tuple(each.public_bytes(serialization.Encoding.PEM) for each in chain),
        )

    def sign(self, made: Manifest, *, manifest_json: bytes) -> bytes:
        """Return the signature of a bundle: of its manifest, and of every file that the manifest lists.

        Args:
            manifest_json: the manifest's bytes as they stand or will stand in the store.
        """
        from onnx_fleet.bundles import model_signing_format

        return model_signing_format.sign(
            digests_of(made, manifest_json=manifest_json),
            subject=ref_of(made.bundle),
            private_key_pem=self.private_key_pem,
            certificates_pem=self.certificates_pem,
        )

    def has_made(self, signature: bytes, digests: dict[str, str]) -> bool:
        """Say whether a signature is this key's over these files; of a certificate's, whether it says so."""
        from onnx_fleet.bundles import model_signing_format

        if self.certificates_pem:
            own = model_signing_format.certificate_of(signature)
            is_own = own is not None and model_signing_format.certificate_id(own) == self.key_id
            return is_own and model_signing_format.is_over(signature, digests)
        key = _private_key(self.private_key_pem, passphrase=None, where="the signing key")
        public = public_key_pem(key.public_key())
        return not model_signing_format.fault_by_key(signature, digests, public_key_pem=public)


def digests_of(made: Manifest, *, manifest_json: bytes) -> dict[str, str]:
    """Return the SHA-256 of every file of a bundle's folder, the manifest's among them, by its path."""
    return {**{file.path: file.sha256 for file in made.files}, FILE_NAME: transfer.sha256_of(manifest_json)}


def public_key_id(key: EllipticCurvePublicKey) -> str:
    """Return the id of a key, which is what ``sha256sum KEY.pub`` prints of its PEM file as openssl writes it."""
    return hashlib.sha256(public_key_pem(key)).hexdigest()


def public_key_pem(key: EllipticCurvePublicKey) -> bytes:
    """Return a public key as PEM."""
    from cryptography.hazmat.primitives import serialization

    return key.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)


def is_supported(key: object) -> bool:
    """Say whether a public or private key is of a kind that model signing takes."""
    from cryptography.hazmat.primitives.asymmetric import ec

    kinds = (ec.EllipticCurvePrivateKey, ec.EllipticCurvePublicKey)
    return isinstance(key, kinds) and key.curve.name in _CURVES


def _private_key(pem: bytes, *, passphrase: str | None, where: str) -> EllipticCurvePrivateKey:
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey

    fault = ""
    try:
        key = serialization.load_pem_private_key(pem, passphrase.encode() if passphrase else None)
    except TypeError:
        if passphrase:
            fault = "a passphrase is given, and the key is not encrypted; leave the passphrase out"
        else:
            fault = "the key is encrypted, and no passphrase is given; give the passphrase, too"
    except (ValueError, UnsupportedAlgorithm):
        fault = f"is no private key in PEM, or the passphrase is not the key's; {_MAKE_ONE}"
    if fault:  # raised here and not above, so that no traceback has what a parser says of a key
        raise SigningKeyInvalid(f"{where}: {fault}")
    if not is_supported(key) or not isinstance(key, EllipticCurvePrivateKey):
        raise SigningKeyInvalid(f"{where}: the key is on none of the curves P-256, P-384 and P-521; {_MAKE_ONE}")
    return key


def _chain(
    pem: bytes, *, key: EllipticCurvePrivateKey, where: str, now: datetime
) -> tuple[x509.Certificate, ...]:  # fmt: skip
    from cryptography import x509

    try:
        chain = tuple(x509.load_pem_x509_certificates(pem))
    except ValueError as err:
        raise SigningKeyInvalid(f"{where}: its certificates are not in PEM; write the key's own one first") from err
    own = chain[0]
    if own.public_key() != key.public_key():
        raise SigningKeyInvalid(f"{where}: the first certificate is not of this key; write the key's own one first")
    if not own.not_valid_before_utc <= now <= own.not_valid_after_utc:
        raise SigningKeyInvalid(
            f"{where}: the certificate is valid from {own.not_valid_before_utc:%Y-%m-%d} to"
            f" {own.not_valid_after_utc:%Y-%m-%d}; have it issued anew"
        )
    if not _may_sign(own):
        raise SigningKeyInvalid(
            f"{where}: the certificate is not for signatures; have one issued with the key usage digitalSignature, or"
            " the extended key usage codeSigning"
        )
    return chain


def _may_sign(certificate: x509.Certificate) -> bool:
    """Say what the verifier of model signing will say."""
    from cryptography import x509

    values = [each.value for each in certificate.extensions]
    signs = any(isinstance(each, x509.KeyUsage) and each.digital_signature for each in values)
    code_signing = x509.oid.ExtendedKeyUsageOID.CODE_SIGNING
    return signs or any(isinstance(each, x509.ExtendedKeyUsage) and code_signing in each for each in values)


def _certificate_id(certificate: x509.Certificate) -> str:
    from onnx_fleet.bundles import model_signing_format

    return model_signing_format.certificate_id(certificate)

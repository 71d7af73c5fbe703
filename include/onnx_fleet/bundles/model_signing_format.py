"""Signatures in the format of OpenSSF model signing, made and verified by its own library, from digests that are known.

A signature is a Sigstore bundle: a DSSE envelope around an in-toto statement that lists the SHA-256 of every file.
`model_signing verify` takes it, so nobody needs our code to check one.

The library's public ``sign`` and ``verify`` hash a folder by a ``hashing.Config``, whose ``hash`` returns a manifest.
Our bundles' manifests have all digests already, and the files may be in a bucket; so ours returns a manifest of known
digests and opens no file. This way every signer and verifier of the library's public interface can be used, Sigstore's
too, and all cryptography is the library's. Of its private classes only ``Digest`` is needed, a name and some bytes.
"""

from __future__ import annotations

import base64
import json
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from model_signing import hashing, manifest, signing, verifying
from model_signing._hashing.hashing import Digest

Digests = Mapping[str, str]
"""The SHA-256 of every file of a folder: POSIX path -> hexadecimal digits."""

FOLDER = "signatures"
"""The folder beside a bundle's files that a statement leaves out, because its own signature and others lie there."""


class _Known(hashing.Config):
    """What the library takes for the hashes of a folder."""

    def __init__(self, digests: Digests) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # the library's __init__ has no annotations
        self._digests = digests

    def hash(self, model_path: hashing.PathLike, *, files_to_hash: object = None) -> manifest.Manifest:
        """Return the known digests; what a statement wants to leave out is not left out."""
        serialization = manifest.SerializationType.from_args(
            {"method": "files", "hash_type": "sha256", "allow_symlinks": False, "ignore_paths": [FOLDER]}
        )
        items = [
            serialization.new_item(path, Digest("sha256", bytes.fromhex(digest)))
            for path, digest in self._digests.items()
        ]
        return manifest.Manifest(os.fsdecode(model_path), items, serialization)


def sign(digests: Digests, *, subject: str, private_key_pem: bytes, certificates_pem: tuple[bytes, ...] = ()) -> bytes:
    """Sign the files of a folder.

    Args:
        subject: what the statement calls the folder; nobody checks it.
        private_key_pem: an elliptic curve key, not encrypted.
        certificates_pem: of that key, and those between it and an authority; none signs with the key alone.
    """
    with tempfile.TemporaryDirectory(prefix="onnx-fleet-") as scratch, _in_a_pipe(private_key_pem) as private_key:
        config, signature = signing.Config(), Path(scratch) / "signature"  # type: ignore[no-untyped-call]
        if certificates_pem:
            own, *others = _written(certificates_pem, Path(scratch))
            behind = others or [own]  # the library refuses an empty chain
            config.use_certificate_signer(private_key=private_key, signing_certificate=own, certificate_chain=behind)
        else:
            config.use_elliptic_key_signer(private_key=private_key)
        config.set_hashing_config(_Known(digests)).sign(subject, signature)
        return signature.read_bytes()


def fault_by_key(signature: bytes, digests: Digests, *, public_key_pem: bytes) -> str:
    """Say why a signature is not this key's over these files; empty where it is."""
    with tempfile.TemporaryDirectory(prefix="onnx-fleet-") as scratch:
        [key] = _written((public_key_pem,), Path(scratch))
        return _fault(lambda config: config.use_elliptic_key_verifier(public_key=key), signature, digests)


def fault_by_authority(signature: bytes, digests: Digests, *, authority_pem: bytes) -> str:
    """Say why a signature is none over these files whose certificate leads to this authority; empty where it is.

    Whose certificate it is remains to be seen: ``certificate_of`` returns it. It had to be valid when it was issued,
    and may have expired since.
    """
    with tempfile.TemporaryDirectory(prefix="onnx-fleet-") as scratch:
        chain = _written((authority_pem,), Path(scratch))
        return _fault(lambda config: config.use_certificate_verifier(certificate_chain=chain), signature, digests)


def key_hint(signature: bytes) -> str | None:
    """Return the SHA-256 of the public key that a signature says it is of; None where it names no key."""
    hint = _material(signature).get("publicKey", {}).get("hint")
    return hint if isinstance(hint, str) else None


def certificate_of(signature: bytes) -> x509.Certificate | None:
    """Return the certificate that a signature says it was made with; None where it has none."""
    try:
        first = _material(signature)["x509CertificateChain"]["certificates"][0]["rawBytes"]
        return x509.load_der_x509_certificate(base64.b64decode(first))
    except (KeyError, IndexError, TypeError, ValueError):
        return None


def certificate_id(certificate: x509.Certificate) -> str:
    """Return the SHA-256 of a certificate, as ``openssl x509 -fingerprint -sha256`` prints it, without colons."""
    return certificate.fingerprint(hashes.SHA256()).hex()


def is_over(signature: bytes, digests: Digests) -> bool:
    """Say whether a signature claims to be over these files; whether it is one is not checked."""
    try:
        statement = json.loads(base64.b64decode(json.loads(signature)["dsseEnvelope"]["payload"]))
        claimed = {each["name"]: each["digest"] for each in statement["predicate"]["resources"]}
    except (KeyError, TypeError, ValueError):
        return False
    return bool(claimed == dict(digests))


def _material(signature: bytes) -> Mapping[str, Any]:
    try:
        material = json.loads(signature)["verificationMaterial"]
    except (KeyError, TypeError, ValueError):
        return {}
    return material if isinstance(material, dict) else {}


def _fault(use: Callable[[verifying.Config], object], signature: bytes, digests: Digests) -> str:
    if not is_over(signature, digests):  # the library would list every file
        return "it is over other files, or other bytes"
    with tempfile.TemporaryDirectory(prefix="onnx-fleet-") as scratch:
        path = Path(scratch) / "signature"
        path.write_bytes(signature)
        config = verifying.Config()  # type: ignore[no-untyped-call]
        try:
            use(config)
            config.set_hashing_config(_Known(digests)).verify("bundle", path)
        except Exception as err:  # noqa: BLE001  # whatever its parsers raise means that the signature does not hold
            return f"{type(err).__name__}: {err}" if str(err) else type(err).__name__
    return ""


@contextmanager
def _in_a_pipe(data: bytes) -> Iterator[str]:
    """Give a private key a path, which the library asks for, and put it on no disk."""
    reading, writing = os.pipe()
    try:
        with os.fdopen(writing, "wb") as pipe:
            pipe.write(data)
        yield f"/dev/fd/{reading}"
    finally:
        os.close(reading)


def _written(parts: tuple[bytes, ...], folder: Path) -> list[Path]:
    paths = [folder / f"{number}.pem" for number in range(len(parts))]
    for path, part in zip(paths, parts, strict=True):
        path.write_bytes(part)
    return paths

"""SHA-256 as S3 writes it: base64 of the digest, or of the parts' digests with their number behind a dash."""

from __future__ import annotations

import base64
import binascii
import hashlib
from pathlib import Path


def encoded(sha256: str) -> str:
    """Turn a hexadecimal digest into what a request carries."""
    return base64.b64encode(bytes.fromhex(sha256)).decode()


def whole(kept: str | None) -> str | None:
    """Turn what a server keeps into a hexadecimal digest; None when it keeps nothing, or only a digest of parts."""
    if not kept or "-" in kept:
        return None
    try:
        return base64.b64decode(kept, validate=True).hex()
    except binascii.Error:
        return None


def of_parts(path: Path, part_bytes: int) -> str:
    """Return what a server keeps of a file that went up in parts of this size."""
    digests = b""
    with path.open("rb") as file:
        while part := file.read(part_bytes):
            digests += hashlib.sha256(part).digest()
    return f"{base64.b64encode(hashlib.sha256(digests).digest()).decode()}-{len(digests) // 32}"

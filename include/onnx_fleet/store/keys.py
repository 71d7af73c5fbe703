"""Object keys that cannot leave the store's prefix."""

from __future__ import annotations

import unicodedata

from onnx_fleet.errors import UnsafeModel

MAX_KEY_BYTES = 900
"""The longest key that is taken: S3 takes 1,024 bytes, the store's own prefix included."""


def checked(key: str) -> str:
    """Return the key itself, when it is a plain relative POSIX path.

    Raises:
        UnsafeModel: the key is empty, absolute, too long, or has a part that could lead elsewhere.
    """
    fault = _fault(key)
    if fault:
        raise UnsafeModel(f"{key!r}: {fault}; object keys are relative POSIX paths such as onnx/model.onnx")
    return key


def checked_prefix(prefix: str) -> str:
    """Return the prefix itself, when it is empty or a key, with or without a slash at its end."""
    if prefix:
        checked(prefix.removesuffix("/"))
    return prefix


def _fault(key: str) -> str:
    if any(part in ("", ".", "..") for part in key.split("/")):
        return "an empty part, '.' or '..' leads out of the store's prefix"
    if "\\" in key or any(unicodedata.category(char) in ("Cc", "Cs") for char in key):
        return "a backslash or a control character is not allowed"
    if len(key.encode()) > MAX_KEY_BYTES:
        return f"longer than {MAX_KEY_BYTES} bytes"
    return ""

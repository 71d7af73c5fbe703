"""An archive of small files that is held to their digests when it is read; equal files make equal archives."""

from __future__ import annotations

import hashlib
import io
import json
import zipfile
from collections.abc import Mapping

from onnx_fleet import jsonio
from onnx_fleet.errors import BundleCorrupt
from onnx_fleet.jsonio import Json

_ABOUT = "about.json"
_MADE = (1980, 1, 1, 0, 0, 0)


def pack(files: Mapping[str, bytes], *, about: Json) -> bytes:
    """Put files, and what is to be said about them, into one archive."""
    digests = {name: hashlib.sha256(data).hexdigest() for name, data in files.items()}
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, data in ((_ABOUT, jsonio.canonical({"about": about, "digests": digests})), *files.items()):
            info = zipfile.ZipInfo(name, _MADE)
            info.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(info, data)
    return buffer.getvalue()


def unpack(archive: bytes) -> tuple[dict[str, bytes], Json]:
    """Return the files of an archive, and what was said about them.

    Raises:
        BundleCorrupt: it is not such an archive, or a file is not the one that was packed.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(archive)) as opened:
            told = json.loads(opened.read(_ABOUT))
            files = {name: opened.read(name) for name in told["digests"]}
            for name, data in files.items():
                if hashlib.sha256(data).hexdigest() != told["digests"][name]:
                    raise ValueError(f"the content of {name} has changed")
            about: Json = told["about"]
    except (zipfile.BadZipFile, KeyError, TypeError, ValueError, EOFError) as err:
        raise BundleCorrupt(f"the archive is incomplete: {type(err).__name__}: {err}") from err
    return files, about

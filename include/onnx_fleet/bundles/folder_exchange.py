"""The exchange of two folders in one step: whoever opens a path finds the one or the other, whole.

The old folder goes with all that is in it, so that one with files of others is not exchanged.
"""

from __future__ import annotations

import ctypes
import errno
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Final

from onnx_fleet.errors import FolderOccupied
from onnx_fleet.store import transfer

_THIS_FOLDER: Final = -100
"""The value of AT_FDCWD on Linux: relative paths would be resolved from the working directory."""
_EXCHANGE: Final = 2
"""The value of RENAME_EXCHANGE on Linux and of RENAME_SWAP on macOS: both names exist at every moment."""
_NOT_HERE: Final = {errno.EINVAL, errno.ENOSYS, errno.ENOTSUP, errno.EXDEV, errno.EBUSY}
"""The error numbers of a file system without such an exchange, or of a folder that is a mount point."""


def exchange(new: Path, old: Path) -> None:
    """Exchange the names of two folders in one step.

    Raises:
        FolderOccupied: the file system has no such step.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    names = os.fsencode(new), os.fsencode(old)
    if sys.platform == "darwin":
        failed = libc.renamex_np(*names, _EXCHANGE)
    else:
        failed = libc.renameat2(_THIS_FOLDER, names[0], _THIS_FOLDER, names[1], _EXCHANGE)
    if not failed:
        return
    fault = OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    if fault.errno in _NOT_HERE:
        raise FolderOccupied(
            f"{old}: cannot be exchanged in one step here ({fault.strerror}): it has to be a folder on a local disk,"
            " and not a mount point; pull into a new folder and let your server use that one"
        ) from fault
    with transfer.local_disk(str(old)):
        raise fault


def require_nothing_of_others(old: Path, *, is_own: Callable[[str], bool], holds: str) -> None:
    """Refuse to exchange a folder with files of others, which would go with it.

    Args:
        is_own: says of a path in the folder, with POSIX separators, whether it belongs to what the folder holds.
        holds: what that is, for people.
    Raises:
        FolderOccupied: there are such files.
    """
    with transfer.local_disk(str(old)):
        paths = [path for path in sorted(old.rglob("*")) if path.is_symlink() or not path.is_dir()]
    others = [path for each in paths if not is_own(path := each.relative_to(old).as_posix())]
    if others:
        raise FolderOccupied(
            f"{old}: holds files that do not belong to {holds} and would be lost ({', '.join(others[:5])}); move them"
            " to another folder, then update this one"
        )

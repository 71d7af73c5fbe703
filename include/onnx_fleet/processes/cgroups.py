"""What a container may use: the limits of the cgroups that a process is in, of version 1, of version 2, or of both.

A group's limit holds for the groups inside it, so the least on the way up to where the hierarchy is mounted counts.
psutil tells the machine's memory, and the packages that look for a container's read the group at the mount alone, which
a process of a slice, a scope or a pod that shares its host's hierarchy is not in.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

_PROC = Path("/proc/self")
_ROOT = Path("/")


def memory_limit_bytes(*, proc: Path = _PROC, root: Path = _ROOT) -> int | None:
    """The least memory limit of this process's groups; None where none has one.

    Args:
        proc: has the files ``cgroup`` and ``mountinfo``.
        root: what the mount points are relative to.
    """
    limits = []
    for folder in _folders("memory", proc=proc, root=root):
        for name in ("memory.max", "memory.limit_in_bytes"):
            text = _text(folder / name)
            if text.isdigit():  # not "max"; version 1 writes a number that no machine has
                limits.append(int(text))
    return min(limits, default=None)


def cores(*, proc: Path = _PROC, root: Path = _ROOT) -> int | None:
    """The least CPU quota of this process's groups, in whole cores, one at least; None where none has one."""
    quotas = []
    for folder in _folders("cpu", proc=proc, root=root):
        quota, _, period = _text(folder / "cpu.max").partition(" ")
        if not quota:
            quota, period = _text(folder / "cpu.cfs_quota_us"), _text(folder / "cpu.cfs_period_us")
        if quota.isdigit() and period.isdigit():  # not "max", and not -1
            quotas.append(max(1, math.ceil(int(quota) / int(period))))
    return min(quotas, default=None)


def _folders(controller: str, *, proc: Path, root: Path) -> Iterator[Path]:
    """The folders of the process's groups, each from its own up to the mount point."""
    mounts = list(_mounts(controller, proc))
    for line in _text(proc / "cgroup").splitlines():
        _number, _, rest = line.partition(":")
        controllers, _, group = rest.partition(":")
        if controllers and controller not in controllers.split(","):
            continue
        for is_v2, top, point in mounts:
            if is_v2 == (not controllers):
                start = root / point.relative_to("/")
                inside = _inside(PurePosixPath(group), top)
                yield from (start / part for part in (inside, *inside.parents))


def _mounts(controller: str, proc: Path) -> Iterator[tuple[bool, PurePosixPath, PurePosixPath]]:
    """Where a controller's hierarchies are mounted: whether of version 2, the group at the mount point, the point."""
    for line in _text(proc / "mountinfo").splitlines():
        before, _, after = line.partition(" - ")
        kind, _source, options = after.split(" ", 2) if after.count(" ") >= 2 else ("", "", "")
        if kind == "cgroup2" or (kind == "cgroup" and controller in options.split(",")):
            top, point = before.split(" ")[3:5]
            yield kind == "cgroup2", PurePosixPath(top), PurePosixPath(point.replace(r"\040", " "))


def _inside(group: PurePosixPath, top: PurePosixPath) -> PurePosixPath:
    """A group below the one at the mount point; that one itself where the process's is out of sight."""
    if group.is_relative_to(top) and ".." not in group.parts:
        return group.relative_to(top)
    return PurePosixPath()


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8").strip()
    except OSError:
        return ""

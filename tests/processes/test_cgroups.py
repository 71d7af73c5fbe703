"""What a process in a container may use, in trees as the kernel shows them, and in a group of this machine."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import psutil
import pytest

from onnx_fleet.processes import cgroups, hardware, isolation

GIB = 1 << 30
NO_LIMIT_V1 = "9223372036854771712"
V2 = "31 23 0:28 {top} /sys/fs/cgroup rw,relatime shared:9 - cgroup2 cgroup rw,nsdelegate"
V1 = "35 31 0:32 {top} /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory"
V1_CPU = "32 31 0:29 {top} /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct"


def _limits(folder: Path, *, groups: str, mounts: list[str], files: Mapping[str, str]) -> tuple[int | None, int | None]:
    """Memory and cores of a process, in a tree with these files under /sys/fs/cgroup."""
    proc, root = folder / "proc", folder / "root"
    proc.mkdir()
    (proc / "cgroup").write_text(groups)
    other = "23 1 0:25 / /proc rw,nosuid - proc proc rw"
    (proc / "mountinfo").write_text("\n".join([other, *mounts]) + "\n")
    for name, text in files.items():
        path = root / "sys/fs/cgroup" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{text}\n")
    return cgroups.memory_limit_bytes(proc=proc, root=root), cgroups.cores(proc=proc, root=root)


def test_a_container_of_version_2_sees_its_own_group_at_the_mount(tmp_path: Path) -> None:
    files = {"memory.max": str(4 * GIB), "cpu.max": "150000 100000"}
    assert _limits(tmp_path, groups="0::/\n", mounts=[V2.format(top="/")], files=files) == (4 * GIB, 2)


def test_the_least_limit_on_the_way_up_counts(tmp_path: Path) -> None:
    files = {
        "kubepods.slice/memory.max": str(3 * GIB),
        "kubepods.slice/pod.slice/memory.max": str(8 * GIB),
        "kubepods.slice/pod.slice/worker.scope/memory.max": "max",
        "kubepods.slice/pod.slice/cpu.max": "max 100000",
        "kubepods.slice/cpu.max": "400000 100000",
        "another.slice/memory.max": "1",
    }
    groups = "0::/kubepods.slice/pod.slice/worker.scope\n"
    assert _limits(tmp_path, groups=groups, mounts=[V2.format(top="/")], files=files) == (3 * GIB, 4)


def test_no_limit_is_none(tmp_path: Path) -> None:
    files = {"memory.max": "max", "cpu.max": "max 100000"}
    assert _limits(tmp_path, groups="0::/\n", mounts=[V2.format(top="/")], files=files) == (None, None)


def test_a_container_of_version_1_finds_its_group_at_the_mount_though_it_is_told_the_hosts_path(tmp_path: Path) -> None:
    files = {
        "memory/memory.limit_in_bytes": str(2 * GIB),
        "cpu,cpuacct/cpu.cfs_quota_us": "50000",
        "cpu,cpuacct/cpu.cfs_period_us": "100000",
    }
    groups = "4:memory:/docker/0a1b\n3:cpu,cpuacct:/docker/0a1b\n"
    mounts = [V1.format(top="/docker/0a1b"), V1_CPU.format(top="/docker/0a1b")]
    assert _limits(tmp_path, groups=groups, mounts=mounts, files=files) == (2 * GIB, 1)


def test_a_nested_group_of_version_1_obeys_the_groups_above_it(tmp_path: Path) -> None:
    files = {
        "memory/memory.limit_in_bytes": NO_LIMIT_V1,
        "memory/outer/memory.limit_in_bytes": str(2 * GIB),
        "memory/outer/inner/memory.limit_in_bytes": NO_LIMIT_V1,
        "cpu,cpuacct/cpu.cfs_quota_us": "-1",
        "cpu,cpuacct/cpu.cfs_period_us": "100000",
    }
    groups = "4:memory:/outer/inner\n3:cpu,cpuacct:/\n0::/\n"
    mounts = [V1.format(top="/"), V1_CPU.format(top="/")]
    assert _limits(tmp_path, groups=groups, mounts=mounts, files=files) == (2 * GIB, None)


def test_a_machine_with_both_versions_obeys_the_one_that_has_the_controller(tmp_path: Path) -> None:
    unified = "41 31 0:38 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw"
    files = {"memory/worker/memory.limit_in_bytes": str(GIB), "unified/cgroup.procs": ""}
    groups = "4:memory:/worker\n0::/\n"
    assert _limits(tmp_path, groups=groups, mounts=[V1.format(top="/"), unified], files=files) == (GIB, None)


def test_a_group_outside_of_what_is_mounted_leaves_the_group_at_the_mount(tmp_path: Path) -> None:
    files = {"memory.max": str(GIB)}
    assert _limits(tmp_path, groups="0::/../../host.slice\n", mounts=[V2.format(top="/")], files=files) == (GIB, None)


def test_a_system_without_cgroups_has_no_limit(tmp_path: Path) -> None:
    assert cgroups.memory_limit_bytes(proc=tmp_path, root=tmp_path) is None
    assert cgroups.cores(proc=tmp_path, root=tmp_path) is None


@pytest.fixture
def group_of_one_gib() -> Iterator[Path | None]:
    """A cgroup of this machine; None where we may not make one."""
    found = [("memory", "memory.limit_in_bytes"), ("", "memory.max")]
    for mount, limit in ((Path("/sys/fs/cgroup") / controller, limit) for controller, limit in found):
        folder = mount / f"onnx-fleet-test-{psutil.Process().pid}"
        try:
            folder.mkdir()
        except OSError:
            continue
        try:
            with (folder / limit).open("r+") as file:  # the kernel makes it, where the controller is there
                file.write(str(GIB))
            yield folder
            return
        except OSError:
            continue
        finally:
            folder.rmdir()
    yield None


def test_a_step_has_four_fifths_of_what_its_process_may_use(group_of_one_gib: Path | None) -> None:
    total = psutil.virtual_memory().total
    assert isolation.machine_limits().memory_bytes == int(hardware.usable_memory_bytes() * 0.8) <= int(total * 0.8)
    if group_of_one_gib:  # root on a machine that lets us
        program = (
            "import sys, pathlib; pathlib.Path(sys.argv[1], 'cgroup.procs').write_text('0');"
            " from onnx_fleet.processes import isolation; print(isolation.machine_limits().memory_bytes)"
        )
        done = subprocess.run(
            [sys.executable, "-c", program, str(group_of_one_gib)], capture_output=True, text=True, check=True
        )
        assert int(done.stdout) == int(GIB * 0.8)

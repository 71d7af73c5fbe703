"""The embedded S3 server: keeps its data, and leaves nothing running."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from onnx_fleet.errors import StoreUnavailable
from onnx_fleet.store import open_store
from onnx_fleet_demo import s3_server
from onnx_fleet_demo.s3_server import EmbeddedS3


def _port_is_free(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) != 0


def test_nothing_runs_and_no_port_is_taken_afterwards(tmp_path: Path) -> None:
    with EmbeddedS3(tmp_path / "s3") as server:
        pid, port = server.pid, int(server.endpoint_url.rsplit(":", 1)[1])
        assert pid is not None
        assert s3_server.running(tmp_path / "s3") == server.endpoint_url
        listening = [row.laddr.ip for row in psutil.Process(pid).net_connections("tcp") if row.status == "LISTEN"]
        assert listening == ["127.0.0.1"]
    assert not psutil.pid_exists(pid)
    assert _port_is_free(port)
    assert s3_server.running(tmp_path / "s3") is None


def test_nothing_runs_after_a_failure_inside(tmp_path: Path) -> None:
    server = EmbeddedS3(tmp_path / "s3")
    pids: list[int | None] = []

    def fail() -> None:
        with server:
            pids.append(server.pid)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    (pid,) = pids
    assert pid is not None
    assert not psutil.pid_exists(pid)


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_what_was_written_is_there_after_a_restart(tmp_path: Path, how: signal.Signals) -> None:
    with EmbeddedS3(tmp_path / "s3") as server:
        store = open_store(f"{server.address}/prefix", s3=server.settings)
        store.create("a/b.json", b"1")
        store.replace("a/b.json", b"22", etag=store.read_tagged("a/b.json")[1])
        before = store.stat("a/b.json")
        assert server.pid is not None
        os.killpg(server.pid, how)
    with EmbeddedS3(tmp_path / "s3") as server:
        store = open_store(f"{server.address}/prefix", s3=server.settings)
        assert store.read("a/b.json") == b"22"
        assert store.stat("a/b.json") == before


def test_what_a_kill_in_the_middle_of_a_write_left_is_mended(tmp_path: Path) -> None:
    with EmbeddedS3(tmp_path / "s3") as server:
        open_store(server.address, s3=server.settings).create("a.json", b"old")
    (body,) = (tmp_path / "s3" / "objects").rglob("a.json")
    described = body.with_name("a.json.meta.json")
    later = described.stat().st_mtime_ns + 1_000_000_000
    body.write_bytes(b"newer bytes")
    os.utime(body, ns=(later, later))
    body.with_name("b.json.tmp").write_bytes(b"ha")

    with EmbeddedS3(tmp_path / "s3") as server:
        store = open_store(server.address, s3=server.settings)
        assert [(info.key, info.size_bytes) for info in store.list("")] == [("a.json", 11)]
        assert store.read("a.json") == b"newer bytes"


def test_a_server_whose_starter_was_killed_is_replaced(tmp_path: Path) -> None:
    starter = (
        "import os, signal, sys; from pathlib import Path; from onnx_fleet_demo.s3_server import EmbeddedS3\n"
        "with EmbeddedS3(Path(sys.argv[1])) as server:\n"
        "    print(server.pid, flush=True); os.kill(os.getpid(), signal.SIGKILL)"
    )
    killed = subprocess.run(
        [sys.executable, "-c", starter, str(tmp_path / "s3")], capture_output=True, text=True, check=False
    )
    orphan = int(killed.stdout)
    assert s3_server.running(tmp_path / "s3")

    with EmbeddedS3(tmp_path / "s3") as server:
        assert server.pid != orphan
        assert not psutil.pid_exists(orphan)
        assert open_store(server.address, s3=server.settings).create("a", b"1")


def test_one_folder_has_one_server(tmp_path: Path) -> None:
    with (
        EmbeddedS3(tmp_path / "s3"),
        pytest.raises(StoreUnavailable, match="another server uses this folder"),
        EmbeddedS3(tmp_path / "s3"),
    ):
        pass


def test_a_server_that_cannot_start_says_where_to_read_why(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with (
            pytest.raises(StoreUnavailable, match=r"server\.log"),
            EmbeddedS3(tmp_path / "s3", port=taken.getsockname()[1]),
        ):
            pass
    with EmbeddedS3(tmp_path / "s3"):
        pass

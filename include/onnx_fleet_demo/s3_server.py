"""An S3 server for one machine: ministack as a child process on loopback, its data in a folder.

    python -m onnx_fleet_demo.s3_server --data DIR --port 8333 --bucket onnx-fleet

What ministack (1.4) keeps, seen running: every object's body and metadata are on disk, by rename, before its PUT is
answered, so neither SIGTERM nor SIGKILL loses an answered write. A SIGKILL in the middle of a write leaves a ``.tmp``
file, which the next start would list as an object, or a body that is newer than its metadata, which would then be
served with the old length: both are mended before a start. A multipart upload that is not complete lives in memory
only. It checks no signature, so it belongs on loopback.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import socket
import subprocess
import sys
import urllib.request
from pathlib import Path
from types import TracebackType
from typing import Self

import boto3
import psutil
from botocore.exceptions import ClientError
from filelock import FileLock, Timeout
from tenacity import Retrying, retry_if_exception_type, stop_after_attempt, stop_after_delay, wait_fixed

from onnx_fleet.errors import StoreUnavailable
from onnx_fleet.store import S3Settings
from onnx_fleet.store.address import MIB
from onnx_fleet_demo import processes

BUCKET = "onnx-fleet"
REGION = "us-east-1"
START_TIMEOUT_S = 60.0
STOP_TIMEOUT_S = 15.0

_HEALTH = "/_ministack/health"
LOGIN = "a-key-for-anybody"
"""The key and secret of the server: Airflow masks it in every log, so no model's name may contain it."""


class _NotYet(Exception):
    """The server does not answer yet."""


class EmbeddedS3:
    """A context manager: inside it the server runs and has a bucket; afterwards nothing of it runs."""

    def __init__(self, data_dir: Path, *, port: int = 0, bucket: str = BUCKET) -> None:
        """Prepare a server; entering the context starts it.

        Args:
            data_dir: the folder of the objects, made when missing. Only one server may use it at a time.
            port: the port to listen on; 0 takes a free one.
        """
        self.data_dir = data_dir.absolute()
        self.bucket = bucket
        self._wanted_port = port
        self._port = 0
        self._lock = FileLock(self.data_dir / "server.lock", timeout=0)
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def endpoint_url(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    @property
    def address(self) -> str:
        """The store's address, for onnx_fleet.store.open_store."""
        return f"s3://{self.bucket}"

    @property
    def settings(self) -> S3Settings:
        return settings_for(self.endpoint_url)

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process else None

    def __enter__(self) -> Self:
        self.data_dir.mkdir(parents=True, exist_ok=True)
        try:
            self._lock.acquire()
        except Timeout as err:
            raise StoreUnavailable(
                f"{self.data_dir}: another server uses this folder; stop it, or choose another folder"
            ) from err
        try:
            _end_orphan(self.data_dir)
            _mend(self.data_dir / "objects")
            for attempt in Retrying(
                retry=retry_if_exception_type(StoreUnavailable),
                stop=stop_after_attempt(1 if self._wanted_port else 3),  # a free port may be taken by another program
                reraise=True,
            ):
                with attempt:
                    self._start()
            self._make_bucket()
            _endpoint_file(self.data_dir).write_text(json.dumps({"endpoint_url": self.endpoint_url, "pid": self.pid}))
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()

    def stop(self) -> None:
        """End the server and everything that it started; calling it again does nothing."""
        process, self._process = self._process, None
        try:
            if process is not None:
                _end_group(process)
            if self._lock.is_locked:
                _endpoint_file(self.data_dir).unlink(missing_ok=True)
        finally:
            self._lock.release()

    def _start(self) -> None:
        self._port = self._wanted_port or _free_port()
        temporary = self.data_dir / "tmp"
        temporary.mkdir(exist_ok=True)
        with (self.data_dir / "server.log").open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "ministack"],
                env=self._environment(temporary),
                cwd=self.data_dir,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        for attempt in Retrying(
            retry=retry_if_exception_type(_NotYet),
            wait=wait_fixed(0.05),
            stop=stop_after_delay(START_TIMEOUT_S),
            reraise=True,
        ):
            with attempt:
                self._require_alive()

    def _environment(self, temporary: Path) -> dict[str, str]:
        inherited = {
            name: os.environ[name] for name in ("PATH", "HOME", "LANG", "LD_LIBRARY_PATH") if name in os.environ
        }
        return inherited | {
            "BIND_HOST": "127.0.0.1",
            "GATEWAY_PORT": str(self._port),
            "SERVICES": "s3",
            "SFTP_ENABLED": "0",
            "IOT_MTLS_ENABLED": "0",
            "S3_PERSIST": "1",
            "S3_DATA_DIR": str(self.data_dir / "objects"),
            "PERSIST_STATE": "1",
            "STATE_DIR": str(self.data_dir / "state"),
            "MINISTACK_REGION": REGION,
            "LOG_LEVEL": "WARNING",
            "TMPDIR": str(temporary),
            "PYTHONUNBUFFERED": "1",
        }

    def _require_alive(self) -> None:
        if self._process is None or self._process.poll() is not None:
            raise StoreUnavailable(
                f"{self.endpoint_url}: the embedded S3 server ended while it started;"
                f" read {self.data_dir / 'server.log'}"
            )
        if not _healthy(self.endpoint_url):
            raise _NotYet(f"{self.endpoint_url} does not answer; read {self.data_dir / 'server.log'}")

    def _make_bucket(self) -> None:
        client = boto3.session.Session().client(
            "s3",
            endpoint_url=self.endpoint_url,
            region_name=REGION,
            aws_access_key_id=LOGIN,
            aws_secret_access_key=LOGIN,
        )
        try:
            client.create_bucket(Bucket=self.bucket)
        except ClientError as err:
            if err.response.get("Error", {}).get("Code") not in ("BucketAlreadyOwnedByYou", "BucketAlreadyExists"):
                raise


def settings_for(endpoint_url: str) -> S3Settings:
    """Return the settings that reach an embedded server."""
    return S3Settings(
        endpoint_url=endpoint_url,
        region=REGION,
        path_style=True,
        access_key_id=LOGIN,
        secret_access_key=LOGIN,
        # ministack appends each request's body piece by piece: 91 MB took 41 s as one body, 3.5 s in parts of 8 MiB
        multipart_bytes=8 * MIB,
    )


def running(data_dir: Path) -> str | None:
    """Return the endpoint of the server that uses this folder now, whoever started it; None when there is none."""
    try:
        endpoint_url = str(json.loads(_endpoint_file(data_dir).read_text())["endpoint_url"])
    except (OSError, ValueError, KeyError):
        return None
    return endpoint_url if _healthy(endpoint_url) else None


def _endpoint_file(data_dir: Path) -> Path:
    return data_dir / "endpoint.json"


def _healthy(endpoint_url: str) -> bool:
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with direct.open(endpoint_url + _HEALTH, timeout=5) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _end_group(process: subprocess.Popen[bytes]) -> None:
    for number in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, number)
        except ProcessLookupError:
            break
        try:
            process.wait(timeout=STOP_TIMEOUT_S)
            break
        except subprocess.TimeoutExpired:
            continue
    process.wait()


def _end_orphan(data_dir: Path) -> None:
    """End a server whose starter was killed: two on one folder would not see each other's writes."""
    try:
        left = psutil.Process(int(json.loads(_endpoint_file(data_dir).read_text())["pid"]))
        ours = left.environ().get("S3_DATA_DIR") == str(data_dir / "objects")
    except (OSError, ValueError, KeyError, TypeError, psutil.Error):
        return
    if not ours:
        return  # the number belongs to some other process by now
    for number in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(left.pid, number)
            left.wait(timeout=STOP_TIMEOUT_S)
        except psutil.TimeoutExpired:
            continue
        except (ProcessLookupError, psutil.NoSuchProcess):
            pass
        return


def _mend(objects: Path) -> None:
    """Undo what a kill in the middle of a write left (see the module's text)."""
    for path in list(objects.rglob("*")):
        if path.name.endswith(".tmp"):
            path.unlink()
        elif path.name.endswith(".meta.json"):
            body = path.with_name(path.name.removesuffix(".meta.json"))
            if not body.exists() or body.stat().st_mtime_ns > path.stat().st_mtime_ns:
                path.unlink()


def main() -> None:
    """Serve until SIGINT or SIGTERM."""
    parser = argparse.ArgumentParser(prog="python -m onnx_fleet_demo.s3_server", description="An S3 server.")
    parser.add_argument("--data", type=Path, required=True, help="the folder of the objects")
    parser.add_argument("--port", type=int, default=0, help="0 takes a free one; the address is printed")
    parser.add_argument("--bucket", default=BUCKET)
    options = parser.parse_args()
    done = processes.asked_to_end()
    with EmbeddedS3(options.data, port=options.port, bucket=options.bucket) as server:
        print(f"S3 at {server.endpoint_url}", flush=True)
        done.wait()


if __name__ == "__main__":
    main()

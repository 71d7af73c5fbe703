"""PostgreSQL from the machine's own packages, in the place of its image.

    python -m onnx_fleet_demo.native_stack.postgres --data DIR --port 5432

As the image's entrypoint it reads POSTGRES_USER, POSTGRES_PASSWORD and POSTGRES_DB, makes the database when there is
none, and becomes the server. The server refuses to be root, so for root it runs as another user.
"""

from __future__ import annotations

import argparse
import os
import pwd
import re
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Final

USERS: Final = ("postgres", "nobody")
"""Who runs the server where root starts it; the first of them that the machine has."""


def binaries() -> Path | None:
    """Return the folder of the newest server that is installed, by Debian's packages or on PATH; None without one."""
    installed = Path("/usr/lib/postgresql").glob("*/bin/initdb")
    newest = max(installed, key=lambda path: [int(number) for number in re.findall(r"\d+", str(path))], default=None)
    found = newest or shutil.which("initdb")
    return Path(found).resolve().parent if found else None


def forget(data: Path) -> None:
    """Remove the data where they lie in a temporary folder."""
    if data.is_symlink():
        shutil.rmtree(data.resolve().parent, ignore_errors=True)
        data.unlink()


def _reachable(data: Path) -> Path:
    """Return the data's folder; a temporary one behind a link where the server's user could not reach its place."""
    if os.geteuid() != 0 or all(parent.stat().st_mode & 0o001 for parent in data.parents):
        return data
    if not (data.is_symlink() and data.readlink().parent.exists()):
        data.unlink(missing_ok=True)
        folder = Path(tempfile.mkdtemp(prefix="onnx-fleet-postgres-", dir="/tmp"))
        folder.chmod(0o711)
        data.symlink_to(folder / "data")
    return data.readlink()


def main() -> None:
    """Make the database where there is none, then become the server."""
    parser = argparse.ArgumentParser(prog="python -m onnx_fleet_demo.native_stack.postgres")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--port", required=True)
    options = parser.parse_args()
    folder = binaries()
    if folder is None:
        raise SystemExit("no PostgreSQL server is installed")
    user = _user()
    os.chdir("/")  # the server's user may not enter every folder that root may
    data = _reachable(options.data)
    if not data.exists():
        _make(data, folder=folder, user=user)
    if user is not None:
        os.setgroups([])
        os.setgid(user.pw_gid)
        os.setuid(user.pw_uid)
    settings = {
        "port": options.port,
        "listen_addresses": "127.0.0.1",
        "unix_socket_directories": "",
        "fsync": "off",  # a process that is killed loses nothing by it; only a machine that loses its power would
    }
    arguments = [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]
    os.execv(folder / "postgres", ["postgres", "-D", str(data), *arguments])


def _user() -> pwd.struct_passwd | None:
    if os.geteuid() != 0:
        return None
    known = {entry.pw_name: entry for entry in pwd.getpwall()}
    return next(known[name] for name in USERS if name in known)


def _make(data: Path, *, folder: Path, user: pwd.struct_passwd | None) -> None:
    """Make the data folder with its one database, beside its place: one that is there is whole."""
    unfinished = data.with_name(f"{data.name}.unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(mode=0o700)
    with tempfile.NamedTemporaryFile("w", dir=data.parent) as password:
        password.write(os.environ["POSTGRES_PASSWORD"])
        password.flush()
        if user is not None:
            os.chown(unfinished, user.pw_uid, user.pw_gid)
            os.chown(password.name, user.pw_uid, user.pw_gid)
        owner = os.environ["POSTGRES_USER"]
        login = ["--username", owner, "--pwfile", password.name, "--auth", "scram-sha-256"]
        texts = ["--encoding", "UTF8", "--no-locale"]
        _run([folder / "initdb", "--pgdata", unfinished, *login, *texts, "--no-sync"], user=user)
    database = f'CREATE DATABASE "{os.environ["POSTGRES_DB"]}"\n'
    _run([folder / "postgres", "--single", "-D", unfinished, "postgres"], user=user, feed=database)
    unfinished.rename(data)


def _run(command: list[str | Path], *, user: pwd.struct_passwd | None, feed: str = "") -> None:
    subprocess.run(
        command,
        input=feed,
        text=True,
        check=True,
        user=None if user is None else user.pw_uid,
        group=None if user is None else user.pw_gid,
        extra_groups=None if user is None else [],
    )


if __name__ == "__main__":
    main()

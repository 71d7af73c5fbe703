"""Write .env for docker compose: the names of .env.example, with a random value for each that has none.

``python -m onnx_fleet_demo.compose_env`` in the repository's root; a value that .env has already is never changed.
"""

from __future__ import annotations

import base64
import os
import re
import secrets
import sys
from pathlib import Path

_ASSIGNMENT = re.compile(r"^(?:export\s+)?([A-Z][A-Z0-9_]*)\s*=(.*)$")
_FERNET = "AIRFLOW_FERNET_KEY"
_NEXT = """Next: docker compose up --build --detach, then sign in as admin with AIRFLOW_ADMIN_PASSWORD from that file.

model_reexport, model_promote, registry_feed, registry_sinks, rollout_approval and licence_approval run from the start.
The scheduled DAGs are paused until you have read the catalogue that they work on, include/catalogue.yaml; the switch
beside a DAG's name starts them, and so does

  docker compose exec airflow-scheduler airflow dags unpause fleet_reexport
  docker compose exec airflow-scheduler airflow dags unpause bundle_audit

The command line works against this store with

  set -a; . ./.env; set +a
  export AWS_ACCESS_KEY_ID=$S3_ACCESS_KEY_ID AWS_SECRET_ACCESS_KEY=$S3_SECRET_ACCESS_KEY AWS_REGION=us-east-1
  export AWS_ENDPOINT_URL_S3=http://127.0.0.1:$S3_PORT ONNX_FLEET_STORE=s3://$S3_BUCKET/fleet
  onnx-fleet list"""


def read(text: str) -> dict[str, str]:
    """Return the value of every assignment by name; comments are left out."""
    found = (_ASSIGNMENT.match(line.strip()) for line in text.splitlines())
    return {match.group(1): match.group(2) for match in found if match}


def fill(example: str) -> str:
    """Return the example with a new random value after each bare ``NAME=``."""
    lines = [
        f"{line}{_secret(line[:-1])}" if re.fullmatch(r"[A-Z][A-Z0-9_]*=", line) else line for line in _body(example)
    ]
    return "\n".join(["# Written by `make env` from .env.example. Keep it to yourself; never commit it.", *lines, ""])


def complete(existing: str, *, example: str) -> str:
    """Return the existing text as it is, followed by what the example names and it does not."""
    have = read(existing)
    missing = {name: value for name, value in read(example).items() if name not in have}
    if not missing:
        return existing
    added = [f"{name}={value or _secret(name)}" for name, value in missing.items()]
    return "\n".join([existing.rstrip("\n"), "", "# Added by `make env`", *added, ""])


def write(root: Path, *, folder: Path | None = None) -> tuple[str, ...]:
    """Make .env name everything that root/.env.example does; returns the names that were added.

    Only the owner may read a file that is made here.

    Args:
        folder: the folder of .env; root where it is None.
    """
    example = (root / ".env.example").read_text(encoding="utf-8")
    target = (folder or root) / ".env"
    before = target.read_text(encoding="utf-8") if target.exists() else None
    after = fill(example) if before is None else complete(before, example=example)
    if after != before:
        unfinished = target.with_name(".env.unfinished")
        unfinished.unlink(missing_ok=True)
        with os.fdopen(os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
            file.write(after)
        unfinished.replace(target)
    return tuple(sorted(_names(after) - _names(before)))


def _body(example: str) -> list[str]:
    """Return the example without the paragraph at its top, which describes the example itself."""
    return example.rstrip("\n").partition("\n\n")[2].splitlines()


def _secret(name: str) -> str:
    """Return a random value, of characters that need no escapes in a URL, in JSON and on a command line."""
    if name == _FERNET:
        return base64.urlsafe_b64encode(secrets.token_bytes(32)).decode()
    return secrets.token_hex(24)


def _names(text: str | None) -> set[str]:
    return set(read(text)) if text is not None else set()


def main(arguments: list[str]) -> None:
    """Write .env, and say what was done."""
    root = Path(arguments[0] if arguments else ".").absolute()
    added = write(root)
    if not added:
        print(f"{root / '.env'} has everything; nothing was changed. To start over, remove it.")
        return
    print(f"{root / '.env'}: {', '.join(added)}")
    print(_NEXT)


if __name__ == "__main__":
    main(sys.argv[1:])

"""The options that the benchmarks share."""

from __future__ import annotations

import argparse
from pathlib import Path

FOLDER = Path("var/bench")
PEER_VENV = Path(__file__).resolve().parents[1] / ".venv-consumers"
"""Where the Makefile installs optimum."""


def parser(name: str, description: str | None, *, names: str | None = None) -> argparse.ArgumentParser:
    """A benchmark's parser, with the folder that everything is kept in.

    Args:
        description: the module's docstring; its first line is shown.
        names: what may be chosen by name; None is nothing.
    """
    first_line = (description or "").strip().splitlines()[0]
    made = argparse.ArgumentParser(prog=f"python -m benchmarks.{name}", description=first_line)
    made.add_argument("--folder", type=Path, default=FOLDER, help="keeps checkpoints, downloads and results")
    if names is not None:
        made.add_argument("names", nargs="*", metavar="NAME", help=f"only these {names}")
    return made


def add_peer(parser: argparse.ArgumentParser) -> None:
    """The option that says where the peer is."""
    parser.add_argument("--peer-venv", type=Path, default=PEER_VENV, help="the environment that optimum is pinned in")


def require_peer(venv: Path) -> Path:
    """The environment's interpreter.

    Raises:
        SystemExit: optimum is not installed there.
    """
    if not (venv / "bin" / "optimum-cli").exists():
        raise SystemExit(f"optimum is not installed in {venv}: run `make {PEER_VENV.name}/.installed`")
    return venv / "bin" / "python"

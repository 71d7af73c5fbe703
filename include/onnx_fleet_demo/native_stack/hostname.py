"""The host name of a service that has no host of its own: ``[core] hostname_callable`` of a native stack."""

from __future__ import annotations

import os


def hostname() -> str:
    """Return HOSTNAME, which a container has from its engine."""
    return os.environ["HOSTNAME"]

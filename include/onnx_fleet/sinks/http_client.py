"""The HTTP client of the sinks that need no client of a registry's own."""

from __future__ import annotations

import logging
from functools import cache

import httpx2

logging.getLogger("httpx2").setLevel(logging.WARNING)  # it has a line for each request, with its whole address


@cache
def client() -> httpx2.Client:
    """Return one client for all servers: it keeps connections, and to load the certificates takes 0.1 s."""
    return httpx2.Client(timeout=60.0)

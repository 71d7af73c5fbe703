"""The Hub's failures, on demand, and a count of what was asked."""

from __future__ import annotations

import threading
from collections import Counter
from dataclasses import dataclass, replace
from typing import Literal

Route = Literal[
    "list", "info", "tree", "refs", "commits", "auth-check", "file-head", "file-get", "other",
    "whoami", "create", "card", "preupload", "lfs-batch", "lfs-put", "lfs-verify", "commit", "discussions",
]  # fmt: skip

Kind = Literal[
    "repo_not_found",
    "revision_not_found",
    "entry_not_found",
    "gated",
    "unauthorized",
    "rate_limited",
    "server_error",
    "cut",
    "wrong_size",
    "corrupt",
    "answer_lost",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """A failure: what goes wrong, where, and how often. None matches everything.

    After ``answer_lost`` an upload is done, and its sender is not told.
    """

    kind: Kind
    repo_id: str | None = None
    path: str | None = None
    """The path of a file of the repo; only file routes match then."""
    route: Route | None = None
    times: int | None = None
    """The number of requests that fail; None is all, until the failures are cleared."""
    status: int = 503
    """The HTTP status of a server_error."""
    retry_after_s: int = 0
    """The seconds after which rate_limited and server_error ask to come back."""
    retry_header: Literal["ratelimit", "retry-after", "none"] = "ratelimit"
    """The header in which the server says when to come back."""
    after_bytes: int = 0
    """The number of bytes of the file that are sent before a cut."""

    def hits(self, route: Route, repo_id: str | None, path: str | None) -> bool:
        """Say whether a request is to fail; only where a file is sent can its body be ruined."""
        if self.kind in ("cut", "wrong_size", "corrupt") and route != "file-get":
            return False
        return (
            self.route in (None, route)
            and self.repo_id in (None, repo_id)
            and (self.path is None or (self.path == path and route in ("file-head", "file-get")))
        )


class FailureBook:
    """The failures to come, taken in the order in which they were written."""

    def __init__(self) -> None:
        self._failures: list[Failure] = []
        self._lock = threading.Lock()

    def add(self, failure: Failure) -> None:
        with self._lock:
            self._failures.append(failure)

    def clear(self) -> None:
        with self._lock:
            self._failures.clear()

    def take(self, route: Route, repo_id: str | None, path: str | None) -> Failure | None:
        """Return the failure that a request meets, if any, and count it down."""
        with self._lock:
            for index, failure in enumerate(self._failures):
                if not failure.hits(route, repo_id, path):
                    continue
                if failure.times is not None:
                    if failure.times > 1:
                        self._failures[index] = replace(failure, times=failure.times - 1)
                    else:
                        del self._failures[index]
                return failure
        return None


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """One request that the Hub answered."""

    route: Route
    repo_id: str | None
    path: str | None
    status: int
    range_header: str | None = None


class RequestLog:
    """Every request, in order, for tests that hold the product to a request budget."""

    def __init__(self) -> None:
        self._asked: list[Asked] = []
        self._lock = threading.Lock()

    def add(self, asked: Asked) -> None:
        with self._lock:
            self._asked.append(asked)

    def clear(self) -> None:
        with self._lock:
            self._asked.clear()

    @property
    def asked(self) -> tuple[Asked, ...]:
        with self._lock:
            return tuple(self._asked)

    def counts(self) -> Counter[str]:
        """Return the number of requests by route."""
        return Counter(asked.route for asked in self.asked)

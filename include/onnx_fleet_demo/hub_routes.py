"""The requests to the local Hub, taken apart, and its refusals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from typing import Final
from urllib.parse import unquote

from onnx_fleet_demo.hub_failures import Failure, Route

_OF_NO_REPO: Final[Mapping[str, Route]] = {
    "/api/whoami-v2": "whoami",
    "/api/repos/create": "create",
    "/api/validate-yaml": "card",
}
_OF_LFS: Final[Mapping[str, Route]] = {"batch": "lfs-batch", "verify": "lfs-verify"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One request, taken apart."""

    route: Route
    repo_id: str | None = None
    revision: str = "main"
    path: str = ""


def parsed(path: str, method: str) -> Call:
    """Take a path apart; parts are unquoted one by one, as revisions may hold slashes."""
    parts = [unquote(part) for part in path.strip("/").split("/")]
    if path in _OF_NO_REPO:
        return Call(route=_OF_NO_REPO[path])
    if (lfs := _lfs(parts)) is not None:
        return lfs
    if parts[:2] != ["api", "models"]:
        if "resolve" not in parts[1:3]:
            return Call(route="other")
        at = parts.index("resolve", 1)
        route: Route = "file-head" if method == "HEAD" else "file-get"
        revision = parts[at + 1] if len(parts) > at + 1 else ""
        return Call(route=route, repo_id="/".join(parts[:at]), revision=revision, path="/".join(parts[at + 2 :]))
    rest = parts[2:]
    if not rest:
        return Call(route="list")
    routes: Mapping[str, Route] = {
        "revision": "info",
        "tree": "tree",
        "refs": "refs",
        "commits": "commits",
        "auth-check": "auth-check",
        "preupload": "preupload",
        "commit": "commit",
        "discussions": "discussions",
    }
    for at in (2, 1):
        if len(rest) > at and rest[at] in routes:
            revision = rest[at + 1] if len(rest) > at + 1 else "main"
            return Call(
                route=routes[rest[at]], repo_id="/".join(rest[:at]), revision=revision, path="/".join(rest[at + 2 :])
            )
    return Call(route="info", repo_id="/".join(rest)) if len(rest) <= 2 else Call(route="other")


def _lfs(parts: Sequence[str]) -> Call | None:
    """Take a path of LFS apart: ``<repo>.git/info/lfs/objects/batch``, and what the answer to that names."""
    if parts[0] == "_lfs" and len(parts) > 2:
        return Call(route="lfs-put", repo_id="/".join(parts[1:-1]), path=parts[-1])
    for action, route in _OF_LFS.items():
        if (*parts[-4:],) == ("info", "lfs", "objects", action):
            return Call(route=route, repo_id="/".join(parts[:-4]).removesuffix(".git"))
    return None


class Refused(Exception):
    """The error that becomes the answer."""

    def __init__(self, status: int, message: str, *, code: str | None = None, **headers: str) -> None:
        super().__init__(message)
        self.status = status
        self.headers = {name.replace("_", "-"): value for name, value in headers.items()}
        if code:
            self.headers["X-Error-Code"] = code
        self.headers["X-Error-Message"] = message


def refuse(failure: Failure, *, has_token: bool = True) -> None:
    """Answer as the Hub does when this goes wrong; ruined bodies are sent elsewhere.

    Raises:
        Refused: always, but for the failures that only ruin a file's body.
    """
    match failure.kind:
        case "repo_not_found":
            raise Refused(HTTPStatus.NOT_FOUND, "Repository not found", code="RepoNotFound")
        case "revision_not_found":
            raise Refused(HTTPStatus.NOT_FOUND, "Invalid rev id", code="RevisionNotFound")
        case "entry_not_found":
            raise Refused(HTTPStatus.NOT_FOUND, "Entry not found", code="EntryNotFound")
        case "gated":
            message = f"Access to model {failure.repo_id} is restricted and you are not in the authorized list."
            status = HTTPStatus.FORBIDDEN if has_token else HTTPStatus.UNAUTHORIZED
            raise Refused(status, message, code="GatedRepo")
        case "unauthorized":
            raise Refused(HTTPStatus.UNAUTHORIZED, "Invalid credentials in Authorization header")
        case "rate_limited":
            raise Refused(HTTPStatus.TOO_MANY_REQUESTS, "We had to rate limit you.", **_come_back(failure))
        case "server_error":
            headers = {"Retry_After": str(failure.retry_after_s)} if failure.retry_after_s else {}
            raise Refused(failure.status, "Internal Error - We're working hard to fix this", **headers)


def _come_back(failure: Failure) -> dict[str, str]:
    match failure.retry_header:
        case "ratelimit":
            # The same headers stand on every answer; no request left is what tells a limit.
            return {"RateLimit": f'"api";r=0;t={failure.retry_after_s}'}
        case "retry-after":
            return {"Retry_After": str(failure.retry_after_s), "RateLimit": ""}
        case "none":
            return {"RateLimit": ""}

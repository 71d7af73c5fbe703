"""What the local Hub does with uploads: accounts, new repos, LFS objects, commits and pull requests.

It holds every upload to what the Hub holds it to: an LFS object has the digest that it is sent under, a commit names
objects that are there and the parent that it was made on, and who writes has the right to. Pull requests are branches
``refs/pr/<number>`` of a repo.
"""

from __future__ import annotations

import base64
import hashlib
import json
import shutil
import threading
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from http import HTTPStatus
from io import BufferedIOBase
from pathlib import Path
from typing import Any, Final, Literal

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from onnx_fleet_demo.hub_documents import front_matter
from onnx_fleet_demo.hub_failures import Route
from onnx_fleet_demo.hub_repos import HubRepos, Settings, is_lfs
from onnx_fleet_demo.hub_routes import Call, Refused

Document = dict[str, object]

ROUTES: Final[frozenset[Route]] = frozenset({"preupload", "lfs-batch", "lfs-verify", "commit", "discussions"})
"""The routes of a repo that are answered here."""
_CHUNK_BYTES: Final = 1 << 20
_MOST_REGULAR_BYTES: Final = 10_000_000
_AT: Final = "2026-11-01T00:00:00.000Z"


@dataclass(frozen=True, slots=True, kw_only=True)
class Account:
    """Who has a token."""

    name: str
    orgs: tuple[str, ...] = ()
    """The organisations that it may write for."""

    def may_write(self, repo_id: str) -> bool:
        return repo_id.partition("/")[0] in (self.name, *self.orgs)


@dataclass(frozen=True, slots=True, kw_only=True)
class PullRequest:
    """A change that was proposed."""

    repo_id: str
    number: int
    title: str
    description: str
    author: str
    status: Literal["open", "closed", "merged"] = "open"

    @property
    def branch(self) -> str:
        return f"refs/pr/{self.number}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Committed:
    """A commit that was made by an upload."""

    repo_id: str
    revision: str
    summary: str
    paths: tuple[str, ...]
    """The paths that it adds, changes or removes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """One request that belongs to an upload."""

    call: Call
    token: str
    query: Mapping[str, str]
    body: bytes


class Uploads:
    """The part of a Hub that is written to.

    Attributes:
        accounts: who may write, by token.
        commits: every commit, in order.
        received: the digests of the LFS objects that were sent, in order.
        pull_requests: every pull request, in order.
    """

    def __init__(self, repos: HubRepos) -> None:
        self._repos = repos
        self._objects = repos.root / ".lfs"
        self._lock = threading.RLock()
        self.accounts: dict[str, Account] = {}
        self.commits: list[Committed] = []
        self.received: list[str] = []
        self.pull_requests: list[PullRequest] = []

    def answer(self, asked: Asked, *, url: str) -> tuple[int, Document]:
        """Return the status and the answer to a request, wherever it is not for the bytes of an object."""
        call, token, query = asked.call, asked.token, asked.query
        repo_id, revision = call.repo_id or "", call.revision
        if call.route == "commit":
            create_pr = query.get("create_pr") == "1"
            return 200, self.commit(token, repo_id, revision, asked.body, create_pr=create_pr, url=url)
        if call.route == "whoami":
            return 200, self.whoami(token)
        if call.route == "discussions":
            return 200, self.discussions(repo_id, author=query.get("author"))
        said = json.loads(asked.body)
        if call.route == "card":
            return self.validated_card(said["content"])
        if call.route == "create":
            return 200, self.create(token, said, url=url)
        self.account(token)
        match call.route:
            case "preupload":
                return 200, self.preupload(repo_id, revision, said)
            case "lfs-batch":
                return 200, self.lfs_batch(repo_id, said, url=url)
            case _:
                return 200, self.verify(repo_id, said)

    def account(self, token: str) -> Account:
        if token not in self.accounts:
            raise Refused(HTTPStatus.UNAUTHORIZED, "Invalid credentials in Authorization header")
        return self.accounts[token]

    def whoami(self, token: str) -> Document:
        """Return ``/api/whoami-v2``."""
        account = self.account(token)
        orgs = [{"type": "org", "name": name} for name in account.orgs]
        return {"type": "user", "name": account.name, "fullname": account.name, "orgs": orgs}

    def create(self, token: str, asked: Mapping[str, Any], *, url: str) -> Document:
        """Make a repo, with nothing but its attributes."""
        account = self.account(token)
        repo_id = f"{asked.get('organization') or account.name}/{asked['name']}"
        if not account.may_write(repo_id):
            message = f"You don't have the rights to create a model under the namespace {repo_id.partition('/')[0]}"
            raise Refused(HTTPStatus.FORBIDDEN, message)
        folder = self._repos.root / repo_id
        with self._lock:
            if folder.is_dir():
                raise Refused(HTTPStatus.CONFLICT, "You already created this model repo")
            folder.mkdir(parents=True)
            (folder / ".gitattributes").write_text("*.onnx filter=lfs diff=lfs merge=lfs -text\n")
        readers = tuple(known for known, each in self.accounts.items() if each.may_write(repo_id))
        self._repos.configure(repo_id, Settings(private=asked.get("visibility") == "private", tokens=readers))
        return {"url": f"{url}/{repo_id}", "name": repo_id, "id": repo_id}

    def validated_card(self, content: str) -> tuple[int, Document]:
        """Return the status and the answer of ``/api/validate-yaml``."""
        matter = front_matter(content)
        if matter is None:
            warning = {"message": "empty or missing yaml metadata in repo card"}
            return HTTPStatus.OK, {"errors": [], "warnings": [warning]}
        try:
            said = YAML(typ="safe", pure=True).load(matter)
        except YAMLError as err:
            return HTTPStatus.BAD_REQUEST, {"errors": [{"message": str(err)}], "warnings": []}
        if isinstance(said, dict) and not isinstance(said.get("license", ""), str):
            return HTTPStatus.BAD_REQUEST, {"errors": [{"message": '"license" must be a string'}], "warnings": []}
        return HTTPStatus.OK, {"errors": [], "warnings": []}

    def preupload(self, repo_id: str, revision: str, asked: Mapping[str, Any]) -> Document:
        """Say which files go to LFS, and what stands under their paths."""
        commit = self._repos.commit(repo_id, revision)
        standing = commit.files if commit else {}

        def told(file: Mapping[str, Any]) -> Document:
            there = standing.get(file["path"])
            return {
                "path": file["path"],
                "uploadMode": "lfs" if is_lfs(file["path"], file["size"]) else "regular",
                "shouldIgnore": False,
                **({"oid": there.etag} if there else {}),
            }

        return {"files": [told(file) for file in asked["files"]]}

    def lfs_batch(self, repo_id: str, asked: Mapping[str, Any], *, url: str) -> Document:
        """Say which objects are to be sent, and where to; those that are here have no actions."""

        def told(wanted: Mapping[str, Any]) -> Document:
            known = {"oid": wanted["oid"], "size": wanted["size"]}
            if self._object(repo_id, wanted["oid"]).is_file():
                return known
            put = {"href": f"{url}/_lfs/{repo_id}/{wanted['oid']}"}
            verify = {"href": f"{url}/{repo_id}.git/info/lfs/objects/verify"}
            return {**known, "authenticated": True, "actions": {"upload": put, "verify": verify}}

        return {"transfer": "basic", "objects": [told(each) for each in asked["objects"]]}

    def receive(self, repo_id: str, oid: str, stream: BufferedIOBase, *, size_bytes: int) -> None:
        """Take an LFS object; other bytes than those of its digest are not kept."""
        path = self._object(repo_id, oid)
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_name(f"{path.name}.{threading.get_ident()}")
        digest, left = hashlib.sha256(), size_bytes
        with part.open("wb") as file:
            while left and (chunk := stream.read(min(_CHUNK_BYTES, left))):
                digest.update(chunk)
                file.write(chunk)
                left -= len(chunk)
        if left or digest.hexdigest() != oid:
            part.unlink()
            raise Refused(HTTPStatus.BAD_REQUEST, f"the bytes of {oid} have another digest")
        part.replace(path)
        self.received.append(oid)

    def verify(self, repo_id: str, asked: Mapping[str, Any]) -> Document:
        """Say whether an object arrived."""
        path = self._object(repo_id, str(asked["oid"]))
        if not path.is_file() or path.stat().st_size != asked["size"]:
            raise Refused(HTTPStatus.NOT_FOUND, f"{asked['oid']} is not here, or has another size")
        return {}

    def commit(self, token: str, repo_id: str, revision: str, body: bytes, *, create_pr: bool, url: str) -> Document:
        """Apply a commit, or open a pull request with it."""
        lines = [json.loads(line) for line in body.splitlines() if line]
        header = next(line["value"] for line in lines if line["key"] == "header")
        operations = [(line["key"], line["value"]) for line in lines if line["key"] != "header"]
        account = self.account(token)
        with self._lock:
            proposed = self._find(repo_id, revision)
            allowed = create_pr or account.may_write(repo_id) or (proposed and proposed.author == account.name)
            if not allowed:
                raise Refused(HTTPStatus.FORBIDDEN, f"you have no right to write to {repo_id}@{revision}")
            head = self._repos.commit(repo_id, revision)
            if head is None or header.get("parentCommit", head.sha) != head.sha:
                raise Refused(
                    HTTPStatus.PRECONDITION_FAILED, "A commit has happened since. Please refresh and try again."
                )
            made = None
            if create_pr:
                made = self._opened(repo_id, header, author=account.name)
            branch = made.branch if made else revision
            sha = self._repos.change(repo_id, revision, branch, lambda folder: self._apply(repo_id, folder, operations))
            if made:
                self.pull_requests.append(made)
            paths = tuple(str(value["path"]) for _, value in operations)
            self.commits.append(Committed(repo_id=repo_id, revision=branch, summary=header["summary"], paths=paths))
        answer: Document = {"success": True, "commitOid": sha, "commitUrl": f"{url}/{repo_id}/commit/{sha}"}
        return {**answer, "pullRequestUrl": f"{url}/{repo_id}/discussions/{made.number}"} if made else answer

    def discussions(self, repo_id: str, *, author: str | None) -> Document:
        """Return ``/api/models/<id>/discussions``: here all of them are pull requests."""
        found = [each for each in self.pull_requests if each.repo_id == repo_id and author in (None, each.author)]
        listed = [
            {
                "num": each.number,
                "title": each.title,
                "status": each.status,
                "isPullRequest": True,
                "author": {"name": each.author},
                "repo": {"name": repo_id, "type": "model"},
                "createdAt": _AT,
            }
            for each in reversed(found)
        ]
        return {"discussions": listed, "count": len(listed), "start": 0, "numClosedDiscussions": 0}

    def close(self, repo_id: str, number: int) -> None:
        """Close a pull request as its repo's owner does who does not want it."""
        self._end(repo_id, number, "closed")

    def merge(self, repo_id: str, number: int) -> None:
        """Merge a pull request whose base has not changed since."""
        self._end(repo_id, number, "merged")
        self._repos.change(repo_id, f"refs/pr/{number}", "main", lambda _folder: None)

    def _end(self, repo_id: str, number: int, status: Literal["closed", "merged"]) -> None:
        with self._lock:
            self.pull_requests = [
                replace(each, status=status) if (each.repo_id, each.number) == (repo_id, number) else each
                for each in self.pull_requests
            ]

    def _find(self, repo_id: str, branch: str) -> PullRequest | None:
        return next((each for each in self.pull_requests if (each.repo_id, each.branch) == (repo_id, branch)), None)

    def _opened(self, repo_id: str, header: Mapping[str, Any], *, author: str) -> PullRequest:
        number = 1 + sum(each.repo_id == repo_id for each in self.pull_requests)
        return PullRequest(
            repo_id=repo_id, number=number, title=header["summary"], description=header["description"], author=author
        )

    def _object(self, repo_id: str, oid: str) -> Path:
        if len(oid) != 64 or not oid.isalnum():
            raise Refused(HTTPStatus.UNPROCESSABLE_ENTITY, f"{oid} is no SHA-256")
        return self._objects / repo_id / oid

    def _apply(self, repo_id: str, folder: Path, operations: Iterable[tuple[str, Mapping[str, Any]]]) -> None:
        for kind, value in operations:
            path = folder / value["path"]
            if ".." in path.parts:
                raise Refused(HTTPStatus.BAD_REQUEST, f"{value['path']} leads out of the repo")
            if kind == "deletedFile":
                if not path.is_file():
                    raise Refused(HTTPStatus.NOT_FOUND, "A file with this name doesn't exist", code="EntryNotFound")
                path.unlink()
                continue
            path.parent.mkdir(parents=True, exist_ok=True)
            if kind == "lfsFile":
                held = self._object(repo_id, value["oid"])
                if not held.is_file() or held.stat().st_size != value["size"]:
                    message = f"LFS pointer pointed to a file that does not exist: {value['path']}"
                    raise Refused(HTTPStatus.BAD_REQUEST, message)
                shutil.copyfile(held, path)
                continue
            content = base64.b64decode(value["content"], validate=True)
            if len(content) > _MOST_REGULAR_BYTES:
                raise Refused(HTTPStatus.BAD_REQUEST, f"{value['path']} is larger than 10 MB: use LFS")
            path.write_bytes(content)

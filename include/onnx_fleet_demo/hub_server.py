"""A local Hub: a small HTTP endpoint on loopback that huggingface_hub's own client talks to.

    python -m onnx_fleet_demo.hub_server --root DIR --port 8601 [--demo-models]
    HF_ENDPOINT=http://127.0.0.1:8601 hf download sentence-transformers/all-MiniLM-L6-v2

It serves the folders of hub_repos.HubRepos: listing with filters and pages, model info, revisions, tree and refs, with
weak ETags; and files with ETag, X-Repo-Commit, ranges and LFS digests. It takes uploads (hub_uploads) of those whom
HubServer.uploads.accounts lets in. On demand it fails as the Hub does (hub_failures.Failure): in tests through
HubServer.fail, from another process through ``POST /_demo/failures``; ``DELETE`` there ends it, and
``GET /_demo/requests`` counts what was asked, by route.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import threading
from collections.abc import Mapping
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Self
from urllib.parse import parse_qs, quote, urlencode, urlsplit

from pydantic import ValidationError

from onnx_fleet import jsonio
from onnx_fleet_demo import hub_documents, hub_uploads, models, processes
from onnx_fleet_demo.hub_failures import Asked, Failure, FailureBook, RequestLog
from onnx_fleet_demo.hub_repos import Commit, HubRepos, RepoFile, Settings
from onnx_fleet_demo.hub_routes import Call, Refused, parsed, refuse
from onnx_fleet_demo.hub_uploads import Uploads

_CHUNK_BYTES = 1 << 20
_PAGE_SIZE = 1000
_PLENTY = {"RateLimit": '"api";r=499;t=300', "RateLimit-Policy": '"fixed window";"api";q=500;w=300'}


class HubServer:
    """A running local Hub; ``with HubServer(root) as hub: …`` serves until the block ends.

    Attributes:
        url: the value for HF_ENDPOINT.
        repos: the repos behind it, to be changed while it runs.
        log: the requests that were made.
        uploads: who may write, and what was written.
    """

    def __init__(self, root: Path, *, host: str = "127.0.0.1", port: int = 0, page_size: int = _PAGE_SIZE) -> None:
        self.repos = HubRepos(root)
        self.uploads = Uploads(self.repos)
        self.failures = FailureBook()
        self.log = RequestLog()
        self.page_size = page_size
        hub = self

        class Handler(_Handler):
            served = hub

        self._server = _Server((host, port), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), name="hub", daemon=True)
        self.url = f"http://{host}:{self._server.server_port}"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def fail(self, failure: Failure) -> None:
        """Let requests fail from now on."""
        self.failures.add(failure)


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 128


class _Handler(BaseHTTPRequestHandler):
    """The Hub's routes."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # an answer is written in two pieces, and the second one would wait for 40 ms
    served: HubServer

    def do_GET(self) -> None:
        self._answer()

    def do_HEAD(self) -> None:
        self._answer()

    def do_POST(self) -> None:
        self._answer()

    def do_PUT(self) -> None:
        self._answer()

    def do_DELETE(self) -> None:
        self._administer()

    def handle(self) -> None:
        with contextlib.suppress(ConnectionError):  # a client may go away
            super().handle()

    def log_message(self, format: str, *args: object) -> None:
        pass

    def _answer(self) -> None:
        if self.path.startswith("/_demo/"):
            return self._administer()
        call = parsed(urlsplit(self.path).path, self.command)
        size_bytes = int(self.headers.get("Content-Length", "0"))
        body = b"" if call.route == "lfs-put" else self.rfile.read(size_bytes)
        failure = self.served.failures.take(call.route, call.repo_id, call.path or None)
        try:
            if failure is not None:
                refuse(failure)
            if call.route == "lfs-put":
                return self._receive(call, size_bytes)
            self._route(call, failure, body)
        except Refused as refusal:
            headers = dict(refusal.headers)
            if call.route == "lfs-put":  # the bytes of the object may be unread
                headers["Connection"] = "close"
            self._send_json({"error": str(refusal)}, call, status=refusal.status, headers=headers)

    def _receive(self, call: Call, size_bytes: int) -> None:
        """Take an LFS object; whoever has the address may send it, as with one that is signed."""
        assert call.repo_id is not None
        self.served.uploads.receive(call.repo_id, call.path, self.rfile, size_bytes=size_bytes)
        self._send_json({}, call)

    def _route(self, call: Call, failure: Failure | None, body: bytes) -> None:
        if call.route == "list":
            return self._send_list(call)
        if call.route in ("whoami", "create", "card"):
            return self._send_written(call, body, failure)
        if call.repo_id is None:
            raise Refused(HTTPStatus.NOT_FOUND, f"no such route: {self.path}")
        repo_id = self.served.repos.canonical(call.repo_id)
        settings = self.served.repos.settings(repo_id) if repo_id else Settings()
        if repo_id is None or (settings.private and not self._has_access(settings)):
            # The Hub tells nobody whether a private repo exists, and asks those without a token to sign in first.
            status = HTTPStatus.NOT_FOUND if self._token() else HTTPStatus.UNAUTHORIZED
            raise Refused(status, "Repository not found", code="RepoNotFound")
        if repo_id != call.repo_id:
            return self._redirect(call, repo_id)
        if call.route in hub_uploads.ROUTES:
            return self._send_written(call, body, failure)
        commit = self.served.repos.commit(repo_id, call.revision)
        if commit is None:
            raise Refused(HTTPStatus.NOT_FOUND, f"Invalid rev id: {call.revision}", code="RevisionNotFound")
        if call.route in ("file-head", "file-get"):
            self._check_gate(repo_id, settings)
            return self._send_file(call, commit, failure)
        return self._send_json(self._document(call, commit, settings), call)

    def _send_written(self, call: Call, body: bytes, failure: Failure | None) -> None:
        asked = hub_uploads.Asked(call=call, token=self._token(), query=self._query(), body=body)
        status, document = self.served.uploads.answer(asked, url=self.served.url)
        if failure is not None and failure.kind == "answer_lost":
            self.close_connection = True
        else:
            self._send_json(document, call, status=status)

    def _document(self, call: Call, commit: Commit, settings: Settings) -> object:
        query = self._query()
        if call.route == "info":
            document = hub_documents.model_info(commit, settings, blobs=_true(query.get("blobs")))
            return hub_documents.expanded(document, self._queries().get("expand", []))
        if call.route == "tree":
            listed = hub_documents.tree(commit, under=call.path, recursive=_true(query.get("recursive")))
            if not listed:
                raise Refused(HTTPStatus.NOT_FOUND, f"{call.path} does not exist", code="EntryNotFound")
            return listed
        if call.route == "refs":
            return hub_documents.refs(commit, settings)
        if call.route == "commits":
            return hub_documents.history(commit, settings)
        self._check_gate(commit.repo_id, settings)
        return {}

    def _send_list(self, call: Call) -> None:
        query = self._query()
        many = self._queries()
        asked = hub_documents.Query(
            filters=many.get("filter", []),
            author=query.get("author"),
            search=query.get("search"),
            pipeline_tag=query.get("pipeline_tag"),
            gated=_true(query["gated"]) if "gated" in query else None,
            sort=query.get("sort"),
            full=_true(query.get("full")),
            expand=many.get("expand", []),
        )
        try:
            found = hub_documents.model_list(self.served.repos, asked)
        except KeyError as err:
            raise Refused(HTTPStatus.BAD_REQUEST, f"cannot sort by {err}") from err
        first = int(query.get("cursor", "0"))
        after = first + min(self.served.page_size, int(query.get("limit", self.served.page_size)))
        headers = {}
        if after < len(found):
            following = urlencode({**many, "cursor": [str(after)]}, doseq=True)
            headers["Link"] = f'<{self.served.url}/api/models?{following}>; rel="next"'
        self._send_json(found[first:after], call, headers=headers)

    def _send_file(self, call: Call, commit: Commit, failure: Failure | None) -> None:
        file = commit.files.get(call.path)
        if file is None:
            message = f"{call.path} does not exist"
            raise Refused(HTTPStatus.NOT_FOUND, message, code="EntryNotFound", X_Repo_Commit=commit.sha)
        start, end = self._range(file)
        headers = {
            "Accept-Ranges": "bytes",
            "Content-Type": "application/octet-stream",
            "ETag": f'"{file.etag}"',
            "X-Repo-Commit": commit.sha,
            "Content-Disposition": f"inline; filename*=UTF-8''{quote(file.path)}",
        }
        if file.sha256:
            headers |= {"X-Linked-ETag": f'"{file.sha256}"', "X-Linked-Size": str(file.size_bytes)}
        partial = (start, end) != (0, file.size_bytes)
        if partial:
            headers["Content-Range"] = f"bytes {start}-{end - 1}/{file.size_bytes}"
        if failure is not None and failure.kind == "wrong_size":
            end = max(start, end - 7)
        status = HTTPStatus.PARTIAL_CONTENT if partial else HTTPStatus.OK
        self._start(call, status, {**headers, "Content-Length": str(end - start)})
        if self.command == "GET":
            self._send_body(file, start, end, failure)

    def _send_body(self, file: RepoFile, start: int, end: int, failure: Failure | None) -> None:
        kind = failure.kind if failure is not None else None
        stop = min(end, start + failure.after_bytes) if failure is not None and kind == "cut" else end
        ruined = file.size_bytes // 2 if kind == "corrupt" else -1
        with file.location.open("rb") as stream:
            stream.seek(start)
            at = start
            while at < stop:
                chunk = bytearray(stream.read(min(_CHUNK_BYTES, stop - at)))
                if at <= ruined < at + len(chunk):
                    chunk[ruined - at] ^= 0xFF
                self.wfile.write(chunk)
                at += len(chunk)
        if kind == "cut":
            self.close_connection = True

    def _range(self, file: RepoFile) -> tuple[int, int]:
        """Return the first byte and the byte after the last; the whole file without a range, or with an odd one."""
        unit, _, span = self.headers.get("Range", "").partition("=")
        first, _, last = span.partition("-")
        if unit.strip() != "bytes" or not first.strip().isdigit():
            return 0, file.size_bytes
        start = int(first)
        if start >= file.size_bytes:
            unsatisfied = f"bytes */{file.size_bytes}"
            raise Refused(HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE, "bad range", Content_Range=unsatisfied)
        return start, min(int(last) + 1, file.size_bytes) if last.strip().isdigit() else file.size_bytes

    def _redirect(self, call: Call, repo_id: str) -> None:
        """Send the client to the canonical id, by a relative location as the Hub does."""
        assert call.repo_id is not None
        headers = {"Location": self.path.replace(quote(call.repo_id), quote(repo_id), 1)}
        self._send_json({}, call, status=HTTPStatus.TEMPORARY_REDIRECT, headers=headers)

    def _check_gate(self, repo_id: str, settings: Settings) -> None:
        if settings.gated and not self._has_access(settings):
            refuse(Failure(kind="gated", repo_id=repo_id), has_token=bool(self._token()))

    def _has_access(self, settings: Settings) -> bool:
        return self._token() in settings.tokens

    def _token(self) -> str:
        return self.headers.get("Authorization", "").removeprefix("Bearer ").strip()

    def _query(self) -> dict[str, str]:
        return {name: values[-1] for name, values in self._queries().items()}

    def _queries(self) -> dict[str, list[str]]:
        return parse_qs(urlsplit(self.path).query)

    def _administer(self) -> None:
        """Answer ``/_demo/failures`` and ``/_demo/requests``; every mistake is answered with what was wrong."""
        call = Call(route="other")
        body = self.rfile.read(int(self.headers.get("Content-Length", "0")))
        match (self.command, urlsplit(self.path).path):
            case ("POST", "/_demo/failures"):
                try:
                    self.served.fail(jsonio.parse(Failure, body))
                except (ValueError, ValidationError) as err:
                    return self._send_json({"error": str(err)}, call, status=HTTPStatus.BAD_REQUEST, log=False)
            case ("DELETE", "/_demo/failures"):
                self.served.failures.clear()
            case ("DELETE", "/_demo/requests"):
                self.served.log.clear()
            case ("GET", "/_demo/requests"):
                pass
            case _:
                return self._send_json({"error": "no such route"}, call, status=HTTPStatus.NOT_FOUND, log=False)
        return self._send_json(dict(self.served.log.counts()), call, log=False)

    def _send_json(
        self,
        document: object,
        call: Call,
        *,
        status: int = HTTPStatus.OK,
        headers: Mapping[str, str] | None = None,
        log: bool = True,
    ) -> None:
        body = json.dumps(document).encode()
        all_headers = {**_PLENTY, "Content-Type": "application/json", **(headers or {})}
        if status == HTTPStatus.OK:
            all_headers["ETag"] = f'W/"{len(body):x}-{hashlib.sha1(body, usedforsecurity=False).hexdigest()}"'
            if self.headers.get("If-None-Match") == all_headers["ETag"]:
                return self._start(call, HTTPStatus.NOT_MODIFIED, all_headers, log=log)
        self._start(call, status, {**all_headers, "Content-Length": str(len(body))}, log=log)
        if self.command != "HEAD":
            self.wfile.write(body)
        return None

    def _start(self, call: Call, status: int, headers: Mapping[str, str], *, log: bool = True) -> None:
        if log:
            ranged = self.headers.get("Range")
            path = call.path or None
            asked = Asked(route=call.route, repo_id=call.repo_id, path=path, status=status, range_header=ranged)
            self.served.log.add(asked)
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()


def _true(value: str | None) -> bool:
    return value is not None and value.lower() in ("1", "true")


def main() -> None:
    """Serve until SIGINT or SIGTERM."""
    parser = argparse.ArgumentParser(prog="python -m onnx_fleet_demo.hub_server", description="A local Hub.")
    parser.add_argument("--root", type=Path, required=True, help="the folder whose <org>/<name> folders are served")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0, help="0 takes a free one; the address is printed")
    parser.add_argument("--demo-models", action="store_true", help="have the demo fleet's repos under the root first")
    options = parser.parse_args()
    if options.demo_models:
        models.make_repos(options.root)
    done = processes.asked_to_end()
    with HubServer(options.root, host=options.host, port=options.port) as hub:
        print(f"Hub at {hub.url}", flush=True)
        done.wait()


if __name__ == "__main__":
    main()

"""huggingface_hub's client as a sink uses it: one try a call, since the driver retries, and errors of sinks."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from huggingface_hub import CommitOperationAdd, CommitOperationDelete
from huggingface_hub.errors import HfHubHTTPError, RepositoryNotFoundError, RevisionNotFoundError
from huggingface_hub.hf_api import RepoFile

from onnx_fleet.errors import (
    EventRefused,
    HubRateLimited,
    ModelNotFound,
    OnnxFleetError,
    Retryable,
    SinkDenied,
    SinkUnavailable,
)
from onnx_fleet.source.hub_client import Hub, HubSettings

logging.getLogger("huggingface_hub._commit_api").setLevel(logging.ERROR)  # it warns of each file that goes by LFS

MAIN: Final = "main"
TITLE: Final = "Add the ONNX files that onnx-fleet made"
"""The title of the pull request in each repo that is ours; it is known by it."""
_TIMEOUT_S: Final = 120.0
"""The limit in seconds for each wait: behind the last byte of a large file, the Hub takes a while."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Head:
    """A branch of a repo, or a pull request, and its files."""

    repo_id: str
    """The id that the repo has by now: it may have been renamed."""
    revision: str
    """The name: ``main``, ``refs/pr/3``."""
    commit: str
    restricted: bool
    """Whether the repo is private or gated."""
    is_source: bool
    """Whether it is the repo that the model comes from, so that changes are proposed to it, and not made."""
    files: Mapping[str, RepoFile]
    """By path: each has a size, and an LFS digest or the id of its git blob."""


class SinkHub:
    """A Hub that is written to."""

    def __init__(self, url: str, *, token: str, secret: str) -> None:
        self.url = url
        self._secret = secret
        self._hub = Hub(HubSettings(endpoint=url, token=token, request_timeout_s=_TIMEOUT_S, retry_attempts=1))
        self._me: str | None = None

    def head(self, repo_id: str, *, revision: str = MAIN, source_ids: Collection[str]) -> Head | None:
        """Return a revision of a repo; None where there is no such repo or revision, or the token may not see it.

        Args:
            source_ids: the ids of the repo that the model comes from.
        """
        api = self._hub.api
        with self._asking(f"{repo_id}@{revision}"):
            try:
                info = api.model_info(repo_id, revision=revision)
            except (RepositoryNotFoundError, RevisionNotFoundError):
                return None
            assert info.sha is not None
            listed = api.list_repo_tree(info.id, revision=info.sha, recursive=True)
            files = {each.path: each for each in listed if isinstance(each, RepoFile)}
        return Head(
            repo_id=info.id,
            revision=revision,
            commit=info.sha,
            restricted=bool(info.private or info.gated),
            is_source=is_among(info.id, source_ids),
            files=files,
        )

    def make(self, repo_id: str, *, private: bool) -> None:
        """Make a repo, where there is none."""
        with self._asking(repo_id):
            self._hub.api.create_repo(repo_id, private=private, exist_ok=True)

    def read(self, head: Head, path: str) -> bytes | None:
        """Return a small file; None where there is none."""
        if path not in head.files:
            return None
        with tempfile.TemporaryDirectory(prefix="onnx-fleet-") as cache, self._asking(path, head):
            got = self._hub.api.hf_hub_download(head.repo_id, path, revision=head.commit, cache_dir=cache)
            return Path(got).read_bytes()

    def pull_request(self, head: Head) -> tuple[int, str] | None:
        """Return the number and the status of our newest pull request in a repo; None where there was none."""
        with self._asking("pull requests", head):
            self._me = self._me or str(self._hub.api.whoami()["name"])
            listed = self._hub.api.get_repo_discussions(head.repo_id, author=self._me, discussion_type="pull_request")
            ours = [each for each in listed if (each.title, each.author) == (TITLE, self._me)]
        return max(((each.num, each.status) for each in ours), default=None)

    def send(self, head: Head, addition: CommitOperationAdd, *, create_pr: bool) -> None:
        """Send the bytes of a file that the Hub keeps in LFS, unless it has them; a small one goes with the commit."""
        with self._asking(addition.path_in_repo, head):
            self._hub.api.preupload_lfs_files(
                head.repo_id, [addition], revision=head.revision, create_pr=create_pr, num_threads=1
            )

    def commit(
        self,
        head: Head,
        operations: Sequence[CommitOperationAdd | CommitOperationDelete],
        *,
        message: str,
        create_pr: bool,
    ) -> str:
        """Commit on top of a head, or open a pull request on it, and return the address of that.

        Raises:
            SinkUnavailable: somebody else has committed meanwhile.
        """
        with self._asking(head.revision, head):
            done = self._hub.api.create_commit(
                head.repo_id,
                operations,
                commit_message=TITLE if create_pr else message,
                commit_description=message if create_pr else None,
                revision=head.revision,
                parent_commit=head.commit,
                create_pr=create_pr,
            )
        return str(done.pr_url if create_pr else done.commit_url)

    @contextmanager
    def _asking(self, what: str, head: Head | None = None) -> Iterator[None]:
        """Let what fails inside be an error of sinks.

        Args:
            what: what is asked for, in the head's repo where there is one.
        Raises:
            SinkUnavailable, SinkDenied, EventRefused.
        """
        try:
            with self._hub.calling(f"{head.repo_id}: {what}" if head else what):
                try:
                    yield
                except (HfHubHTTPError, RuntimeError, ValueError) as err:
                    # What fails in the upload of a file, or in the check of a card, is the cause of another error.
                    cause = err if isinstance(err, HfHubHTTPError) else err.__cause__
                    if isinstance(cause, OnnxFleetError):
                        raise cause from err
                    if isinstance(cause, HfHubHTTPError):
                        raise self._refusal(cause, said=str(err), head=head) from err
                    raise
        except (SinkUnavailable, SinkDenied, EventRefused):
            raise
        except ModelNotFound as err:  # no repo can be called so
            raise EventRefused(str(err)) from err
        except Retryable as err:
            after_s = err.retry_after_s if isinstance(err, HubRateLimited) else None
            raise SinkUnavailable(str(err), retry_after_s=after_s) from err

    def _refusal(self, err: HfHubHTTPError, *, said: str, head: Head | None) -> OnnxFleetError:
        status = err.response.status_code
        message = f"{self.url}: HTTP {status}: {err.server_message or said}"
        if status == 403 and head is not None and head.is_source:
            return EventRefused(f"{message}; the source's repo takes no pull requests of this token: leave it out")
        if status in (401, 403):
            return SinkDenied(f"{message}; the secret {self._secret!r} has to be a token that may write there")
        if status in (409, 412):
            return SinkUnavailable(f"{message}; somebody else has changed the repo meanwhile: it is tried again")
        return EventRefused(message)


def is_among(repo_id: str, ids: Collection[str]) -> bool:
    """Say whether a repo has one of these ids; the Hub takes them without regard to case."""
    return repo_id.lower() in {each.lower() for each in ids}

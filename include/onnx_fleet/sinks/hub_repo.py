"""The sink of the Hugging Face Hub: the ONNX files of a model's channel in a repo, by commit or by pull request.

The repo holds the version that the channel points to now, whatever event led here. The bundle's own manifest lies among
the files, so that a repo which has this version is seen to have it, and nothing is committed.
"""

from __future__ import annotations

from string import Formatter
from typing import Annotated, Final

from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]  # public, lazily exported
from pydantic import BaseModel, ConfigDict, Field, field_validator

from onnx_fleet.bundles.bundle import Bundle
from onnx_fleet.bundles.fleet_event import FleetEvent
from onnx_fleet.entities.naming import ref_of
from onnx_fleet.errors import EventRefused, SinkDenied
from onnx_fleet.sinks import channel_following
from onnx_fleet.sinks.hub_client import Head, SinkHub, is_among
from onnx_fleet.sinks.hub_commit import Change, holds
from onnx_fleet.sinks.sink import Secrets, SinkKind
from onnx_fleet.source.hub_client import DEFAULT_ENDPOINT
from onnx_fleet.store import ObjectStore

_TEMPLATE: Final = r"^[\w.{}-]+/[\w.{}-]*\{name\}[\w.{}-]*$"


class HubRepoSettings(BaseModel):
    """How repos on a Hub are configured."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    repo: Annotated[str, Field(pattern=_TEMPLATE)]
    """The repo of a model, by the parts of its id: ``acme/{name}``, ``acme/{org}_{name}``, ``{org}/{name}``."""
    secret: str
    """The name of the secret that is an access token with the right to write."""
    url: Annotated[str, Field(pattern=r"^https?://[^\s@]+$")] = DEFAULT_ENDPOINT
    channel: str = "latest"
    """The channel whose version the repo holds."""
    pull_request: bool = False
    """Whether changes are proposed, and not made; in the repo that a model comes from they always are."""
    private: bool = True
    """Whether a repo that is made here is private."""

    @field_validator("repo")
    @classmethod
    def _names_repos(cls, value: str) -> str:
        if {field for _, field, _, _ in Formatter().parse(value) if field is not None} - {"org", "name"}:
            raise ValueError("only {org} and {name} are filled in")
        validate_repo_id(value.format(org="org", name="name"))
        return value


class HubRepoSink:
    """Commits the files of bundles."""

    def __init__(self, settings: HubRepoSettings, secrets: Secrets) -> None:
        self.settings = settings
        self._hub = SinkHub(settings.url.rstrip("/"), token=secrets(settings.secret), secret=settings.secret)

    def deliver(self, event: FleetEvent, *, store: ObjectStore) -> str:
        """Have the repo hold what the channel points to now: the event says only that something happened."""
        done: list[str] = []

        def point(version: str) -> None:
            if found := channel_following.find(store, event.model_id, version):
                done.append(self._brought(found, store=store))

        channel_following.follow(store, event.model_id, self.settings.channel, point=point)
        return done[-1] if done else f"the store has no {event.model_id}@{self.settings.channel}: its repo stays"

    def _brought(self, found: Bundle, *, store: ObjectStore) -> str:
        """Bring a bundle to its repo; returns what was done."""
        main = self._repo(found)
        if found.manifest.source.gated and not main.is_source and not main.restricted:
            raise EventRefused(
                f"{ref_of(found)}: comes from a gated repo, and {main.repo_id} is public; make that private or gated"
            )
        if holds(main, found):
            return f"{main.repo_id} has {found.version}"
        if main.is_source or self.settings.pull_request:
            return self._proposed(main, found, store=store)
        return f"{found.version} is {Change(self._hub, main, found).committed(store)}"

    def _proposed(self, main: Head, found: Bundle, *, store: ObjectStore) -> str:
        """Propose a bundle in the one pull request that is ours; it follows the channel for as long as it is open."""
        number, status = self._hub.pull_request(main) or (0, "merged")
        if status == "closed":
            return f"pull request {number} of {main.repo_id} was closed without these files; reopen it to have them"
        if status == "merged":
            return f"{found.version} is {Change(self._hub, main, found).proposed(store)}"
        head = self._hub.head(main.repo_id, revision=f"refs/pr/{number}", source_ids=_source_ids(found))
        if head is None:
            raise EventRefused(f"{ref_of(found)}: pull request {number} of {main.repo_id} is open and has no files")
        if holds(head, found):
            return f"pull request {number} of {main.repo_id} has {found.version}"
        return f"{found.version} is {Change(self._hub, head, found).committed(store)} in pull request {number}"

    def _repo(self, found: Bundle) -> Head:
        """Return the head of a bundle's repo, which is made where there is none."""
        org, _, name = found.model_id.partition("/")
        repo_id, source_ids = self.settings.repo.format(org=org, name=name), _source_ids(found)
        head = self._hub.head(repo_id, source_ids=source_ids)
        if head is None and is_among(repo_id, source_ids):
            raise EventRefused(f"{ref_of(found)}: {self.settings.url} has no {repo_id} to propose files in")
        if head is None:
            self._hub.make(repo_id, private=self.settings.private)
            head = self._hub.head(repo_id, source_ids=source_ids)
        if head is None:
            raise SinkDenied(
                f"{self.settings.url}/{repo_id}: the secret {self.settings.secret!r} may not see this repo"
            )
        return head


def _source_ids(found: Bundle) -> tuple[str, str]:
    return found.model_id, found.manifest.source.repo_id


HUGGINGFACE = SinkKind(settings=HubRepoSettings, make=HubRepoSink)

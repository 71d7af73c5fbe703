"""The sink of an MLflow model registry: a registered model, a version for each bundle, aliases that follow channels.

It speaks MLflow's REST API, which is documented and versioned. Its client, mlflow-skinny, holds on to older packages
than Airflow takes, and would bring thirty others for seven calls.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Final

import httpx2
from pydantic import BaseModel, ConfigDict, Field

from onnx_fleet.bundles.bundle import Bundle
from onnx_fleet.bundles.fleet_event import FleetEvent
from onnx_fleet.entities.naming import ref_of
from onnx_fleet.errors import EventRefused, SinkDenied, SinkUnavailable
from onnx_fleet.jsonio import Json
from onnx_fleet.sinks import channel_following
from onnx_fleet.sinks.http_client import client
from onnx_fleet.sinks.sink import Secrets, SinkKind
from onnx_fleet.store import ObjectStore

_TAG: Final = "onnx_fleet."
"""What the tags of this sink begin with."""
_VERSION: Final = f"{_TAG}version"
_EXISTS: Final = "RESOURCE_ALREADY_EXISTS"
_ABSENT: Final = "RESOURCE_DOES_NOT_EXIST"


class MlflowSettings(BaseModel):
    """How an MLflow registry is configured."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    url: Annotated[str, Field(pattern=r"^https?://[^\s@]+$")]
    """The address of the tracking server."""
    secret: str | None = None
    """The name of the secret that the server asks for: a token, or with ``login`` a password; None sends none."""
    login: str | None = None
    """The user of the server's basic authentication."""
    aliases: Mapping[str, str] = {"latest": "current"}
    """The aliases of channels that are not called as they are: MLflow keeps the alias ``latest`` for itself."""


class MlflowSink:
    """Registers bundles."""

    def __init__(self, settings: MlflowSettings, secrets: Secrets) -> None:
        self.settings = settings
        self._server = _Server(settings, secrets)

    def deliver(self, event: FleetEvent, *, store: ObjectStore) -> str:
        """Register the event's version, if the store has it, and have the aliases follow the model's channels."""
        name = event.model_id.replace("/", "--")
        found = channel_following.find(store, event.model_id, event.version)
        if found is None:
            return self._without(name, event)
        number = self._registered(name, found, store=store)
        for channel in channel_following.pointers(store, event.model_id):
            alias = self.settings.aliases.get(channel, channel)

            def point(version: str, alias: str = alias) -> None:
                standing = channel_following.find(store, event.model_id, version)
                if standing is not None:
                    target = self._registered(name, standing, store=store)
                    self._server.post("registered-models/alias", name=name, alias=alias, version=target)

            channel_following.follow(store, event.model_id, channel, point=point)
        return f"version {number} of {name} at {self.settings.url}"

    def _without(self, name: str, event: FleetEvent) -> str:
        """Mark the version of a bundle that is gone; nobody can load it any more."""
        for each in self._versions(name, event.version) if event.version else ():
            self._server.post(
                "model-versions/set-tag", name=name, version=each, key=f"{_TAG}deleted", value=event.at.isoformat()
            )
        return "the store has no bundle of it"

    def _registered(self, name: str, found: Bundle, *, store: ObjectStore) -> str:
        """Return MLflow's number of a bundle's version, which is made where there is none.

        MLflow takes any number of versions with one source: of two that drivers made at once, the first one stays.
        """
        known = self._versions(name, found.version)
        if not known:
            self._server.post(
                "registered-models/create", name=name, tags=_tags({"model_id": found.model_id}), may=_EXISTS
            )
            made = self._server.post(
                "model-versions/create",
                name=name,
                source=f"{store.address}/{found.prefix}".rstrip("/"),
                description=_description(found),
                tags=_tags(_facts(found)),
            )
            known = self._versions(name, found.version) or [str(made["model_version"]["version"])]
        first, *others = known
        for each in others:
            self._server.send("DELETE", "model-versions/delete", body={"name": name, "version": each}, may=_ABSENT)
        return first

    def _versions(self, name: str, version: str) -> list[str]:
        """Return MLflow's numbers of a bundle's version, the oldest first."""
        wanted = f"name = '{name}' and tags.`{_VERSION}` = '{version}'"
        answer = self._server.send("GET", "model-versions/search", query={"filter": wanted})
        return sorted((str(each["version"]) for each in answer.get("model_versions", ())), key=int)


class _Server:
    """MLflow's REST API."""

    def __init__(self, settings: MlflowSettings, secrets: Secrets) -> None:
        self._url = settings.url.rstrip("/")
        self._headers: dict[str, str] = {}
        self._auth: tuple[str, str] | None = None
        if settings.secret and settings.login:
            self._auth = (settings.login, secrets(settings.secret))
        elif settings.secret:
            self._headers = {"Authorization": f"Bearer {secrets(settings.secret)}"}

    def post(self, path: str, *, may: str = "", **body: object) -> Json:
        return self.send("POST", path, body=body, may=may)

    def send(
        self, method: str, path: str, *, body: Json | None = None, query: Mapping[str, str] | None = None, may: str = ""
    ) -> Json:
        """Return the answer to a request.

        Args:
            may: the code of an error that is no error here.
        Raises:
            SinkUnavailable, SinkDenied, EventRefused: what the server says otherwise.
        """
        where = f"{self._url}/api/2.0/mlflow/{path}"
        try:
            answer = client().request(method, where, json=body, params=query, headers=self._headers, auth=self._auth)
        except (httpx2.HTTPError, httpx2.InvalidURL) as err:
            raise SinkUnavailable(f"{where}: {type(err).__name__}: {err}; is the server running?") from err
        said = _object(answer)
        if answer.is_success:
            return said
        code = str(said.get("error_code", ""))
        if may and code == may:
            return {}
        message = f"{where}: HTTP {answer.status_code}: {said.get('message') or answer.reason_phrase}"
        if answer.status_code in (401, 403):
            raise SinkDenied(f"{message}; check the secret and the login of this sink")
        if answer.status_code == 404 and not code:
            raise SinkDenied(f"{message}; no MLflow server is at this address: correct url")
        if answer.status_code in (408, 429) or answer.status_code >= 500:
            raise SinkUnavailable(f"{message}; it is tried again")
        raise EventRefused(message)


def _object(answer: httpx2.Response) -> Json:
    try:
        said = answer.json()
    except ValueError:
        return {}
    return said if isinstance(said, dict) else {}


def _facts(found: Bundle) -> Mapping[str, str]:
    """Return what is known of a bundle, by the names that its tags have."""
    sealed = found.manifest
    facts: Mapping[str, str | None] = {
        "version": found.version,
        "model_id": found.model_id,
        "manifest_sha256": found.manifest_sha256,
        "source": sealed.source.repo_id,
        "commit": sealed.source.revision,
        "licence": sealed.source.licence,
        "task": sealed.task,
        "family": sealed.family,
        "architecture": sealed.architecture,
        "variants": ", ".join(sorted({graph.variant for graph in sealed.graphs})),
        "graphs": ", ".join(graph.path for graph in sealed.graphs),
        "max_abs_diff": None if sealed.validation.max_abs_diff is None else str(sealed.validation.max_abs_diff),
        "gpu": sealed.validation.gpu,
    }
    return {name: value for name, value in facts.items() if value}


def _tags(facts: Mapping[str, str]) -> Iterable[Mapping[str, Any]]:
    return [{"key": f"{_TAG}{name}", "value": value} for name, value in facts.items()]


def _description(found: Bundle) -> str:
    source = found.manifest.source
    return (
        f"The ONNX bundle {ref_of(found)}, made of {source.repo_id} at commit {source.revision} and proven equal to"
        f" PyTorch. `onnx-fleet pull {ref_of(found)}` fetches and verifies it."
    )


MLFLOW = SinkKind(settings=MlflowSettings, make=MlflowSink)

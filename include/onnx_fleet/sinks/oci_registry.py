"""The sink of an OCI registry: each bundle as an artefact of the CNCF's ModelPack, tags that follow channels.

Every file of a bundle is a blob under the digest that its manifest lists, untarred, so that a blob which the registry
has is not sent again, and `oras pull` puts each file in its place. The artefact's manifest is made of nothing else:
the same bundle always has the same digest.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any, Final
from urllib.parse import urljoin

from pydantic import BaseModel, ConfigDict, Field

from onnx_fleet import jsonio
from onnx_fleet.bundles.bundle import Bundle
from onnx_fleet.bundles.fleet_event import FleetEvent
from onnx_fleet.bundles.manifest import FILE_NAME, FileRole
from onnx_fleet.entities.naming import ref_of
from onnx_fleet.entities.variant import FP32
from onnx_fleet.errors import EventRefused, SinkDenied, SinkUnavailable
from onnx_fleet.jsonio import Json
from onnx_fleet.sinks import channel_following
from onnx_fleet.sinks.sink import Secrets, SinkKind
from onnx_fleet.store import ObjectStore, transfer

if TYPE_CHECKING:
    import requests

_MANIFEST: Final = "application/vnd.oci.image.manifest.v1+json"
_MODEL: Final = "application/vnd.cncf.model."
_WEIGHT, _CONFIG, _DOC = (f"{_MODEL}{kind}.v1.raw" for kind in ("weight", "weight.config", "doc"))
_LAYERS: Final[Mapping[FileRole, str]] = {
    "graph": _WEIGHT,
    "weights": _WEIGHT,
    "config": _CONFIG,
    "tokenizer": _CONFIG,
    "preprocessor": _CONFIG,
    "sentence_transformers": _CONFIG,
}
"""ModelPack's types of layers; every other file is documentation to it."""
_REPOSITORY: Final = re.compile(r"[a-z0-9]+(?:(?:[._]|__|-+)[a-z0-9]+)*")
"""The pattern of one part of a repository's name."""
_TIMEOUT_S: Final = (30.0, 300.0)
"""The limits in seconds for connecting, and for each wait for an answer."""


class OciSettings(BaseModel):
    """How an OCI registry is configured."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    registry: Annotated[str, Field(pattern=r"^[^\s/@]+(/[a-z0-9._/-]+)?$")]
    """The registry's host, and what the names of the repositories begin with: ``registry.acme.com/models``."""
    secret: str | None = None
    """The name of the secret that is the password or the token of ``login``; None asks anonymously."""
    login: str = ""
    plain_http: bool = False
    """Whether the registry is asked without TLS."""


class OciSink:
    """Pushes bundles."""

    def __init__(self, settings: OciSettings, secrets: Secrets) -> None:
        self.settings = settings
        host, _, self._prefix = settings.registry.partition("/")
        password = secrets(settings.secret) if settings.secret else None
        self._registry = _Registry(host, plain_http=settings.plain_http, login=settings.login, password=password)

    def deliver(self, event: FleetEvent, *, store: ObjectStore) -> str:
        """Push the event's version, if the store has it, and have the tags follow the model's channels."""
        found = channel_following.find(store, event.model_id, event.version)
        if found is None:
            return "the store has no bundle of it"
        repository = self._repository(event.model_id)
        document = self._pushed(repository, found, store=store)
        for channel in channel_following.pointers(store, event.model_id):

            def point(version: str, tag: str = channel) -> None:
                standing = channel_following.find(store, event.model_id, version)
                if standing is not None:
                    self._registry.put_manifest(repository, tag, self._pushed(repository, standing, store=store))

            channel_following.follow(store, event.model_id, channel, point=point)
        return f"{self.settings.registry.partition('/')[0]}/{repository}@sha256:{transfer.sha256_of(document)}"

    def _repository(self, model_id: str) -> str:
        name = model_id.lower()
        if not all(_REPOSITORY.fullmatch(part) for part in name.split("/")):
            raise EventRefused(f"{model_id}: no repository of an OCI registry can be called so")
        return "/".join(filter(None, (self._prefix.strip("/"), name)))

    def _pushed(self, repository: str, found: Bundle, *, store: ObjectStore) -> bytes:
        """Push what the registry lacks of a bundle; returns the artefact's manifest."""
        config = jsonio.canonical(_config(found))
        document = jsonio.canonical(_artefact(found, config))
        if not self._registry.has_manifest(repository, found.version, document):
            for file in found.manifest.files:
                body = _Streamed(store, found.key(file.path), size_bytes=file.size_bytes)
                self._registry.push(repository, body, sha256=file.sha256)
            for small in (found.manifest_json, config):
                self._registry.push(repository, small, sha256=transfer.sha256_of(small))
            self._registry.put_manifest(repository, found.version, document)
        return document


class _Streamed:
    """The bytes of an object of a store, one piece after the other, as often as they are asked for."""

    def __init__(self, store: ObjectStore, key: str, *, size_bytes: int) -> None:
        self._store = store
        self._key = key
        self._size_bytes = size_bytes

    def __len__(self) -> int:
        return self._size_bytes

    def __iter__(self) -> Iterator[bytes]:
        return self._store.chunks(self._key)


class _Registry:
    """A registry's HTTP API, https://github.com/opencontainers/distribution-spec; oras knows how to sign in."""

    def __init__(self, host: str, *, plain_http: bool, login: str, password: str | None) -> None:
        self._url = f"{'http' if plain_http else 'https'}://{host}/v2/"
        self._host = host
        self._plain_http = plain_http
        self._login = (login, password) if password is not None else None
        self._oras: Any = None

    def has_manifest(self, repository: str, tag: str, document: bytes) -> bool:
        """Say whether a tag is this very manifest."""
        answer = self._ask("HEAD", f"{repository}/manifests/{tag}", headers={"Accept": _MANIFEST}, absent=True)
        return answer.headers.get("Docker-Content-Digest") == f"sha256:{transfer.sha256_of(document)}"

    def put_manifest(self, repository: str, tag: str, document: bytes) -> None:
        """Point a tag at a manifest, whose blobs are all there."""
        if not self.has_manifest(repository, tag, document):
            self._ask("PUT", f"{repository}/manifests/{tag}", headers={"Content-Type": _MANIFEST}, data=document)

    def push(self, repository: str, body: bytes | _Streamed, *, sha256: str) -> None:
        """Send a blob that the registry lacks; it refuses other bytes than those of the digest."""
        if self._ask("HEAD", f"{repository}/blobs/sha256:{sha256}", absent=True).status_code == 200:
            return
        begun = self._ask("POST", f"{repository}/blobs/uploads/", headers={"Content-Length": "0"})
        place = urljoin(begun.url, begun.headers.get("Location", ""))
        place += f"{'&' if '?' in place else '?'}digest=sha256:{sha256}"
        # An iterable without bytes would be sent in chunks, which registries need not take.
        self._ask("PUT", place, headers={"Content-Type": "application/octet-stream"}, data=body if len(body) else b"")

    def _ask(
        self,
        method: str,
        path: str,
        *,
        headers: Mapping[str, str] | None = None,
        data: bytes | _Streamed | None = None,
        absent: bool = False,
    ) -> requests.Response:
        """Return the answer to a request.

        Args:
            absent: whether what is asked for may be absent.
        Raises:
            SinkUnavailable, SinkDenied, EventRefused: what the registry says otherwise.
        """
        import oras.auth
        import requests

        where = urljoin(self._url, path)
        try:
            answer: requests.Response = self._client().do_request(where, method, data=data, headers=dict(headers or {}))
        except oras.auth.AuthenticationException as err:
            raise SinkDenied(f"{where}: {err}; check the login and the secret of this sink") from err
        except (requests.RequestException, OSError) as err:
            raise SinkUnavailable(f"{where}: {type(err).__name__}: {err}; is the registry running?") from err
        except ValueError as err:  # it has no other way to say that nothing it has is taken
            raise SinkDenied(f"{where}: {err} Check the login and the secret of this sink") from err
        if answer.ok or (absent and answer.status_code == 404):
            return answer
        message = f"{where}: HTTP {answer.status_code}: {answer.text[:300].strip() or answer.reason}"
        if answer.status_code in (401, 403):
            raise SinkDenied(f"{message}; check the login and the secret of this sink")
        if answer.status_code in (408, 429) or answer.status_code >= 500:
            raise SinkUnavailable(f"{message}; it is tried again")
        raise EventRefused(message)

    def _client(self) -> Any:
        """Return oras' client, which signs in by tokens, or by a password with each request, as the registry asks."""
        if self._oras is None:
            import requests

            try:
                asked = requests.get(self._url, timeout=_TIMEOUT_S).headers.get("WWW-Authenticate", "")
            except (requests.RequestException, OSError) as err:
                raise SinkUnavailable(f"{self._url}: {type(err).__name__}: {err}; is the registry running?") from err
            made = _unretried()(
                self._host, insecure=self._plain_http, auth_backend="basic" if asked.startswith("Basic") else "token"
            )
            made.session.request = partial(made.session.request, timeout=_TIMEOUT_S)  # oras would wait for ever
            if self._login:
                made.auth.set_basic_auth(*self._login)
            self._oras = made
        return self._oras


def _unretried() -> type[Any]:
    """Return oras' client without its own retries: it would wait for minutes, and the driver retries."""
    from oras.provider import Registry

    class Unretried(Registry):  # type: ignore[misc]  # oras has no types
        do_request = Registry.do_request.__wrapped__

    return Unretried


def _artefact(found: Bundle, config: bytes) -> Json:
    """Return the manifest of a bundle's artefact, with the bundle's own among its files."""
    sealed = found.manifest
    layers = [
        _layer(_LAYERS.get(file.role, _DOC), sha256=file.sha256, size_bytes=file.size_bytes, path=file.path)
        for file in sealed.files
    ]
    own = _layer(_CONFIG, sha256=found.manifest_sha256, size_bytes=len(found.manifest_json), path=FILE_NAME)
    about = {
        "title": ref_of(found),
        "version": found.version,
        "revision": sealed.source.revision,
        "licenses": sealed.source.licence,
        "created": sealed.bundle.created_at.isoformat(),
    }
    return {
        "schemaVersion": 2,
        "mediaType": _MANIFEST,
        "artifactType": f"{_MODEL}manifest.v1+json",
        "config": _described(f"{_MODEL}config.v1+json", sha256=transfer.sha256_of(config), size_bytes=len(config)),
        "layers": [*layers, own],
        "annotations": {f"org.opencontainers.image.{name}": value for name, value in about.items() if value},
    }


def _config(found: Bundle) -> Json:
    """Return ModelPack's description of a model."""
    sealed = found.manifest
    descriptor = {
        "name": found.model_id,
        "title": ref_of(found),
        "version": found.version,
        "revision": sealed.source.revision,
        "family": sealed.family,
        "createdAt": sealed.bundle.created_at.isoformat(),
        **({"licenses": [sealed.source.licence]} if sealed.source.licence else {}),
    }
    digests = [*(file.sha256 for file in sealed.files), found.manifest_sha256]
    return {
        "descriptor": descriptor,
        "config": {"architecture": sealed.architecture, "format": "onnx", "precision": FP32},
        "modelfs": {"type": "layers", "diffIds": [f"sha256:{digest}" for digest in digests]},
    }


def _layer(media_type: str, *, sha256: str, size_bytes: int, path: str) -> Json:
    named = {"org.cncf.model.filepath": path, "org.opencontainers.image.title": path}
    return {**_described(media_type, sha256=sha256, size_bytes=size_bytes), "annotations": named}


def _described(media_type: str, *, sha256: str, size_bytes: int) -> Json:
    return {"mediaType": media_type, "digest": f"sha256:{sha256}", "size": size_bytes}


OCI = SinkKind(settings=OciSettings, make=OciSink)

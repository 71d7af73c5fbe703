"""huggingface_hub's client, with one way of waiting and one way of failing.

Left alone, that client retries some calls and not others, sleeps for as long as a server says, and has dozens of
exceptions. Here every request of ours goes through Patience, which waits as the Hub asks within a bound, and whatever
still fails leaves as one of onnx_fleet.errors. Other users of huggingface_hub in the process are not affected.
"""

from __future__ import annotations

import errno
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import httpx2
from huggingface_hub import HfApi, constants, errors, get_session, set_client_factory
from huggingface_hub.utils import parse_ratelimit_headers  # type: ignore[attr-defined]  # public, lazily exported

from onnx_fleet.entities.naming import at_commit
from onnx_fleet.errors import (
    HubFileCorrupt,
    HubRateLimited,
    HubUnavailable,
    ModelGated,
    ModelNotFound,
    OnnxFleetError,
    Retryable,
    WorkerOutOfResources,
)

DEFAULT_ENDPOINT = "https://huggingface.co"

_RETRIED_STATUSES = frozenset({408, 429, 500, 502, 503, 504})
_DISK_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
_ROUNDING_S = 1.0
"""The seconds that are added to a wait: rate limit headers count whole seconds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HubSettings:
    """The Hub to ask, and how patiently it is asked."""

    endpoint: str = DEFAULT_ENDPOINT
    token: str | None = field(default=None, repr=False)
    """The access token; None asks anonymously, also where huggingface_hub has a token saved."""
    cache_dir: Path | None = None
    """The folder of the cache; None is huggingface_hub's own."""
    max_workers: int = 8
    """The number of models that are resolved at the same time."""
    request_timeout_s: float = 30.0
    """The timeout for connecting, and for each wait for more bytes."""
    retry_attempts: int = 5
    """The most times that one request is sent."""
    retry_backoff_s: float = 1.0
    """The wait after a first failure where the Hub does not say; it doubles each time."""
    retry_wait_limit_s: float = 330.0
    """The longest that one request waits, all retries together; the Hub's rate limit window is 300 s."""
    download_attempts: int = 3
    """The most times that a file is fetched whose size or digest is wrong."""


class Bar:
    """A progress bar with as much of tqdm as huggingface_hub and its Xet downloads use."""

    def __init__(self, *_: Any, total: float | None = None, **__: Any) -> None:
        self.total = total

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass

    def update(self, n: float | None = 1) -> None:
        """Count bytes that are in the file."""

    def update_transfer(self, n: float | None = 1) -> None:
        """Count bytes from the network; with Xet fewer than those in the file."""

    def set_postfix_str(self, s: str = "", refresh: bool = True) -> None:
        pass

    def set_transfer_postfix_str(self, s: str = "", refresh: bool = True) -> None:
        pass

    def refresh(self) -> None:
        pass

    def close(self) -> None:
        pass


class Hub:
    """A Hub to resolve, search and download from.

    Args:
        settings: which Hub, and how patiently it is asked.
        sleep: waits for a number of seconds.
        clock: returns seconds that only grow.
    """

    def __init__(
        self,
        settings: HubSettings,
        *,
        sleep: Callable[[float], None] = time.sleep,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        _install_client()
        self.settings = settings
        # False, not None: None would make huggingface_hub look for a token of its own.
        self.token: str | bool = settings.token or False
        self.api = HfApi(endpoint=settings.endpoint, token=self.token, library_name="onnx-fleet")
        self.cache_dir = settings.cache_dir or Path(constants.HF_HUB_CACHE)
        self._patience = Patience(settings, sleep=sleep, clock=clock)

    def __repr__(self) -> str:
        return f"Hub({self.settings.endpoint})"

    @contextmanager
    def calling(self, subject: str) -> Iterator[None]:
        """Make calls of huggingface_hub inside wait as they should, and fail as one of onnx_fleet.errors.

        Args:
            subject: what is asked for, to begin a message with: ``acme/tiny@main``.
        Raises:
            HubUnavailable, HubRateLimited, HubFileCorrupt, WorkerOutOfResources, ModelNotFound, ModelGated.
        """
        token = _patience.set(self._patience)
        try:
            yield
        except OnnxFleetError as err:
            raise _with_subject(err, subject) from err.__cause__
        except (httpx2.HTTPError, httpx2.InvalidURL, errors.XetDownloadError, OSError, ValueError) as err:
            raise translate(err, subject=subject, settings=self.settings) from err
        except (KeyError, TypeError, RuntimeError) as err:
            # A listing with other fields than the Hub's, or hf_xet, which has no exception class of its own.
            raise HubUnavailable(f"{subject}: {self.settings.endpoint} gave an unusable answer: {err!r}") from err
        finally:
            _patience.reset(token)

    @contextmanager
    def caching(self, subject: str) -> Iterator[None]:
        """What is written to the cache inside fails as what huggingface_hub writes there.

        Raises:
            WorkerOutOfResources: the cache is full, or may not be written.
        """
        try:
            yield
        except OSError as err:
            raise _from_file_system(err, subject=subject, settings=self.settings) from err

    def fetch(self, repo_id: str, path: str, *, commit: str, bar: type[Bar] = Bar) -> Path:
        """Bring one file of a commit into the cache; what is there already is taken as it is.

        Args:
            bar: counts the bytes.
        Returns:
            Its place in the snapshot folder.
        Raises:
            See calling.
        """
        with self.calling(f"{at_commit(repo_id, commit)}: {path}"):
            return Path(
                self.api.hf_hub_download(
                    repo_id,
                    path,
                    revision=commit,
                    cache_dir=self.cache_dir,
                    etag_timeout=self.settings.request_timeout_s,
                    tqdm_class=bar,
                )
            )


class Patience:
    """Sends requests, waits as the Hub asks, and gives up in time; shared by all threads of one Hub."""

    def __init__(self, settings: HubSettings, *, sleep: Callable[[float], None], clock: Callable[[], float]) -> None:
        self._settings = settings
        self._sleep = sleep
        self._clock = clock
        self._lock = threading.Lock()
        self._opens_at: dict[str, float] = {}

    def send(self, request: httpx2.Request, send: Callable[[], httpx2.Response]) -> httpx2.Response:
        """Send a request until it has an answer that is not worth a retry.

        Raises:
            HubUnavailable: no answer, or 5xx, after the last attempt.
            HubRateLimited: 429 after the last attempt, or the Hub asks for more patience than is allowed.
        """
        if not any(request.extensions.get("timeout", {}).values()):
            request.extensions["timeout"] = httpx2.Timeout(self._settings.request_timeout_s).as_dict()
        bucket = "resolvers" if "/resolve/" in request.url.path else "api"
        waited_s = self._wait_for_opening(bucket)
        attempt = 1
        while True:
            answer, problem = self._try(request, send, bucket)
            if problem is None:
                assert answer is not None
                return answer
            asked_s = problem.retry_after_s if isinstance(problem, HubRateLimited) else None
            pause_s = self._settings.retry_backoff_s * 2 ** (attempt - 1) if asked_s is None else asked_s
            if attempt >= self._settings.retry_attempts or waited_s + pause_s > self._settings.retry_wait_limit_s:
                raise problem
            self._sleep(pause_s)
            waited_s += pause_s
            attempt += 1

    def _try(
        self, request: httpx2.Request, send: Callable[[], httpx2.Response], bucket: str
    ) -> tuple[httpx2.Response | None, Retryable | None]:
        """Make one attempt; returns an answer, or a problem that may pass."""
        place = f"{request.method} {request.url.copy_with(query=None)}"
        try:
            answer = send()
        except (httpx2.TimeoutException, httpx2.NetworkError, httpx2.RemoteProtocolError) as err:
            problem = HubUnavailable(
                f"{place}: no answer ({type(err).__name__}: {err}); check the network and HF_ENDPOINT"
            )
            problem.__cause__ = err
            return None, problem
        self._keep_budget(bucket, answer)
        if answer.status_code not in _RETRIED_STATUSES:
            return answer, None
        asked_s = _asked_pause_s(answer)
        answer.close()
        if answer.status_code == 429:
            advice = "lower the number of workers, or give a token (HF_TOKEN) for a larger budget"
            return None, HubRateLimited(f"{place}: too many requests (HTTP 429); {advice}", retry_after_s=asked_s)
        return None, HubUnavailable(f"{place}: the Hub failed (HTTP {answer.status_code}); try again later")

    def _wait_for_opening(self, bucket: str) -> float:
        """Wait until the Hub takes requests of this kind again; returns the seconds waited."""
        with self._lock:
            pause_s = max(0.0, self._opens_at.get(bucket, 0.0) - self._clock())
        if pause_s > self._settings.retry_wait_limit_s:
            raise HubRateLimited(f"no more {bucket} requests for {pause_s:.0f} s", retry_after_s=pause_s)
        if pause_s:
            self._sleep(pause_s)
        return pause_s

    def _keep_budget(self, bucket: str, answer: httpx2.Response) -> None:
        """Hold back the other threads' requests too, once the Hub says that none is left."""
        limit = parse_ratelimit_headers(answer.headers)
        if limit is not None and limit.remaining == 0:
            with self._lock:
                self._opens_at[bucket] = self._clock() + limit.reset_in_seconds + _ROUNDING_S


_patience: ContextVar[Patience | None] = ContextVar("onnx_fleet_hub_patience", default=None)
_install_lock = threading.Lock()
_installed = False


class _Client(httpx2.Client):
    """huggingface_hub's client; requests inside Hub.calling are sent with patience, all others as ever.

    huggingface_hub closes the one client of all threads when one of them cannot connect. It closes once the others'
    requests are answered: those would break, and a connection that is being made at that moment would stay open.
    """

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self._lock = threading.Lock()
        self._sending = 0
        self._is_to_close = False
        self._owner = os.getpid()

    def send(
        self,
        request: httpx2.Request,
        *,
        stream: bool = False,
        auth: httpx2._types.AuthTypes | httpx2._client.UseClientDefault | None = httpx2.USE_CLIENT_DEFAULT,
        follow_redirects: bool | httpx2._client.UseClientDefault = httpx2.USE_CLIENT_DEFAULT,
    ) -> httpx2.Response:
        def once() -> httpx2.Response:
            with self._counted():
                return super(_Client, self).send(request, stream=stream, auth=auth, follow_redirects=follow_redirects)

        patience = _patience.get()
        return once() if patience is None else patience.send(request, once)

    def close(self) -> None:
        if os.getpid() == self._owner:  # in a fork nobody else sends, and the lock is as it was
            with self._lock:
                self._is_to_close = True
                if self._sending:
                    return
        super().close()

    @contextmanager
    def _counted(self) -> Iterator[None]:
        with self._lock:
            self._sending += 1
        try:
            yield
        finally:
            with self._lock:
                self._sending -= 1
                is_last = self._is_to_close and not self._sending
            if is_last:
                super().close()


def _install_client() -> None:
    """Make huggingface_hub use _Client, once a process; its request hooks (ids, offline mode) stay."""
    global _installed
    with _install_lock:
        if _installed:
            return
        hooks = get_session().event_hooks
        set_client_factory(lambda: _Client(event_hooks=hooks, follow_redirects=True, timeout=None))
        _installed = True


def _asked_pause_s(answer: httpx2.Response) -> float | None:
    """Return how long the Hub asks to wait, in seconds; None where it does not say."""
    limit = parse_ratelimit_headers(answer.headers)
    if answer.status_code == 429 and limit is not None and limit.remaining == 0:
        return limit.reset_in_seconds + _ROUNDING_S
    after = answer.headers.get("Retry-After", "").strip()
    return float(after) if after.isdigit() else None


def _with_subject(err: OnnxFleetError, subject: str) -> OnnxFleetError:
    """Return the same error, its message beginning with what was asked for."""
    message = f"{subject}: {err}"
    if isinstance(err, HubRateLimited):
        return HubRateLimited(message, retry_after_s=err.retry_after_s)
    return type(err)(message)


def translate(err: Exception, *, subject: str, settings: HubSettings) -> OnnxFleetError:
    """Return an exception of huggingface_hub, httpx2 or the file system as one of ours."""
    where = f"{subject} on {settings.endpoint}"
    token_advice = "ask for access with its token" if settings.token else "give a token (HF_TOKEN) that has access"
    match err:
        case errors.LocalEntryNotFoundError() if isinstance(err.__cause__, Exception):
            # "Not in the cache either": why the Hub was of no use is the cause.
            return translate(err.__cause__, subject=subject, settings=settings)
        case errors.GatedRepoError():
            return ModelGated(f"{where} is gated; accept its terms on its page, then {token_advice}")
        case errors.DisabledRepoError():
            return ModelGated(f"{where} was disabled by the Hub; remove the entry")
        case errors.RevisionNotFoundError():
            return ModelNotFound(f"{where}: no such revision; write a branch, a tag or a whole commit SHA")
        case errors.RemoteEntryNotFoundError():
            return ModelNotFound(f"{where}: the file is listed but not served; name another revision")
        case errors.RepositoryNotFoundError():
            return ModelNotFound(f"{where}: no such model, or a private one; check the id, or {token_advice}")
        case errors.HFValidationError():
            return ModelNotFound(f"{subject} is no valid repo id ({err}); write org/name")
        case errors.HfHubHTTPError():
            return _from_status(err, where=where)
        case errors.OfflineModeIsEnabled():
            return HubUnavailable(f"{where}: HF_HUB_OFFLINE forbids asking; unset it")
        case errors.FileMetadataError() | errors.LocalEntryNotFoundError():
            return HubUnavailable(f"{where}: the answer is not a Hub's ({err}); check HF_ENDPOINT")
        case httpx2.HTTPError() | httpx2.InvalidURL() | errors.XetDownloadError():
            return HubUnavailable(f"{where}: {type(err).__name__}: {err}; check the network and HF_ENDPOINT")
        case OSError():
            return _from_file_system(err, subject=subject, settings=settings)
        case _:
            return HubUnavailable(f"{where}: the answer is not a Hub's ({err}); check HF_ENDPOINT")


def _from_status(err: errors.HfHubHTTPError, *, where: str) -> OnnxFleetError:
    """Return an HTTP status without one of the Hub's own error codes as one of our errors."""
    status = err.response.status_code
    said = f"HTTP {status}: {err.server_message or err.response.reason_phrase}"
    if status == 429:
        return HubRateLimited(f"{where}: too many requests ({said})", retry_after_s=_asked_pause_s(err.response))
    if status in (401, 403, 451):
        return ModelGated(f"{where}: access refused ({said}); check that the token (HF_TOKEN) is valid and has access")
    if status in (400, 404, 410):
        return ModelNotFound(f"{where}: {said}; check the id and the revision")
    return HubUnavailable(f"{where}: {said}; try again later")


def _from_file_system(err: OSError, *, subject: str, settings: HubSettings) -> OnnxFleetError:
    if type(err).__module__.startswith("hf_xet") or isinstance(err, ConnectionError):
        return HubUnavailable(f"{subject}: {type(err).__name__}: {err}; try again later")
    cache_dir = settings.cache_dir or constants.HF_HUB_CACHE
    if err.errno in _DISK_FULL:
        return WorkerOutOfResources(f"{subject}: no room in the Hub cache {cache_dir} ({err}); free some space there")
    if err.errno is None:
        # huggingface_hub's consistency check after a download has no class of its own.
        return HubFileCorrupt(f"{subject}: {err}")
    return WorkerOutOfResources(
        f"{subject}: the Hub cache {cache_dir} cannot be used: {err}; make it writable, or let HF_HOME name a folder"
        " that this user may write"
    )

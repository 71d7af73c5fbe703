"""Every exception of huggingface_hub and httpx2 leaves as one of ours."""

from __future__ import annotations

import errno
import threading
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import httpx2
import pytest
from huggingface_hub import close_session, errors, get_session

from fixtures import loopback
from onnx_fleet.errors import (
    HubFileCorrupt,
    HubRateLimited,
    HubUnavailable,
    ModelGated,
    ModelNotFound,
    OnnxFleetError,
    WorkerOutOfResources,
)
from onnx_fleet.source.hub_client import Hub, HubSettings, translate

_REQUEST = httpx2.Request("GET", "http://hub.test/api/models/acme/sound")
_SETTINGS = HubSettings(endpoint="http://hub.test")


def _answered(kind: type[errors.HfHubHTTPError], status: int, **headers: str) -> errors.HfHubHTTPError:
    return kind("said so", response=httpx2.Response(status, headers=headers, request=_REQUEST))


def _not_in_the_cache_either(cause: Exception) -> Exception:
    err = errors.LocalEntryNotFoundError("not in the cache either")
    err.__cause__ = cause
    return err


MAPPED = [
    (_answered(errors.GatedRepoError, 403), ModelGated),
    (_answered(errors.DisabledRepoError, 403), ModelGated),
    (_answered(errors.RepositoryNotFoundError, 404), ModelNotFound),
    (_answered(errors.RevisionNotFoundError, 404), ModelNotFound),
    (_answered(errors.RemoteEntryNotFoundError, 404), ModelNotFound),
    (_answered(errors.BadRequestError, 400), ModelNotFound),
    (_answered(errors.HfHubHTTPError, 401), ModelGated),
    (_answered(errors.HfHubHTTPError, 403), ModelGated),
    (_answered(errors.HfHubHTTPError, 404), ModelNotFound),
    (_answered(errors.HfHubHTTPError, 410), ModelNotFound),
    (_answered(errors.HfHubHTTPError, 418), HubUnavailable),
    (_answered(errors.HfHubHTTPError, 429), HubRateLimited),
    (_answered(errors.HfHubHTTPError, 451), ModelGated),
    (_answered(errors.HfHubHTTPError, 500), HubUnavailable),
    (errors.HFValidationError("two slashes"), ModelNotFound),
    (errors.FileMetadataError("no ETag"), HubUnavailable),
    (errors.OfflineModeIsEnabled("offline"), HubUnavailable),
    (errors.XetDownloadError("no chunks"), HubUnavailable),
    (errors.LocalEntryNotFoundError("offline"), HubUnavailable),
    (_not_in_the_cache_either(_answered(errors.HfHubHTTPError, 503)), HubUnavailable),
    (_not_in_the_cache_either(_answered(errors.GatedRepoError, 403)), ModelGated),
    (httpx2.ConnectTimeout("slow"), HubUnavailable),
    (httpx2.ReadTimeout("slow"), HubUnavailable),
    (httpx2.WriteTimeout("slow"), HubUnavailable),
    (httpx2.PoolTimeout("slow"), HubUnavailable),
    (httpx2.ConnectError("refused"), HubUnavailable),
    (httpx2.ReadError("reset"), HubUnavailable),
    (httpx2.WriteError("reset"), HubUnavailable),
    (httpx2.CloseError("reset"), HubUnavailable),
    (httpx2.ProxyError("no proxy"), HubUnavailable),
    (httpx2.UnsupportedProtocol("gopher"), HubUnavailable),
    (httpx2.LocalProtocolError("bad header"), HubUnavailable),
    (httpx2.RemoteProtocolError("cut"), HubUnavailable),
    (httpx2.DecodingError("bad gzip"), HubUnavailable),
    (httpx2.TooManyRedirects("in circles"), HubUnavailable),
    (httpx2.HTTPStatusError("500", request=_REQUEST, response=httpx2.Response(500)), HubUnavailable),
    (httpx2.InvalidURL("no host"), HubUnavailable),
    (ValueError("not JSON"), HubUnavailable),
    (ConnectionResetError(errno.ECONNRESET, "reset"), HubUnavailable),
    (OSError("Consistency check failed"), HubFileCorrupt),
    (OSError(errno.ENOSPC, "no space left"), WorkerOutOfResources),
    (OSError(errno.EDQUOT, "quota"), WorkerOutOfResources),
    (PermissionError(errno.EACCES, "denied"), WorkerOutOfResources),
]


@pytest.mark.parametrize(("foreign", "expected"), MAPPED, ids=lambda value: getattr(value, "__name__", repr(value)))
def test_each_foreign_exception_has_one_of_ours(foreign: Exception, expected: type[OnnxFleetError]) -> None:
    ours = translate(foreign, subject="acme/sound@main", settings=_SETTINGS)
    assert type(ours) is expected
    assert str(ours).startswith("acme/sound@main")


def test_no_http_exception_is_forgotten() -> None:
    def leaves(kind: type[Exception]) -> set[type[Exception]]:
        below = kind.__subclasses__()
        return set().union(*(leaves(sub) for sub in below)) if below else {kind}

    of_other_services = ("Bucket", "Job", "Inference", "Generation", "Overloaded", "Unknown", "Validation", "SSE")
    relevant = {kind for kind in leaves(httpx2.HTTPError) if not kind.__name__.startswith(of_other_services)}
    relevant -= {kind for kind in relevant if issubclass(kind, errors.TextGenerationError)}
    assert relevant <= {type(foreign) for foreign, _ in MAPPED}


def test_a_full_disk_says_where() -> None:
    settings = HubSettings(cache_dir=Path("/big/cache"))
    message = str(translate(OSError(errno.ENOSPC, "full"), subject="acme/sound@main", settings=settings))
    assert "no room in the Hub cache /big/cache" in message


def test_a_rate_limit_keeps_when_to_come_back() -> None:
    foreign = _answered(errors.HfHubHTTPError, 429, RateLimit='"api";r=0;t=55')
    ours = translate(foreign, subject="acme/sound@main", settings=_SETTINGS)
    assert isinstance(ours, HubRateLimited)
    assert ours.retry_after_s == 56


def test_advice_depends_on_whether_there_is_a_token() -> None:
    foreign = _answered(errors.GatedRepoError, 403)
    assert "give a token (HF_TOKEN)" in str(translate(foreign, subject="a/b@main", settings=_SETTINGS))
    signed_in = HubSettings(token="hf_out")
    assert "ask for access with its token" in str(translate(foreign, subject="a/b@main", settings=signed_in))


def test_a_client_that_one_thread_closes_answers_the_others_first() -> None:
    """huggingface_hub closes it when a thread cannot connect, wherever the others are."""
    asked, all_asked = threading.Barrier(5, timeout=30), threading.Event()

    class Slow(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            asked.wait()
            all_asked.wait(30)
            self.send_response(204)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    Hub(_SETTINGS)
    client = get_session()
    with loopback.serving(Slow) as port, ThreadPoolExecutor(4) as pool:
        answers = [pool.submit(client.get, f"http://127.0.0.1:{port}/") for _ in range(4)]
        asked.wait()
        close_session()
        assert not client.is_closed
        all_asked.set()
        assert [answer.result().status_code for answer in answers] == [204] * 4

    assert client.is_closed
    assert get_session() is not client


def test_an_answer_with_other_fields_than_the_hubs_is_not_a_crash() -> None:
    hub = Hub(_SETTINGS)
    with (
        pytest.raises(HubUnavailable, match=r"a/b@main: http://hub\.test gave an unusable answer: KeyError"),
        hub.calling("a/b@main"),
    ):
        raise KeyError("id")

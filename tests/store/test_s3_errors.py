"""Every exception of botocore has one of our own errors."""

from __future__ import annotations

import pytest
from botocore import exceptions as boto
from botocore.exceptions import BotoCoreError

from onnx_fleet.errors import OnnxFleetError, StoreDenied, StoreNotFound, StoreUnavailable
from onnx_fleet.store import s3_errors

WHERE = "s3://bucket/key"


def _every(kind: type[BotoCoreError]) -> list[type[BotoCoreError]]:
    return [kind, *(sub for direct in kind.__subclasses__() for sub in _every(direct))]


def _bare(kind: type[BotoCoreError]) -> BotoCoreError:
    """An exception without the details that its constructor would ask for."""
    err = kind.__new__(kind)
    Exception.__init__(err, f"{kind.__name__} happened")
    return err


@pytest.mark.parametrize("kind", _every(BotoCoreError), ids=lambda kind: kind.__name__)
def test_every_botocore_exception_becomes_an_error_of_the_store(kind: type[BotoCoreError]) -> None:
    with pytest.raises(OnnxFleetError) as caught, s3_errors.translated(WHERE):
        raise _bare(kind)
    assert isinstance(caught.value, StoreDenied | StoreNotFound | StoreUnavailable)
    assert str(caught.value).startswith(f"{WHERE}: {kind.__name__} happened; ")
    assert isinstance(caught.value.__cause__, kind)


@pytest.mark.parametrize(
    ("kind", "becomes"),
    [
        (boto.NoCredentialsError, StoreDenied),
        (boto.PartialCredentialsError, StoreDenied),
        (boto.CredentialRetrievalError, StoreDenied),
        (boto.TokenRetrievalError, StoreDenied),
        (boto.SSOTokenLoadError, StoreDenied),
        (boto.UnauthorizedSSOTokenError, StoreDenied),
        (boto.ProfileNotFound, StoreDenied),
        (boto.NoRegionError, StoreDenied),
        (boto.SSLError, StoreDenied),
        (boto.ParamValidationError, StoreNotFound),
        (boto.EndpointConnectionError, StoreUnavailable),
        (boto.ConnectTimeoutError, StoreUnavailable),
        (boto.ReadTimeoutError, StoreUnavailable),
        (boto.ConnectionClosedError, StoreUnavailable),
        (boto.ProxyConnectionError, StoreUnavailable),
        (boto.ResponseStreamingError, StoreUnavailable),
        (boto.IncompleteReadError, StoreUnavailable),
        (boto.FlexibleChecksumError, StoreUnavailable),
        (boto.ChecksumError, StoreUnavailable),
        (boto.InvalidConfigError, StoreDenied),
    ],
    ids=lambda kind: kind.__name__,
)
def test_what_may_work_later_is_told_from_what_will_not(
    kind: type[BotoCoreError], becomes: type[OnnxFleetError]
) -> None:
    assert type(s3_errors.from_client(_bare(kind), where=WHERE)) is becomes


def test_a_connection_that_python_itself_reports_as_broken_is_unavailable() -> None:
    with pytest.raises(StoreUnavailable, match=WHERE), s3_errors.translated(WHERE):
        raise ConnectionResetError("reset by peer")

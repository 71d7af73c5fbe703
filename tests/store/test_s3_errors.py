"""Every exception of botocore, and every error code of S3, STS and KMS, has one of our own errors."""

from __future__ import annotations

import pytest
from botocore import exceptions as boto
from botocore.exceptions import BotoCoreError, ClientError
from botocore.loaders import Loader
from botocore.retries.standard import ThrottledRetryableChecker, TransientRetryableChecker

from onnx_fleet.errors import OnnxFleetError, Retryable, StoreDenied, StoreNotFound, StoreUnavailable
from onnx_fleet.store import s3_codes, s3_errors

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
        (boto.CredentialRetrievalError, StoreUnavailable),
        (boto.MetadataRetrievalError, StoreUnavailable),
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


def _described(service: str) -> dict[str, bool]:
    """The error codes in botocore's description of a service, and whether each is the server's fault."""
    shapes = Loader().load_service_model(service, "service-2")["shapes"]
    return {
        shape.get("error", {}).get("code", name): shape.get("fault", False)
        for name, shape in shapes.items()
        if shape.get("exception")
    }


def _becomes(code: str, status: int) -> OnnxFleetError:
    answer = {"Error": {"Code": code, "Message": "said"}, "ResponseMetadata": {"HTTPStatusCode": status}}
    return s3_errors.from_answer(ClientError(answer, "PutObject"), where=WHERE)  # type: ignore[arg-type]


@pytest.mark.parametrize("service", ["s3", "sts", "kms"])
def test_every_error_that_botocore_knows_of_a_service_is_decided(service: str) -> None:
    described = _described(service)
    assert set(described) - set(s3_codes.BY_CODE) == set()
    servers_fault = [code for code, fault in described.items() if fault]
    assert [code for code in servers_fault if not isinstance(_becomes(code, 400), Retryable)] == []


def test_what_botocore_itself_would_send_again_is_retried() -> None:
    again = {*ThrottledRetryableChecker._THROTTLED_ERROR_CODES, *TransientRetryableChecker._TRANSIENT_ERROR_CODES}
    assert [code for code in sorted(again) if not isinstance(_becomes(code, 400), Retryable)] == []


@pytest.mark.parametrize("code", sorted(s3_codes.BY_CODE))
def test_a_code_decides_whatever_the_status_and_whether_kms_said_it(code: str) -> None:
    meaning = s3_codes.BY_CODE[code]
    for said in (code, f"KMS.{code}"):
        for status in (400, 403, 404, 500):
            became = _becomes(said, status)
            assert type(became) is meaning.error
            assert str(became).startswith(f"{WHERE}: the server answered {said} (")
            assert str(became).endswith(f"; {meaning.advice}")


def test_each_code_stands_in_the_table_once() -> None:
    codes = " ".join(s3_codes._CODES.values()).split()
    assert sorted(codes) == sorted(set(codes))


@pytest.mark.parametrize(
    ("code", "becomes"),
    [
        ("ExpiredToken", StoreUnavailable),
        ("ExpiredTokenException", StoreUnavailable),
        ("TokenRefreshRequired", StoreUnavailable),
        ("RequestTimeTooSkewed", StoreUnavailable),
        ("KMS.ThrottlingException", StoreUnavailable),
        ("KMS.KeyUnavailableException", StoreUnavailable),
        ("IDPCommunicationError", StoreUnavailable),
        ("NoSuchUpload", StoreUnavailable),
        ("BadDigest", StoreUnavailable),
        ("InvalidAccessKeyId", StoreDenied),
        ("InvalidToken", StoreDenied),
        ("KMS.NotFoundException", StoreDenied),
        ("KMS.KMSInvalidStateException", StoreDenied),
        ("InvalidObjectState", StoreDenied),
        ("PackedPolicyTooLarge", StoreDenied),
    ],
)
def test_an_answer_that_passes_is_told_from_one_that_stays(code: str, becomes: type[OnnxFleetError]) -> None:
    assert type(_becomes(code, 400)) is becomes


@pytest.mark.parametrize(
    ("status", "becomes"),
    [
        (301, StoreNotFound),
        (400, StoreDenied),
        (403, StoreDenied),
        (404, StoreNotFound),
        (408, StoreUnavailable),
        (411, StoreDenied),
        (429, StoreUnavailable),
        (500, StoreUnavailable),
        (501, StoreDenied),
        (507, StoreUnavailable),
    ],
)
def test_a_code_that_nobody_has_listed_is_decided_by_its_status(status: int, becomes: type[OnnxFleetError]) -> None:
    assert type(_becomes("XOfSomeServer", status)) is becomes

"""What boto3 and S3 servers say -> onnx-fleet's own errors, once.

This module imports botocore; only s3.py imports it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from botocore import exceptions as boto
from botocore.exceptions import BotoCoreError, ClientError

from onnx_fleet.errors import OnnxFleetError, StoreDenied, StoreNotFound, StoreUnavailable

_CHECK_CREDENTIALS = "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, a profile, or the Airflow connection's login"
_CHECK_ENDPOINT = "check the endpoint address and that the server runs, then try again"
_CHECK_SETTINGS = "correct the store's settings"

BY_EXCEPTION: Mapping[type[BotoCoreError], tuple[type[OnnxFleetError], str]] = {
    boto.NoCredentialsError: (StoreDenied, _CHECK_CREDENTIALS),
    boto.PartialCredentialsError: (StoreDenied, _CHECK_CREDENTIALS),
    boto.CredentialRetrievalError: (StoreDenied, _CHECK_CREDENTIALS),
    boto.ProfileNotFound: (StoreDenied, "name a profile of ~/.aws/config, or none"),
    boto.TokenRetrievalError: (StoreDenied, "log in again (aws sso login)"),
    boto.SSOError: (StoreDenied, "log in again (aws sso login)"),
    boto.SSLError: (StoreDenied, "trust the server's certificate (a CA bundle), or correct the endpoint address"),
    boto.NoRegionError: (StoreDenied, "set the region"),
    boto.ParamValidationError: (StoreNotFound, "correct the bucket's name in the store's address"),
    boto.EndpointConnectionError: (StoreUnavailable, _CHECK_ENDPOINT),
    boto.ConnectionError: (StoreUnavailable, _CHECK_ENDPOINT),
    boto.HTTPClientError: (StoreUnavailable, _CHECK_ENDPOINT),
    boto.IncompleteReadError: (StoreUnavailable, "the connection was cut; try again"),
    boto.FlexibleChecksumError: (StoreUnavailable, "the bytes were damaged on their way; try again"),
    boto.ChecksumError: (StoreUnavailable, "the bytes were damaged on their way; try again"),
}
"""Our error for one of boto3's: the first class that fits among an exception's ancestors decides; any other exception
is about the settings."""

_DENIED_STATUS = {401, 403}
_NO_BUCKET = {"NoSuchBucket", "InvalidBucketName", "InvalidBucketState"}
_OTHER_REGION = {"PermanentRedirect", "AuthorizationHeaderMalformed", "IllegalLocationConstraintException"}
_BUSY = {"SlowDown", "RequestTimeout", "TooManyRequests", "Throttling", "ThrottlingException", "OperationAborted"}
_DENIED = {
    "AccessDenied",
    "ExpiredToken",
    "InvalidAccessKeyId",
    "InvalidToken",
    "RequestTimeTooSkewed",
    "SignatureDoesNotMatch",
    "TokenRefreshRequired",
}
_NO_CHECKSUMS = {411, 501}


def code_of(err: ClientError) -> str:
    """Return the server's word for it, such as ``AccessDenied``; the HTTP status for an answer without a body."""
    return str(err.response.get("Error", {}).get("Code", ""))


def status_of(err: ClientError) -> int:
    """Return the HTTP status; 0 where the answer carried none."""
    return int(err.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))


def was_sent_again(err: ClientError) -> bool:
    """Tell whether boto3 had sent the request before, and got no answer or a 5xx."""
    return int(err.response.get("ResponseMetadata", {}).get("RetryAttempts", 0)) > 0


@contextmanager
def translated(where: str) -> Iterator[None]:
    """Translate whatever boto3 raises inside.

    Args:
        where: the address that the operation is about.
    """
    try:
        yield
    except ClientError as err:
        raise from_answer(err, where=where) from err
    except BotoCoreError as err:
        raise from_client(err, where=where) from err
    except (ConnectionError, TimeoutError) as err:
        raise StoreUnavailable(f"{where}: {err}; {_CHECK_ENDPOINT}") from err


def from_client(err: BotoCoreError, *, where: str) -> OnnxFleetError:
    """Make the error for what boto3 found before or without an answer."""
    kind, advice = next((BY_EXCEPTION[base] for base in type(err).__mro__ if base in BY_EXCEPTION), _settings())
    return kind(f"{where}: {_one_line(err)}; {advice}")


def from_answer(err: ClientError, *, where: str) -> OnnxFleetError:
    """Make the error for an answer of the server."""
    code, status = code_of(err), status_of(err)
    said = f"{where}: the server answered {code or status} ({_one_line(err)})"
    if code in _NO_BUCKET:
        return StoreNotFound(f"{said}; create the bucket, or correct the store's address")
    if code in _OTHER_REGION or status == 301:
        return StoreNotFound(f"{said}; set the region that the bucket is in")
    if code in _BUSY or status == 429 or (status >= 500 and status not in _NO_CHECKSUMS):
        return StoreUnavailable(f"{said}; it is retried, and may work later")
    if code in _DENIED or status in _DENIED_STATUS:
        return StoreDenied(
            f"{said}; use credentials that may read, list and write under this prefix ({_CHECK_CREDENTIALS})"
        )
    if status in _NO_CHECKSUMS:
        return StoreDenied(f"{said}; this server refuses boto3's checksums: set checksum_mode to when_required")
    if status == 404:
        return StoreNotFound(f"{said}; correct the store's address")
    return StoreDenied(f"{said}; {_CHECK_SETTINGS}")


def _settings() -> tuple[type[OnnxFleetError], str]:
    return StoreDenied, _CHECK_SETTINGS


def _one_line(err: Exception) -> str:
    return " ".join(str(err).split()).rstrip(".")

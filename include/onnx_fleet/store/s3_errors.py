"""What boto3 and S3 servers say -> onnx-fleet's own errors, once.

This module imports botocore; only what has imported boto3 by then imports it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from botocore import exceptions as boto
from botocore.exceptions import BotoCoreError, ClientError
from botocore.parsers import ResponseParserError
from urllib3.exceptions import HTTPError

from onnx_fleet.errors import OnnxFleetError, StoreDenied, StoreNotFound, StoreUnavailable
from onnx_fleet.store import s3_codes
from onnx_fleet.store.s3_codes import CHECK_CREDENTIALS, EXPIRED

_CHECK_ENDPOINT = "check the endpoint address, and that the server is running, then try again"
_CHECK_SETTINGS = "correct the store's settings"
_CHECK_SOURCE = "make sure that the source of the credentials (metadata service, process) answers; it is retried"
_STILL_EXPIRED = "refreshed credentials are still expired"
"""What botocore says, in a RuntimeError, where new credentials are as old as those that they replace."""

BY_EXCEPTION: Mapping[type[BotoCoreError], tuple[type[OnnxFleetError], str]] = {
    boto.NoCredentialsError: (StoreDenied, CHECK_CREDENTIALS),
    boto.PartialCredentialsError: (StoreDenied, CHECK_CREDENTIALS),
    boto.CredentialRetrievalError: (StoreUnavailable, _CHECK_SOURCE),
    boto.MetadataRetrievalError: (StoreUnavailable, _CHECK_SOURCE),
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
    boto.FlexibleChecksumError: (StoreUnavailable, "the bytes were damaged in transfer; try again"),
    boto.ChecksumError: (StoreUnavailable, "the bytes were damaged in transfer; try again"),
}
"""Our error for one of boto3's: the first class that fits among an exception's ancestors decides; any other exception
is about the settings."""


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
        with translated_but_answers(where):
            yield
    except ClientError as err:
        raise from_answer(err, where=where) from err


@contextmanager
def translated_but_answers(where: str) -> Iterator[None]:
    """Translate whatever boto3 raises inside, but for what the server answered: a ClientError is the caller's.

    boto3 lets through what breaks while it reads the body of a refusal, or parses an answer that is damaged.
    """
    try:
        yield
    except BotoCoreError as err:
        raise from_client(err, where=where) from err
    except (ConnectionError, TimeoutError, HTTPError) as err:
        raise StoreUnavailable(f"{where}: {_one_line(err)}; {_CHECK_ENDPOINT}") from err
    except ResponseParserError as err:
        raise StoreUnavailable(f"{where}: the answer cannot be read: {_one_line(err)}; try again") from err
    except RuntimeError as err:
        if _STILL_EXPIRED not in str(err):
            raise
        raise EXPIRED.error(f"{where}: {_one_line(err)}; {EXPIRED.advice}") from err


def from_client(err: BotoCoreError, *, where: str) -> OnnxFleetError:
    """Make the error for what boto3 found before or without an answer."""
    kind, advice = next((BY_EXCEPTION[base] for base in type(err).__mro__ if base in BY_EXCEPTION), _settings())
    return kind(f"{where}: {_one_line(err)}; {advice}")


def from_answer(err: ClientError, *, where: str) -> OnnxFleetError:
    """Make the error for an answer of the server, or of the one that gives its credentials."""
    code, status = code_of(err), status_of(err)
    meaning = s3_codes.meaning_of(code, status)
    return meaning.error(f"{where}: the server answered {code or status} ({_one_line(err)}); {meaning.advice}")


def _settings() -> tuple[type[OnnxFleetError], str]:
    return StoreDenied, _CHECK_SETTINGS


def _one_line(err: Exception) -> str:
    return " ".join(str(err).split()).rstrip(".")

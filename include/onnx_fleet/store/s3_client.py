"""boto3's S3 client, made from settings. This module imports boto3; only those of S3 import it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import boto3
import botocore.session
from botocore.config import Config
from botocore.credentials import CredentialProvider, CredentialResolver, Credentials
from botocore.loaders import create_loader

from onnx_fleet import __version__
from onnx_fleet.errors import StoreDenied
from onnx_fleet.store import keys, s3_errors
from onnx_fleet.store.address import S3Address, S3Settings
from onnx_fleet.store.concurrency import WORKERS

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

_API_DESCRIPTIONS = create_loader()
"""The descriptions that all clients share: reading S3's takes a tenth of a second."""


class _Given(CredentialProvider):
    """The one place where a session looks for credentials that its maker has brought."""

    METHOD = "onnx-fleet"

    def __init__(self, credentials: Credentials) -> None:
        super().__init__()
        self._credentials = credentials

    def load(self) -> Credentials:
        return self._credentials


@dataclass(frozen=True, slots=True, kw_only=True)
class S3Place:
    """A bucket and a prefix in it, how they are reached, and what requests are signed with."""

    address: S3Address
    settings: S3Settings
    credentials: Credentials | None = None

    @property
    def base(self) -> str:
        """The prefix of all keys in the bucket, with its slash; empty where there is none."""
        return f"{self.address.prefix}/" if self.address.prefix else ""

    def key(self, key: str) -> str:
        """Return the bucket's key for one of the store's."""
        return self.base + keys.checked(key)

    def where(self, key: str) -> str:
        """Return what an object is called for people."""
        return f"{self.address}/{key}"

    def client(self) -> S3Client:
        """Make a client of boto3; connect() says what may go wrong."""
        return connect(self.address, settings=self.settings, credentials=self.credentials)


def connect(address: S3Address, *, settings: S3Settings, credentials: Credentials | None = None) -> S3Client:
    """Make a client of boto3; nothing is asked of the server yet.

    Args:
        credentials: signed with instead of those of the settings, or of boto3's own chain. Each request asks them for
            their keys, so that those which refresh themselves do so under a client that lives long.

    Raises:
        StoreDenied: the settings are not usable.
    """
    path_style = settings.endpoint_url is not None if settings.path_style is None else settings.path_style
    config = Config(
        retries={"mode": "standard", "total_max_attempts": settings.max_attempts},
        max_pool_connections=WORKERS,
        connect_timeout=settings.connect_timeout_s,
        read_timeout=settings.read_timeout_s,
        request_checksum_calculation=settings.checksum_mode,
        response_checksum_validation=settings.checksum_mode,
        s3={"addressing_style": "path" if path_style else "auto"},
        user_agent_extra=f"onnx-fleet/{__version__}",
    )
    where = f"{address} at {settings.endpoint_url or 'the endpoint of boto3'}"
    with s3_errors.translated(where):
        try:
            base = botocore.session.Session(profile=settings.profile)
            base.register_component("data_loader", _API_DESCRIPTIONS)
            if credentials:
                base.register_component("credential_provider", CredentialResolver([_Given(credentials)]))
            session = boto3.session.Session(botocore_session=base)
            return session.client(
                "s3",
                endpoint_url=settings.endpoint_url,
                region_name=settings.region,
                aws_access_key_id=settings.access_key_id,
                aws_secret_access_key=settings.secret_access_key,
                aws_session_token=settings.session_token,
                verify=settings.verify_tls,
                config=config,
            )
        except ValueError as err:
            raise StoreDenied(f"{where}: {err}; write the endpoint as http://HOST:PORT or https://HOST") from err


def only_where_absent(client: S3Client) -> S3Client:
    """Make a client's multipart uploads and copies create-only: boto3's transfer manager does not take IfNoneMatch."""
    for operation in ("CompleteMultipartUpload", "CopyObject"):
        client.meta.events.register(
            f"provide-client-params.s3.{operation}",
            _with_condition,  # type: ignore[arg-type]  # this event takes what its handler returns
        )
    return client


def _with_condition(params: dict[str, Any], **_: object) -> dict[str, Any]:
    return {**params, "IfNoneMatch": "*"}

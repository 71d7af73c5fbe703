"""Airflow's connections -> the library's settings."""

from __future__ import annotations

import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from airflow.providers.amazon.aws.hooks.base_aws import AwsGenericHook
from airflow.providers.amazon.aws.utils.connection_wrapper import AwsConnectionWrapper
from airflow.sdk import BaseHook
from airflow.sdk.exceptions import AirflowNotFoundException
from botocore.credentials import Credentials
from pydantic import ValidationError

from onnx_fleet import jsonio
from onnx_fleet.airflow.settings import FleetSettings
from onnx_fleet.bundles.signing_key import SigningKey
from onnx_fleet.errors import SigningKeyInvalid, SinkDenied, StoreDenied, StoreNotFound
from onnx_fleet.jsonio import Json
from onnx_fleet.source.hub_client import HubSettings
from onnx_fleet.store import ObjectStore, S3Settings, open_store, s3_errors

_OWN_KEYS = ("path_style", "checksum_mode", "sse", "sse_kms_key_id", "single_writer", "multipart_bytes")
"""The keys of the connection's ``extra.service_config.s3`` that are handed on as S3Settings has them."""


def store(settings: FleetSettings) -> ObjectStore:
    """Open the deployment's store.

    Raises:
        StoreNotFound: none is configured.
        StoreDenied: the connection is missing or not usable.
    """
    if not settings.store:
        raise StoreNotFound(
            "no store is configured: set [onnx_fleet] store (AIRFLOW__ONNX_FLEET__STORE) to s3://BUCKET/PREFIX or a"
            " folder"
        )
    if not settings.aws_conn_id or not settings.store.startswith("s3://"):
        return open_store(settings.store)
    s3, credentials = s3_access(settings.aws_conn_id)
    return open_store(settings.store, s3=s3, credentials=credentials)


def s3_access(conn_id: str) -> tuple[S3Settings, Credentials | None]:
    """Return what an ``aws`` connection says, and its credentials: those of a role renew themselves.

    Raises:
        StoreDenied: there is no such connection, its extra has an unknown key, or its role may not be assumed.
        StoreUnavailable: the role could not be assumed now.
    """
    try:
        BaseHook.get_connection(conn_id)
    except AirflowNotFoundException as err:
        raise StoreDenied(
            f"there is no Airflow connection {conn_id!r}: create it (type aws), or clear [onnx_fleet] aws_conn_id to"
            " use boto3's own credentials"
        ) from err
    hook: AwsGenericHook[Any] = AwsGenericHook(aws_conn_id=conn_id, client_type="s3")
    wrapper = hook.conn_config
    said = {
        "endpoint_url": wrapper.get_service_endpoint_url("s3"),
        "region": wrapper.region_name,
        "verify_tls": True if wrapper.verify is None else wrapper.verify,
        **_botocore(wrapper),
        **_own(wrapper),
    }
    try:
        found = jsonio.from_json(S3Settings, said)
    except ValidationError as err:
        faults = "; ".join(f"{detail['loc'][0]}: {detail['msg']}" for detail in err.errors())
        raise StoreDenied(f"Airflow connection {conn_id!r} is not usable: {faults}") from err
    with s3_errors.translated(f"Airflow connection {conn_id!r}"):
        return found, _credentials(hook, wrapper)


def secret(conn_id: str) -> str:
    """Return the password of a connection, which is the secret of a sink.

    Raises:
        SinkDenied: there is no such connection, or it has none.
    """
    try:
        password = BaseHook.get_connection(conn_id).password
    except AirflowNotFoundException as err:
        raise SinkDenied(f"there is no Airflow connection {conn_id!r}: create it, the secret as its password") from err
    if not password:
        raise SinkDenied(f"the Airflow connection {conn_id!r} has no password: enter the secret there")
    return str(password)


def _credentials(hook: AwsGenericHook[Any], wrapper: AwsConnectionWrapper) -> Credentials | None:
    """Return the connection's credentials; None where it names none, and boto3 looks where it always does."""
    if not (wrapper.aws_access_key_id or wrapper.role_arn or wrapper.profile_name):
        return None
    return hook.get_session(region_name=wrapper.region_name).get_credentials()


def _botocore(wrapper: AwsConnectionWrapper) -> Json:
    """Return what the connection's ``extra.config_kwargs`` says, in botocore's terms."""
    config: Json = wrapper.extra_config.get("config_kwargs", {})
    said: Json = {}
    if config.get("s3", {}).get("addressing_style") == "path":
        said["path_style"] = True
    if "request_checksum_calculation" in config:
        said["checksum_mode"] = config["request_checksum_calculation"]
    return said


def _own(wrapper: AwsConnectionWrapper) -> Json:
    """Return what the connection's ``extra.service_config.s3`` says, in S3Settings' terms."""
    section = wrapper.get_service_config("s3")
    unknown = sorted(set(section) - {*_OWN_KEYS, "endpoint_url", "bucket_name"})
    if unknown:
        raise StoreDenied(
            f"Airflow connection {wrapper.conn_id!r}: extra.service_config.s3 has {', '.join(unknown)}; known are"
            f" endpoint_url, {', '.join(_OWN_KEYS)}"
        )
    return {key: section[key] for key in _OWN_KEYS if key in section}


def hub_settings(settings: FleetSettings) -> HubSettings:
    """Return the deployment's Hub: a connection's host and password, or HF_ENDPOINT and HF_TOKEN."""
    if settings.hub_conn_id is None:
        endpoint, token = os.environ.get("HF_ENDPOINT"), os.environ.get("HF_TOKEN")
    else:
        connection = BaseHook.get_connection(settings.hub_conn_id)
        endpoint, token = connection.host, connection.password
        if endpoint and "://" not in endpoint:
            port = f":{connection.port}" if connection.port else ""
            endpoint = f"{connection.schema or 'https'}://{endpoint}{port}"
    known = HubSettings(token=token or None)
    return HubSettings(token=token or None, endpoint=(endpoint or known.endpoint).rstrip("/"))


_SIGNING_FIELDS: Final = ("private_key", "key_file", "certificates", "certificates_file")


def signing_key(settings: FleetSettings) -> SigningKey | None:
    """Return the key of the signing connection; None where none is configured.

    The connection's ``extra`` has ``private_key`` in PEM or ``key_file``, and may have ``certificates`` or
    ``certificates_file``; its password is the key's passphrase. These are names that Airflow masks in its logs.

    Raises:
        SigningKeyInvalid: there is no such connection, or its key cannot be used.
    """
    if settings.signing_conn_id is None:
        return None
    where = f"Airflow connection {settings.signing_conn_id!r}"
    try:
        connection = BaseHook.get_connection(settings.signing_conn_id)
    except AirflowNotFoundException as err:
        raise SigningKeyInvalid(
            f"there is no {where}: create it (type generic), or clear [onnx_fleet] signing_conn_id to sign nothing"
        ) from err
    extra: Json = connection.extra_dejson
    unknown = sorted(set(extra) - set(_SIGNING_FIELDS))
    if unknown:
        raise SigningKeyInvalid(f"{where}: extra has {', '.join(unknown)}; known are {', '.join(_SIGNING_FIELDS)}")
    pem = _pem(extra, "private_key", "key_file", where=where)
    if pem is None:
        raise SigningKeyInvalid(f"{where}: extra has no private_key and no key_file; write one of them")
    return SigningKey.load(
        pem,
        where=where,
        now=datetime.now(UTC),
        passphrase=connection.password or None,
        certificates_pem=_pem(extra, "certificates", "certificates_file", where=where),
    )


def _pem(extra: Json, text: str, file: str, *, where: str) -> bytes | None:
    """Return what a connection has in one of two fields: the text itself, or the path of a file."""
    if extra.get(text):
        return str(extra[text]).encode()
    if not extra.get(file):
        return None
    try:
        return Path(extra[file]).read_bytes()
    except OSError as err:
        raise SigningKeyInvalid(f"{where}: {file} cannot be read: {err.strerror}; name another file") from err

"""What an Airflow connection says, in the library's words."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from fixtures.airflow import AirflowHome
from fixtures.quirky_s3 import Quirks, serve
from fixtures.signers import PASSPHRASE, signer

CONN_ID = "AIRFLOW__ONNX_FLEET__AWS_CONN_ID"

pytestmark = pytest.mark.airflow


def read(home: AirflowHome, extra: dict[str, object], **environment: str) -> dict[str, Any]:
    connection = {"conn_type": "aws", "login": "key-id", "password": "secret-key", "extra": extra}
    options = {"AIRFLOW_CONN_BUCKET": json.dumps(connection), **environment}
    return home.ask("fixtures.connection_settings", {"conn_id": "bucket"}, options=options)


def test_an_aws_connection_gives_endpoint_region_and_credentials(airflow_home: AirflowHome) -> None:
    section = {"checksum_mode": "when_required", "sse": "aws:kms", "sse_kms_key_id": "the-key", "single_writer": True}
    extra = {
        "endpoint_url": "https://s3.example",
        "region_name": "eu-north-1",
        "service_config": {"s3": section},
        "config_kwargs": {"s3": {"addressing_style": "path"}},
    }
    answer = read(airflow_home, extra)
    said = answer["s3"]
    assert (said["endpoint_url"], said["region"]) == ("https://s3.example", "eu-north-1")
    assert answer["keys"] == ["key-id", "secret-key", None]
    assert {name: said[name] for name in section} == section
    assert said["path_style"] is True


def test_the_keys_of_a_role_are_renewed_under_a_store_that_is_open(airflow_home: AirflowHome) -> None:
    with serve(Quirks(keys_last_one_request=True)) as server:
        extra = {
            "region_name": "us-east-1",
            "role_arn": "arn:aws:iam::123456789012:role/publisher",
            "endpoint_url": f"http://127.0.0.1:{server.port}",
            "service_config": {"sts": {"endpoint_url": f"http://127.0.0.1:{server.port}"}},
        }
        answer = read(airflow_home, extra, AIRFLOW__ONNX_FLEET__STORE=server.address, **{CONN_ID: "bucket"})
        assert answer["created"] == [True, True, True]
        assert {key.removeprefix("prefix/") for key in server.objects} == {f"object-{number}" for number in range(3)}
        signed = [request for request in server.quirks.requests if not request.startswith("POST")]
        assert server.roles_assumed > len(signed) > 6


def test_a_role_that_cannot_be_assumed_now_may_be_later(airflow_home: AirflowHome) -> None:
    with serve(Quirks(answers=[("POST", 400, "Throttling")] * 10)) as server:
        extra = {
            "region_name": "us-east-1",
            "role_arn": "arn:aws:iam::123456789012:role/publisher",
            "endpoint_url": f"http://127.0.0.1:{server.port}",
            "service_config": {"sts": {"endpoint_url": f"http://127.0.0.1:{server.port}"}},
        }
        error = read(airflow_home, extra)["error"]
    assert error.startswith("StoreUnavailable: Airflow connection 'bucket': the server answered Throttling")


def test_an_unknown_or_wrong_setting_of_a_connection_is_named(airflow_home: AirflowHome) -> None:
    unknown = read(airflow_home, {"service_config": {"s3": {"pathstyle": True}}})
    assert "pathstyle; known are endpoint_url, path_style" in unknown["error"]
    wrong = read(airflow_home, {"service_config": {"s3": {"checksum_mode": "never"}}})
    assert "'bucket' is not usable: checksum_mode" in wrong["error"]


def test_what_is_not_configured_is_said_with_the_setting_to_set(airflow_home: AirflowHome) -> None:
    assert "AIRFLOW__ONNX_FLEET__STORE" in read(airflow_home, {})["store_error"]
    missing = airflow_home.ask("fixtures.connection_settings", {"conn_id": "nowhere"}, options={})
    assert "there is no Airflow connection 'nowhere'" in str(missing["error"])


def test_the_hub_comes_from_its_connection_before_the_environment(airflow_home: AirflowHome) -> None:
    connection = {"conn_type": "http", "host": "hub.example", "schema": "http", "port": 8080, "password": "token"}
    named = read(
        airflow_home,
        {},
        AIRFLOW__ONNX_FLEET__HUB_CONN_ID="hub",
        AIRFLOW_CONN_HUB=json.dumps(connection),
        HF_ENDPOINT="https://other.example",
    )
    assert named["hub"] == {"endpoint": "http://hub.example:8080", "token": "token"}
    unnamed = read(airflow_home, {}, HF_ENDPOINT="https://other.example/")
    assert unnamed["hub"] == {"endpoint": "https://other.example", "token": None}


def test_the_gpu_of_a_worker_and_its_memory_are_configured(airflow_home: AirflowHome) -> None:
    configured = read(
        airflow_home, {}, AIRFLOW__ONNX_FLEET__GPU_ID="1", AIRFLOW__ONNX_FLEET__GPU_MEMORY_BYTES="8589934592"
    )
    assert configured["gpu"] == {"device_id": 1, "memory_bytes": 8 << 30}
    assert read(airflow_home, {})["gpu"] == {"device_id": 0, "memory_bytes": None}


def test_bundles_are_signed_with_the_key_of_a_connection(airflow_home: AirflowHome, tmp_path: Path) -> None:
    """Its text or its file; and a connection that has none of use is named, without what it holds."""
    files = signer(tmp_path, "ci")
    encrypted = files.encrypted.read_text()

    def signing(password: str | None, **extra: str) -> str:
        connection = {"conn_type": "generic", "password": password, "extra": extra}
        options = {"AIRFLOW_CONN_SIGNER": json.dumps(connection), "AIRFLOW__ONNX_FLEET__SIGNING_CONN_ID": "signer"}
        return str(airflow_home.ask("fixtures.connection_settings", {"conn_id": "none"}, options=options)["signing"])

    assert airflow_home.ask("fixtures.connection_settings", {"conn_id": "none"}, options={})["signing"] is None
    assert signing(PASSPHRASE, private_key=encrypted) == files.signing_key.key_id
    assert signing(None, key_file=str(files.private)) == files.signing_key.key_id
    faults = {
        "or the passphrase is not the key's": signing("guess", private_key=encrypted),
        "no passphrase is given": signing(None, private_key=encrypted),
        "extra has no private_key and no key_file": signing(PASSPHRASE),
        "key_file cannot be read: No such file": signing(None, key_file=str(tmp_path / "none.pem")),
        "extra has privat_key; known are private_key": signing(PASSPHRASE, privat_key=encrypted),
    }
    for said, found in faults.items():
        assert found.startswith("SigningKeyInvalid: Airflow connection 'signer': ")
        assert said in found
        assert not [secret for secret in (*files.secrets, "guess") if secret in found]
    options = {"AIRFLOW__ONNX_FLEET__SIGNING_CONN_ID": "nobody"}
    missing = airflow_home.ask("fixtures.connection_settings", {"conn_id": "none"}, options=options)["signing"]
    assert missing.startswith("SigningKeyInvalid: there is no Airflow connection 'nobody'")

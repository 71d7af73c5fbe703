"""The demo's bucket as the store of a command that names none: pyproject.toml registers it with the command line."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from onnx_fleet.store import ObjectStore, open_store
from onnx_fleet_demo import s3_server, var


@contextmanager
def opened() -> Iterator[ObjectStore]:
    """Open the demo's bucket, and serve it while the context is open where nobody serves it already."""
    data_dir = var.s3_dir()
    with ExitStack() as stack:
        endpoint_url = s3_server.running(data_dir)
        if endpoint_url is None:
            endpoint_url = stack.enter_context(s3_server.EmbeddedS3(data_dir)).endpoint_url
        yield open_store(f"s3://{s3_server.BUCKET}", s3=s3_server.settings_for(endpoint_url))

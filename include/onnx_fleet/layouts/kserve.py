"""A Triton repository with an InferenceService that has KServe serve it, by the runtime that KServe brings for Triton.

KServe copies what ``storageUri`` names to /mnt/models and starts ``tritonserver --model-store=/mnt/models`` there
(config/runtimes/kserve-tritonserver.yaml of https://github.com/kserve/kserve).
"""

from __future__ import annotations

import re
from typing import Any, Final

import yaml

from onnx_fleet.bundles.manifest import BundleInfo
from onnx_fleet.layouts import triton
from onnx_fleet.layouts.arrangement import Arrangement, Subject

FILE_NAME: Final = "inferenceservice.yaml"
_MOST_LETTERS: Final = 40
"""KServe puts words behind a service's name, and a host's name in DNS has 63 letters at most."""


def arrange(subject: Subject) -> Arrangement:
    """Arrange a bundle for KServe.

    Raises:
        LayoutUnsupported: nothing says where KServe will find the folder, or Triton cannot run one of the graphs.
    """
    address = subject.choice.storage_uri
    if not address or "://" not in address:
        raise subject.refusal(
            "KServe fetches models from an address; name the one that this folder will have, with --storage-uri"
            " pvc://CLAIM/PATH or s3://BUCKET/PATH"
        )
    arranged = triton.arrange(subject)
    text = yaml.safe_dump(_service(subject.manifest.bundle, address=address), sort_keys=False)
    return Arrangement(placed=arranged.placed, made={**arranged.made, FILE_NAME: text})


def _service(bundle: BundleInfo, *, address: str) -> dict[str, Any]:
    return {
        "apiVersion": "serving.kserve.io/v1beta1",
        "kind": "InferenceService",
        "metadata": {
            "name": _name(bundle.model_id),
            "annotations": {"onnx-fleet/model-id": bundle.model_id, "onnx-fleet/version": bundle.version},
        },
        "spec": {
            "predictor": {
                "model": {
                    "modelFormat": {"name": "triton", "version": "2"},
                    "protocolVersion": "v2",
                    "runtime": "kserve-tritonserver",
                    "storageUri": f"{address.rstrip('/')}/{triton.REPOSITORY}",
                }
            }
        },
    }


def _name(model_id: str) -> str:
    """Return the model's name as Kubernetes takes names: lower-case letters, digits and hyphens, a letter first."""
    name = re.sub(r"[^a-z0-9]+", "-", model_id.partition("/")[2].lower())
    name = name if name[:1].isalpha() else f"m-{name.lstrip('-')}"
    return name[:_MOST_LETTERS].rstrip("-")

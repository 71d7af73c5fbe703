"""What a model's version, keys and bytes are does not depend on how our code is laid out.

``golden/export.json`` was written by the code before it was laid out in rooms. It is written anew only together with
a change that is meant to change bundles: a pin in requirements.txt, or EXPORT_FORMAT.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path

from fixtures.exported import export_from_zoo
from onnx_fleet.export import cache_keys
from onnx_fleet.planning import fingerprint
from onnx_fleet.source import checkpoint

GOLDEN = Path(__file__).parents[1] / "golden" / "export.json"


def test_the_same_model_has_the_version_the_keys_and_the_bytes_that_it_always_had(tmp_path: Path) -> None:
    """The weights lie beside the graph: their random values are the machine's."""
    made = export_from_zoo("BertForSequenceClassification", tmp_path, weights="external")
    item = replace(made.stage.item, toolchain={"onnx": "1.0"})
    deciding = fingerprint.fingerprint(item.model, family=item.family, versions=item.toolchain)
    packed = [path for path in map(str, made.stage.published_files()) if not path.startswith("reports/")]
    found = {
        "fingerprint": deciding,
        "version": fingerprint.version_of(item.model.commit, deciding),
        "graph_key": cache_keys.of_graphs(item, source_dir=made.source_dir, tensors=checkpoint.read(made.source_dir)),
        "tokenizer_key": cache_keys.of_tokenizer(item, source_dir=made.source_dir),
        "files": {
            path: hashlib.sha256((made.stage_dir / path).read_bytes()).hexdigest()
            for path in packed
            if path.endswith((".json", ".onnx"))
        },
    }
    assert found == json.loads(GOLDEN.read_bytes())

"""Lay out the graphs of a pulled bundle as models of a Triton repository, for Triton's onnxruntime backend.

python docs/examples/triton_repository.py FOLDER REPOSITORY NAME [VARIANT]

Each graph of the variant (fp32 where none is named) becomes a model: NAME, or NAME-ROLE where the bundle has several
graphs. Its config.pbtxt is made from the bundle's manifest alone.
"""

import json
import shutil
import sys
from pathlib import Path

TYPES = {"float32": "FP32", "float16": "FP16", "int64": "INT64", "int32": "INT32", "bool": "BOOL"}
MAX_BATCH_SIZE = 32  # the largest batch that onnx-fleet runs before it publishes a bundle


def tensors(specs, *, batched):
    rows = []
    for spec in specs:
        dims = [size if isinstance(size, int) else -1 for size in spec["shape"][1 if batched else 0 :]]
        rows.append(f'  {{ name: "{spec["name"]}" data_type: TYPE_{TYPES[spec["dtype"]]} dims: {dims} }}')
    return "[\n" + ",\n".join(rows) + "\n]"


def config(graph):
    specs = [*graph["inputs"], *graph["outputs"]]
    # Triton may join requests into batches where every tensor has the batch first, and something behind it.
    batched = all(spec["shape"][0] == "batch_size" and len(spec["shape"]) > 1 for spec in specs)
    return (
        'backend: "onnxruntime"\n'
        f"max_batch_size: {MAX_BATCH_SIZE if batched else 0}\n"
        f"input {tensors(graph['inputs'], batched=batched)}\n"
        f"output {tensors(graph['outputs'], batched=batched)}\n" + ("dynamic_batching { }\n" if batched else "")
    )


def lay_out(folder, repository, name, variant="fp32"):
    graphs = json.loads((folder / "manifest.json").read_text())["graphs"]
    wanted = [graph for graph in graphs if graph["variant"] == variant]
    if not wanted:
        sys.exit(f"{folder} has no {variant}; it has {', '.join(sorted({graph['variant'] for graph in graphs}))}")
    for graph in wanted:
        model = repository / (name if len(wanted) == 1 else f"{name}-{graph['role']}")
        version = model / "1" / "model.onnx"  # a folder: the graph and its weights together are the model
        version.mkdir(parents=True)
        shutil.copy2(folder / graph["path"], version / "model.onnx")
        for weights in graph["weight_files"]:
            shutil.copy2(folder / weights, version)
        (model / "config.pbtxt").write_text(config(graph))


if __name__ == "__main__":
    folder, repository, *names = sys.argv[1:]
    lay_out(Path(folder), Path(repository), *names)

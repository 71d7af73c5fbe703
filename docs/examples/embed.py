"""Embed sentences with a pulled sentence-transformers bundle, by plain onnxruntime and tokenizers.

python docs/examples/embed.py FOLDER SENTENCE…: how alike the first sentence is to each other one.
"""

import sys
from pathlib import Path

import numpy as np
import onnxruntime
import tokenizers

folder, *sentences = sys.argv[1:]
session = onnxruntime.InferenceSession(Path(folder, "onnx", "model.onnx"))
tokenizer = tokenizers.Tokenizer.from_file(str(Path(folder, "tokenizer.json")))
encodings = tokenizer.encode_batch(sentences)
arrays = {
    "input_ids": np.array([encoding.ids for encoding in encodings]),
    "attention_mask": np.array([encoding.attention_mask for encoding in encodings]),
    "token_type_ids": np.array([encoding.type_ids for encoding in encodings]),
}
hidden = session.run(["last_hidden_state"], {name.name: arrays[name.name] for name in session.get_inputs()})[0]
mask = arrays["attention_mask"][:, :, None]
embeddings = (hidden * mask).sum(axis=1) / mask.sum(axis=1)
embeddings /= np.linalg.norm(embeddings, axis=1, keepdims=True)
for sentence, likeness in zip(sentences, embeddings @ embeddings[0], strict=True):
    print(f"{likeness:.3f}  {sentence}")

"""Outputs as a consumer wants them: what a head adds, what is dropped, what gets another name."""

from onnx_fleet.recipes import Recipe, Tensors, embedding, hidden_layers

first_token = embedding(
    "adds sentence_embedding: the first token's hidden state, what the built-in cls does",
    lambda inputs, outputs: outputs["last_hidden_state"][:, 0],
)

two_layers = hidden_layers(1, 2)


def _ends(inputs: Tensors, outputs: Tensors) -> Tensors:
    padding = inputs["attention_mask"] == 0
    return {
        f"{end}_probabilities": outputs[f"{end}_logits"].masked_fill(padding, -1e4).softmax(dim=-1)
        for end in ("start", "end")
    }


answer_ends = Recipe(
    summary="where an answer starts and ends, as probabilities over real tokens instead of logits",
    tasks=("question-answering",),
    head=_ends,
    outputs={
        "start_probabilities": ("batch_size", "sequence_length"),
        "end_probabilities": ("batch_size", "sequence_length"),
    },
    drop=("start_logits", "end_logits"),
)

scores = Recipe(
    summary="calls the logits scores",
    tasks=("text-classification", "text-ranking"),
    rename={"logits": "scores"},
)

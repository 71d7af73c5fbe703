"""onnxruntime-genai loads a pulled decoder in its layout, and generates what a loop of ours does with the graph."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

import numpy as np
import pytest

from consumers.loading import INSTALLED
from fixtures.arranged import arranged
from onnx_fleet.graphs import generation
from onnx_fleet.graphs.session import open_session

PROMPT = [5, 7, 11, 4]
LENGTH = 24
PAGE = (Path(__file__).parents[2] / "docs/serving.md").read_text()
GIVEN = "import json, sys; folder, prompt, length = sys.argv[1], json.loads(sys.argv[2]), int(sys.argv[3])"
ANSWER = "print(json.dumps([int(token) for token in tokens]))"
END = 2


@pytest.mark.parametrize("fixture", ["gpt2", "qwen3"])
def test_genai_generates_what_the_graph_says(fixture: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    arranged(request.getfixturevalue(fixture), tmp_path, layout="genai")
    folder = tmp_path / "served"
    (lines,) = re.findall(r"test_genai.py runs this -->\n```python\n(.*?)```", PAGE, flags=re.DOTALL)
    code = f"{GIVEN}\n{lines}\n{ANSWER}"
    command = [INSTALLED / "bin/python", "-c", code, folder, json.dumps(PROMPT), str(LENGTH)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr

    prompt = np.array([PROMPT])
    call = generation.behind(open_session(folder / "onnx/model.onnx"), attention_mask=np.ones_like(prompt))
    (ours,) = generation.greedy(call, prompt, max_new_tokens=LENGTH - len(PROMPT), eos_token_ids=[END]).tolist()
    assert json.loads(done.stdout) == [*PROMPT, *(ours[:-1] if ours[-1] == END else ours)]
    assert len(set(ours)) > 1

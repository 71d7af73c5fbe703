"""The README's promises that a machine can hold: its code runs, its catalogue loads, links lead somewhere."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from fixtures import fleet_options
from fixtures.exported import Exported
from onnx_fleet.planning.catalogue import reader
from onnx_fleet_demo.__main__ import rest_lines

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
DOCUMENTS = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])


def code_blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, flags=re.DOTALL)


def test_the_embedding_lines_give_what_sentence_transformers_gives(minilm: Exported, tmp_path: Path) -> None:
    (tmp_path / "minilm").symlink_to(minilm.stage_dir)
    (lines,) = code_blocks("python")
    lines += "np.save('embeddings.npy', embeddings)\n"
    subprocess.run([sys.executable, "-c", lines], cwd=tmp_path, check=True)
    sentences = re.findall(r'"([^"]+\.)"', lines)
    reference = (
        "import sys, numpy; from sentence_transformers import SentenceTransformer;"
        "model = SentenceTransformer(sys.argv[1], device='cpu');"
        "numpy.save('reference.npy', model.encode(sys.argv[2:], normalize_embeddings=True))"
    )
    subprocess.run([sys.executable, "-c", reference, minilm.source_dir, *sentences], cwd=tmp_path, check=True)

    ours, theirs = np.load(tmp_path / "embeddings.npy"), np.load(tmp_path / "reference.npy")
    assert ours.shape == theirs.shape == (3, 384)
    cosines = (ours * theirs).sum(axis=1)
    assert cosines.min() > 0.99999
    assert ours[0] @ ours[1] > ours[0] @ ours[2]


def test_the_catalogue_is_one_that_loads() -> None:
    (text,) = code_blocks("yaml")
    made = reader.parse(text, source="README.md")

    assert [entry.repo_id for entry in made.entries] == [
        "BAAI/bge-small-en-v1.5",
        "distilbert/distilbert-base-uncased-finetuned-sst-2-english",
    ]
    assert len(made.discover) == 1


def test_the_figures_are_those_of_the_benchmarks() -> None:
    page = (ROOT / "docs/benchmarks.md").read_text()
    figures = page.partition("## Export: the figures")[2].partition("## ")[0]
    rows = {tuple(cells[:2]): cells[2:] for cells in map(cells_of, figures.splitlines()) if len(cells) > 2}
    (bert,) = {checkpoint for checkpoint, _ in rows if checkpoint.startswith("BERT-base (")}
    first, repeated, validated, peer = (
        rows[bert, process]
        for process in (
            "onnx-fleet export, first", "onnx-fleet export, repeated", "onnx-fleet validate", "optimum-cli export onnx",
        )
    )  # fmt: skip
    peer_gb = float(peer[2].replace(",", "")) / 1000
    readme = " ".join(README.split())
    assert f"**{repeated[0]} s and {repeated[2]} MB**" in readme
    assert f"`optimum-cli` takes {peer[0]} s and {peer_gb:.1f} GB" in readme
    assert f"The first export takes {first[0]} s." in readme
    assert f"validated, which takes {float(validated[0]):.0f} s" in readme
    (llama,) = {checkpoint for checkpoint, _ in rows if checkpoint.startswith("Llama of 30 layers (")}
    deployment = (ROOT / "docs/deployment.md").read_text()
    for said, process in (
        ("the first of its architecture", "onnx-fleet export, first"),
        ("another fine-tune", "onnx-fleet export, repeated"),
    ):
        assert f"| export, {said} | {rows[bert, process][0]} s | {rows[llama, process][0]} s |" in deployment
    proofs = [f"{float(rows[model, 'onnx-fleet validate'][0]):.0f} s" for model in (bert, llama)]
    assert f"| validate | {' | '.join(proofs)} |" in deployment
    (fleet,) = {cells_of(line)[1] for line in page.splitlines() if line.startswith("| onnx-fleet run, 50 models")}
    (loop,) = {cells_of(line)[1] for line in page.splitlines() if line.startswith("| optimum-cli in a loop")}
    assert f"take {float(fleet):.1f} s each" in readme
    assert f"`optimum-cli` exports one in {float(loop):.1f} s" in readme


def cells_of(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_the_rest_lines_are_those_that_make_up_prints() -> None:
    """tests/demo/test_demo.py runs what it prints, with Airflow there and without."""
    assert rest_lines(airflow="http://127.0.0.1:8080", user="admin", password="…") + "\n" in code_blocks("sh")


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere(document: Path) -> None:
    targets = [target for target in re.findall(r"\]\(([^)\s]+)\)", document.read_text()) if "://" not in target]
    assert [target for target in targets if not leads_somewhere(target, document=document)] == []


def leads_somewhere(target: str, *, document: Path) -> bool:
    """Say whether a link's file is there and has the heading that the link names."""
    path, _, anchor = target.partition("#")
    page = (document.parent / path).resolve() if path else document
    return page.exists() and (not anchor or anchor in anchors(page))


def anchors(page: Path) -> set[str]:
    """Return what GitHub calls the headings of a page: small letters, no punctuation, hyphens for spaces."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_every_option_of_the_airflow_section_is_in_the_operations_page() -> None:
    page = (ROOT / "docs/operations.md").read_text()
    table = page.split("| option | default | meaning |")[1].split("\n\n")[0]
    documented = {name for row in table.splitlines()[2:] for name in re.findall(r"`(\w+)`", row.split("|")[1])}

    assert documented == fleet_options.names()

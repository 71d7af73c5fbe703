"""Survey the zoo and write docs/architectures.md: ``python -m zoo [FAMILY or ARCHITECTURE …] [--missing] [--jobs N]``.

With names, or for what is missing, only those rows are surveyed; the others keep the lines that they have.
"""

from __future__ import annotations

import argparse
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context

from zoo import ARCHITECTURES
from zoo.page import PAGE, line, lines, render, status
from zoo.survey import be_quiet, survey_aside


def main() -> int:
    """Say how each row ended as it ends; write the page after every one."""
    arguments = argparse.ArgumentParser(prog="python -m zoo", description=__doc__)
    arguments.add_argument("names", nargs="*")
    arguments.add_argument("--jobs", type=int, default=1)
    arguments.add_argument("--missing", action="store_true", help="only rows that the page lacks")
    given = arguments.parse_args()
    chosen = [row for row in ARCHITECTURES if not given.names or {row.family, row.name} & set(given.names)]
    if given.missing:
        chosen = [row for row in chosen if row.name not in lines()]
    with ProcessPoolExecutor(given.jobs, mp_context=get_context("spawn"), initializer=be_quiet) as pool:
        for done in as_completed([pool.submit(survey_aside, row) for row in chosen]):
            verdict = done.result()
            print(f"{verdict.duration_s:5.1f} s  {line(verdict)}", flush=True)
            _write({**lines(), verdict.architecture: line(verdict)})
    return 0


def _write(kept: dict[str, str]) -> None:
    """Other surveys may be writing too: the page is read again for each row."""
    import transformers

    passed = [row.name for row in ARCHITECTURES if row.name in kept and status(kept[row.name]) == "passed"]
    types = {getattr(transformers, name).config_class.model_type for name in passed}
    text = render(ARCHITECTURES, kept, transformers=transformers.__version__, types=len(types))
    PAGE.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    raise SystemExit(main())

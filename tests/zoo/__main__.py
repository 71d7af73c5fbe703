"""Survey the zoo and write docs/architectures.md: ``python -m zoo [NAME …] [--missing] [--reach] [--jobs N]``.

A name is a family, a task, a model type or an architecture. With names, for what is missing, or for model types that
are not right yet, only those rows are surveyed; the others keep the lines that they have.
"""

from __future__ import annotations

import argparse
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import replace

from zoo.architecture import Architecture
from zoo.page import line, lines, of_types, rows, write
from zoo.survey import LIMITS, Verdict, survey_aside
from zoo.tiny import every_row


def main() -> int:
    """Say how each row ended as it ends; write the page after every one."""
    arguments = argparse.ArgumentParser(prog="python -m zoo", description=__doc__)
    arguments.add_argument("names", nargs="*")
    arguments.add_argument("--jobs", type=int, default=1)
    arguments.add_argument("--missing", action="store_true", help="only rows that the page lacks")
    arguments.add_argument("--reach", action="store_true", help="only rows of model types of which none is right yet")
    arguments.add_argument("--seconds", type=float, default=LIMITS.timeout_s, help="what one row may take")
    given = arguments.parse_args()
    names = set(given.names)
    chosen = [row for row in every_row() if not names or names & {row.family, row.task, row.model_type, row.name}]
    if given.missing:
        chosen = [row for row in chosen if row.name not in lines()]

    def survey(row: Architecture) -> Verdict | None:
        if given.reach and of_types(rows()).get(row.model_type) == "right":
            return None
        return survey_aside(row, limits=replace(LIMITS, timeout_s=given.seconds))

    with ThreadPoolExecutor(given.jobs) as pool:
        for done in as_completed([pool.submit(survey, row) for row in chosen]):
            if verdict := done.result():
                print(f"{verdict.duration_s:5.1f} s  {line(verdict)}", flush=True)
                write({**lines(), verdict.architecture: line(verdict)})  # another survey may have written meanwhile
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

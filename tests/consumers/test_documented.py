"""The page and the table agree: every block of code is run, and every row has its lines."""

from __future__ import annotations

from consumers import documented
from consumers.cases import CASES


def test_every_block_of_the_page_is_run_by_some_row() -> None:
    run = {(consumer, block) for case in CASES for consumer, block in case.blocks.items()}
    shown = {key for key, block in documented.blocks().items() if block.gives}

    assert shown - run == set()


def test_every_row_has_its_lines_on_the_page() -> None:
    run = {(consumer, block) for case in CASES for consumer, block in case.blocks.items()}

    assert run - set(documented.blocks()) == set()


def test_no_code_of_the_page_is_without_a_name() -> None:
    assert documented.code_fences() == documented.named_fences() > 0

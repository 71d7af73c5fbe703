"""Write the tables of docs/validation.md: ``python -m mutations``, from the folder of the tests."""

from __future__ import annotations

from mutations.page import PAGE, render

PAGE.write_text(render(PAGE.read_text(encoding="utf-8")), encoding="utf-8")

"""Write the table of ComfyUI's templates into docs/compatibility.md, from what the last runs of the tests recorded.

Run: make test ARGS=tests/templates, for each version of ComfyUI, then .venv/bin/python -m tools.templates_table
"""

from __future__ import annotations

import sys
from pathlib import Path

from harness.templates.results import RESULTS, read, table

PAGE = Path(__file__).resolve().parent.parent / "docs" / "compatibility.md"
START, END = "<!-- templates -->", "<!-- end of templates -->"


def main() -> None:
    """Replace the table in the page."""
    if not RESULTS.is_file():
        sys.exit(f"no results in {RESULTS}: run the tests in tests/templates first")
    PAGE.write_text(with_table(PAGE.read_text(encoding="utf-8"), table(read())), encoding="utf-8")


def with_table(page: str, lines: str) -> str:
    """Return the page with these lines between the two markers.

    Raises:
        ValueError: The page does not have both markers once.
    """
    if page.count(START) != 1 or page.count(END) != 1:
        raise ValueError(f"the page must have {START} and {END} once each")
    before, rest = page.split(START)
    return f"{before}{START}\n{lines}\n{END}{rest.split(END)[1]}"


if __name__ == "__main__":
    main()

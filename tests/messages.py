"""The messages in the code, read from the sources, and the quotations of them in a page."""

import ast
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
QUOTE = re.compile(r'^- [^"\n]*"([^"]+)"', re.MULTILINE)


def string_literals():
    """Yield every string in the shipped code except docstrings, with … in place of formatted values."""
    for folder in ("nodes", "samplers", "pyramid"):
        for path in sorted(path for path in (ROOT / folder).rglob("*.py") if "training" not in path.parts):
            tree = ast.parse(path.read_text(encoding="utf-8"))
            docstrings = {node.value for node in ast.walk(tree) if isinstance(node, ast.Expr)}
            for node in ast.walk(tree):
                if isinstance(node, ast.JoinedStr):
                    yield "".join(part.value if isinstance(part, ast.Constant) else "…" for part in node.values)
                elif isinstance(node, ast.Constant) and isinstance(node.value, str) and node not in docstrings:
                    yield node.value


MESSAGES = "\n".join(string_literals())


def quotes(text):
    """Return the first quotation of every list item; items may span several lines."""
    return QUOTE.findall(re.sub(r"\n  (?=\S)", " ", text))

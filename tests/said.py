"""What the nodes can say, read off the code, and what a page quotes of it."""

import ast
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
QUOTE = re.compile(r'^- [^"\n]*"([^"]+)"', re.MULTILINE)


def said_sentences():
    """Every text in the code that may become an error, with … where a value stands."""
    for folder in ("nodes", "samplers", "pyramid"):
        for path in sorted(path for path in (ROOT / folder).rglob("*.py") if "training" not in path.parts):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.JoinedStr):
                    yield "".join(part.value if isinstance(part, ast.Constant) else "…" for part in node.values)
                elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                    yield node.value


SAID = "\n".join(said_sentences())


def quotes(text):
    """The first quotation of every item of a list; items may run over several lines."""
    return QUOTE.findall(re.sub(r"\n  (?=\S)", " ", text))

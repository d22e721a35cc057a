"""Results of the campaign, kept after every case, so that a campaign can run in portions."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from pyramid.training.engine.atomic import write_text

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / ".state" / "faults"


def fingerprint(tested: Iterable[str]) -> str:
    """Return a digest of the code in folders and files of the project."""
    digest = hashlib.sha256()
    for folder in tested:
        path = ROOT / folder
        for file in sorted(path.rglob("*.py")) if path.is_dir() else [path]:
            digest.update(file.read_bytes())
    return digest.hexdigest()[:16]


@dataclass(frozen=True)
class Result:
    """The outcome of one case.

    Attributes:
        case: Its name.
        reason: Why it failed; "" if it held.
    """

    case: str
    reason: str


class Results:
    """The results of one part and seed, for the code as it is now; those of other code are dropped."""

    def __init__(self, part: str, seed: int, tested: Iterable[str]) -> None:
        """Load what is stored for the code in the folders ``tested``."""
        self.path, self.code = FOLDER / f"{part}-{seed}.json", fingerprint(tested)
        stored = json.loads(self.path.read_text(encoding="utf-8")) if self.path.exists() else {}
        self.reasons: dict[str, str] = stored["reasons"] if stored.get("code") == self.code else {}

    def add(self, result: Result) -> None:
        """Store a result."""
        self.reasons[result.case] = result.reason
        write_text(self.path, json.dumps({"code": self.code, "reasons": self.reasons}, indent=1))

    @property
    def failed(self) -> dict[str, str]:
        """Return the reasons of the cases that failed."""
        return {case: reason for case, reason in self.reasons.items() if reason}

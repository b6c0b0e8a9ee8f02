"""One thing that was checked, and what came of it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Check:
    """``passed`` is None where there was nothing to decide by (``detail`` says what lacks)."""

    name: str
    passed: bool | None
    detail: str

    def __str__(self) -> str:
        word = {True: "ok", False: "FAILED", None: "note"}[self.passed]
        return f"{word:<7}{self.name}: {self.detail}"


def all_passed(checks: tuple[Check, ...]) -> bool:
    """Whether something was checked and nothing failed; never for no check at all."""
    return any(check.passed for check in checks) and all(c.passed is not False for c in checks)

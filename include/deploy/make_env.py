"""Makes .env for docker-compose.yaml from .env.example, with fresh secrets.

Run it again after an upgrade: it adds lines that are new and leaves the others alone.
Standard library only, so that it runs before anything is installed.
"""

from __future__ import annotations

import argparse
import base64
import secrets
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
MAKERS = {
    "generate:token": lambda: secrets.token_urlsafe(32),  # URL-safe: some go into DSNs
    "generate:fernet": lambda: base64.urlsafe_b64encode(secrets.token_bytes(32)).decode(),
}


def main() -> int:
    """Write the file; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--example", type=Path, default=ROOT / ".env.example")
    parser.add_argument("--env", type=Path, default=ROOT / ".env")
    args = parser.parse_args()
    added = update(args.example, args.env)
    sys.stdout.write(f"{args.env}: {', '.join(added) if added else 'nothing to add'}\n")
    return 0


def update(example: Path, env: Path) -> list[str]:
    """Append what ``env`` lacks; returns the names. The file is readable by its owner only."""
    present = env.read_text() if env.exists() else ""
    known = {name for name, _ in assignments(present)}
    missing = [(name, value) for name, value in assignments(example.read_text())]
    missing = [(name, value) for name, value in missing if name not in known]
    if not missing:
        return []
    lines = [f"{name}={MAKERS[value]() if value in MAKERS else value}\n" for name, value in missing]
    env.touch(mode=0o600)
    env.chmod(0o600)
    separator = "" if not present or present.endswith("\n") else "\n"
    with env.open("a") as out:
        out.write(separator + "".join(lines))
    return [name for name, _ in missing]


def assignments(text: str) -> list[tuple[str, str]]:
    """(name, value) of each ``NAME=value`` line."""
    lines = (line.strip() for line in text.splitlines())
    pairs = (line.partition("=") for line in lines if "=" in line and not line.startswith("#"))
    return [(name, value) for name, _, value in pairs]


if __name__ == "__main__":
    sys.exit(main())

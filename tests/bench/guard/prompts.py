"""guard.prompt_recall and guard.prompt_precision: the prompt filter on the held-out prompts.

Standard error has the whole table: rules alone and with meaning, both halves, each form; and
what meaning refuses among the texts of the demo's gallery.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
sys.path[:0] = [str(ROOT / "include"), str(ROOT / "tests")]

from labelled_prompts import Rate, labelled, precision_and_recall  # noqa: E402
from lora_factory.contracts.settings import Settings  # noqa: E402
from lora_factory.guard.content import check_prompt  # noqa: E402
from lora_factory.guard.meaning import prompt_filter  # noqa: E402
from lora_factory.models.profiles import PACKAGE, load_profile  # noqa: E402

FORMS = ("plain", "obfuscated", "described", "everyday", "hard")


def texts(value: object) -> Iterator[str]:
    """Every text inside a JSON value."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for inner in value.values():
            yield from texts(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from texts(inner)


def main() -> None:
    judge = prompt_filter(load_profile("embedded", Settings()))
    figures = {}
    for held_out in (False, True):
        prompts = labelled(held_out=held_out)
        said = judge.check([one.prompt for one in prompts])
        by_rules = {one.prompt for one in prompts if not check_prompt(one.prompt).allowed}
        by_both = {
            p.prompt for p, verdict in zip(prompts, said, strict=True) if not verdict.allowed
        }
        half = "held out" if held_out else "development"
        for name, refused in (("rules", by_rules), ("rules + meaning", by_both)):
            precision, recall = precision_and_recall(prompts, refused.__contains__)
            figures[held_out, name] = precision, recall
            sys.stderr.write(f"{half}, {name}: precision {precision}, recall {recall}\n")
            for form in FORMS:
                some = [one.prompt for one in prompts if one.form == form]
                share = Rate(sum(prompt in refused for prompt in some), len(some))
                sys.stderr.write(f"    of {form}: refused {share}\n")
    gallery = [
        text[:300]
        for name in ("icons", "pages")
        for text in texts(json.loads((PACKAGE / f"demo/gallery/{name}.json").read_text("utf-8")))
    ]
    refused = sum(not verdict.allowed for verdict in judge.check(gallery))
    sys.stderr.write(f"texts of the gallery: refused {Rate(refused, len(gallery))}\n")
    for place, key in enumerate(("precision", "recall")):
        both, rules = figures[True, "rules + meaning"][place], figures[True, "rules"][place]
        figure = {
            "value": round(both.value, 3),
            "unit": "share",
            "goal": 0.8,
            "better": "higher",
            "against": f"rules alone: {rules}; 95%: {both}",
            "command": "make bench ONLY=guard",
        }
        sys.stdout.write(json.dumps({f"guard.prompt_{key}": figure}) + "\n")


if __name__ == "__main__":
    main()

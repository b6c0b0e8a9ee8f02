"""Zero-shot themes by words on the demo's captions; whose rooms say what is right.

Examples of the taxonomy that are captions there are taken out, so that nothing is merely looked
up. Keys: ``label.themes_named`` (share of captions with a theme), ``label.themes_right`` (share of
those whose narrowest theme suits the room).
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
sys.path[:0] = [str(ROOT / "include")]

from lora_factory.contracts.settings import Settings  # noqa: E402
from lora_factory.label import zero_shot  # noqa: E402
from lora_factory.label.labels import HEADING  # noqa: E402
from lora_factory.label.taxonomy import Taxonomy, load_taxonomy  # noqa: E402
from lora_factory.models.loaders import limit_threads, text_embedder  # noqa: E402
from lora_factory.models.profiles import PACKAGE, load_profile  # noqa: E402

ROOMS = {
    "home-and-farm-animals": "pets; farm animals; small mammals; poultry",
    "wild-animals": "wild animals",
    "birds-and-insects": "birds; insects; farm animals",
    "sea-creatures-and-reptiles": "sea animals; reptiles; amphibians; dinosaurs",
    "fruit": "fruit; vegetables",
    "vegetables": "vegetables; mushrooms; crops and grasses; fruit",
    "meals-and-snacks": "meals; baked goods; dairy; sweets",
    "sweets-and-drinks": "sweets; drinks; meals; baked goods",
    "plants-and-trees": "plants; forests",
    "weather-and-sky": "weather; sky; space; seasons; volcanoes; fire",
    "road-and-rail": "road vehicles; trains; construction machines",
    "air-and-water-travel": "aircraft; ships; spacecraft",
    "buildings-and-places": "buildings",
    "tools": "tools; weapons; stationery; kitchen utensils; cleaning; painting tools; science and "
    "medicine",
    "household-objects": "objects; bedrooms and living rooms",
    "music-and-games": "music; games; ball games; toys; musical devices; awards",
}
"""Room → themes that suit its icons, and all below these."""


def main() -> int:
    limit_threads(Settings(threads=1))
    embed = text_embedder(load_profile("embedded", Settings())).encode
    found = json.loads((PACKAGE / "demo" / "gallery" / "icons.json").read_text())
    icons = [icon for icon in found["icons"] if icon["category"] in ROOMS]
    captions = [icon["caption"].lower() for icon in icons]
    taxonomy = unseen(load_taxonomy(), captions)
    rooms = embed([found["categories"][icon["category"]]["title"] for icon in icons])
    rows = embed(captions) + HEADING * rooms
    rows /= (rows**2).sum(axis=1, keepdims=True) ** 0.5
    labels = zero_shot.prototypes(taxonomy.themes, embed)
    named = zero_shot.name_themes(zero_shot.softmax(zero_shot.evidence(rows, labels)), taxonomy)
    pairs = [(each, icon) for each, icon in zip(named, icons, strict=True) if each.labels]
    right = [suits(each.labels, ROOMS[icon["category"]]) for each, icon in pairs]
    for key, value, goal, against in (
        ("label.themes_named", len(pairs) / len(icons), 0.9, "all captions"),
        ("label.themes_right", sum(right) / len(right), 0.9, "captions with a theme"),
    ):
        figure = {"value": value, "unit": "share", "goal": goal, "better": "higher"}
        figure |= {"against": against, "command": "tests/bench/label/themes.py"}
        sys.stdout.write(json.dumps({key: figure}) + "\n")
    return 0


def suits(labels: tuple[str, ...], room: str) -> bool:
    return bool({*labels} & {*room.split("; ")})


def unseen(taxonomy: Taxonomy, captions: list[str]) -> Taxonomy:
    """The taxonomy without examples that are captions; a theme keeps its name."""
    values = taxonomy.model_dump()
    for name, theme in values["themes"].items():
        left = tuple(word for word in theme["examples"] if word not in captions)
        theme["examples"] = left or (name,)
    return Taxonomy.model_validate(values)


if __name__ == "__main__":
    sys.exit(main())

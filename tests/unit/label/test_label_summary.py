"""Counts of a dataset: nothing lost, nothing counted twice, copies found again."""

from __future__ import annotations

import pytest

from lora_factory.contracts.records import AuditRecord, DatasetRecord, Labels
from lora_factory.label.page import choose_shown, pie
from lora_factory.label.pictures import may_be_shown, wanted
from lora_factory.label.summary import Summary, summarise
from lora_factory.label.taxonomy import load_taxonomy


def record(number: int, *theme: str, **changes: object) -> DatasetRecord:
    values: dict[str, object] = {
        "file_name": f"{number:064x}.png",
        "text": "a dog, nefat style",
        "subject": "a dog",
        "labels": Labels(theme=theme),
        "licence": "MIT",
        "source": "http://one.test/a.png",
        "sha256": f"{number:064x}",
    }
    return DatasetRecord.model_validate(values | changes)


def dropped(item: str, reason: str, detail: str = "", what: str = "image") -> AuditRecord:
    return AuditRecord.model_validate({
        "item": item,
        "what": what,
        "stage": "sanitize",
        "verdict": "dropped",
        "reason": reason,
        "detail": detail,
    })


def summary(
    records: list[DatasetRecord], audit: list[AuditRecord], groups: list[int] | None = None
) -> Summary:
    groups = groups or list(range(len(records)))
    return summarise(records, audit, groups, load_taxonomy(), 2)


def test_licences_hosts_lengths_and_themes_add_up() -> None:
    records = [
        record(0, "pets", "animals"),
        record(1, "birds", "animals", licence="CC0-1.0", source="http://two.test/x"),
        record(2, "animals", text="one two three four five"),
        record(3, source="x.png"),
        record(4, "fruit", "food", source="http://[bad"),
    ]
    found = summary(records, [])
    assert found.licences == {"MIT": 4, "CC0-1.0": 1}
    assert found.hosts == {
        "one.test": 2,
        "two.test": 1,
        "no host (a folder)": 1,
        "unreadable URL": 1,
    }
    assert found.lengths == ((4, 4), (5, 1))
    assert [(n.name, n.own, n.all) for n in found.tree] == [("animals", 1, 3), ("food", 0, 1)]
    assert {n.name for n in found.tree[0].below} == {"pets", "birds"}
    assert found.unlabelled == 1
    assert sum(node.all for node in found.tree) + found.unlabelled == len(records)


def test_drops_are_counted_by_stage_and_reason() -> None:
    audit = [
        dropped("http://one.test/", "off_topic", what="page"),
        *(dropped(f"{n:064x}", "blurred") for n in range(5)),
        dropped("a", "too_dark"),
        AuditRecord(item="b", what="image", stage="sanitize", verdict="kept"),
    ]
    found = summary([record(0)], audit)
    assert [(d.reason, d.count, len(d.examples)) for d in found.drops] == [
        ("blurred", 5, 2),
        ("too_dark", 1, 1),
        ("off_topic", 1, 1),
    ]
    assert (found.dropped("image"), found.dropped("page")) == (6, 1)


def test_copies_are_with_what_they_copy() -> None:
    records = [record(n) for n in range(4)]
    audit = [
        dropped("f" * 64, "near_duplicate", f"of {0:064x}"),
        dropped("e" * 64, "semantic_duplicate", f"of {0:064x}, cosine 0.99"),
        dropped("d" * 64, "near_duplicate", f"of {9:064x}"),
    ]
    found = summary(records, audit, [0, 1, 1, 2])
    assert [(c.size, len(c.kept), len(c.dropped)) for c in found.clusters] == [(3, 1, 2), (2, 2, 0)]


@pytest.mark.parametrize(
    "reason", ["unsafe_image", "unsafe_text", "unsafe_whatever", "taken_down", "protected_work"]
)
def test_what_is_unsafe_or_taken_down_is_never_wanted(reason: str) -> None:
    assert not may_be_shown(reason)
    item = "a" * 64
    audit = [
        dropped(item, reason),
        dropped(item, "near_duplicate", f"of {0:064x}"),
        dropped("b" * 64, "blurred"),
        dropped("http://one.test/x", "blurred"),
    ]
    found = summary([record(0)], audit)
    assert wanted(found.drops, found.clusters, {item}) == ["b" * 64]


def test_shown_pictures_are_of_all_top_themes() -> None:
    records = [record(n, "pets") for n in range(20)] + [record(30, "birds"), record(31)]
    shown = choose_shown(records, 4)
    assert [r.labels.theme for r in shown] == [("pets",), ("birds",), (), ("pets",)]


def test_the_pie_is_whole() -> None:
    slices = pie({f"licence {n}": 20 - n for n in range(12)})
    assert len(slices) == 7
    assert slices[-1].name == "others"
    assert sum(s.share for s in slices) == pytest.approx(1)
    assert sum(s.count for s in slices) == sum(20 - n for n in range(12))
    assert all(s.path.startswith("M0 0L") and s.path.endswith("Z") for s in slices)
    (whole,) = pie({"MIT": 3})
    assert (whole.path, whole.share) == ("", 1)

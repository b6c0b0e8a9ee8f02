from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lora_factory.contracts.records import AuditRecord, RawRecord, read_jsonl
from lora_factory.crawl.ledger import (
    Entry,
    KeptImage,
    Ledger,
    PageScores,
    SeedAnswer,
    dropped,
    dump_chunk,
    kept,
    read_chunk,
)
from lora_factory.errors import DataError


def image(url: str, sha: str = "a") -> KeptImage:
    record = RawRecord(
        sha256=sha * 64, file_name=f"images/{sha * 64}.png", url=url, licence="MIT",
        width=20, height=20,
    )  # fmt: skip
    return KeptImage(record=record, size=10)


ENTRIES: list[Entry] = [
    image("http://a/1.png", "a"),
    image("http://a/2.png", "b"),
    kept("page", "http://a/", "topic score 0.50"),
    dropped("page", "http://a/x", "irrelevant_link", "link score 0.05, not fetched"),
    dropped("page", "http://a/x", "not_found", "HTTP 404"),
    dropped("page", "http://a/y", "irrelevant_link", "link score 0.01, not fetched"),
    PageScores(url="http://a/", topics={"t": 0.5, "u": 0.1}),
    PageScores(url="http://a/z", topics={"t": 0.7, "u": 0.3}),
    SeedAnswer(url="http://a/"),
    SeedAnswer(url="http://b/", cause="timeout"),
]


def settled(path: Path, entries: list[Entry]) -> tuple[bytes, bytes, str]:
    """What a ledger writes and reports."""
    ledger = Ledger(path / "ledger.sqlite")
    for entry in entries:
        ledger.add(entry)
    ledger.settle()
    ledger.write(path)
    report = ledger.report("web").model_dump_json()
    ledger.close()
    return (path / "records.jsonl").read_bytes(), (path / "audit.jsonl").read_bytes(), report


@given(order=st.permutations(ENTRIES), twice=st.lists(st.sampled_from(ENTRIES), max_size=5))
def test_neither_order_nor_repetition_matters(
    tmp_path_factory: pytest.TempPathFactory, order: list[Entry], twice: list[Entry]
) -> None:
    path = tmp_path_factory.mktemp("ledger")
    assert settled(path, [*order, *twice]) == settled(path, ENTRIES)


def test_the_strongest_verdict_on_a_url_stands(tmp_path: Path) -> None:
    settled(tmp_path, ENTRIES)
    audit = read_jsonl(tmp_path / "audit.jsonl", AuditRecord)
    assert [(entry.item, entry.reason) for entry in audit if entry.what == "page"] == [
        ("http://a/", ""), ("http://a/x", "not_found"), ("http://a/y", "irrelevant_link")
    ]  # fmt: skip


def test_an_image_that_any_page_reserves_is_not_kept(tmp_path: Path) -> None:
    settled(tmp_path, [*ENTRIES, dropped("image", "http://a/1.png", "opt_out", "on http://b/")])
    records = list(read_jsonl(tmp_path / "records.jsonl", RawRecord))
    assert [record.url for record in records] == ["http://a/2.png"]
    audit = {entry.item: entry for entry in read_jsonl(tmp_path / "audit.jsonl", AuditRecord)}
    assert audit["http://a/1.png"].reason == "opt_out"


def test_bytes_stay_once(tmp_path: Path) -> None:
    settled(tmp_path, [*ENTRIES, image("http://a/3.png", "a"), image("http://a/0.png", "b")])
    records = list(read_jsonl(tmp_path / "records.jsonl", RawRecord))
    assert [record.url for record in records] == ["http://a/0.png", "http://a/1.png"]
    audit = {entry.item: entry for entry in read_jsonl(tmp_path / "audit.jsonl", AuditRecord)}
    assert audit["http://a/3.png"].detail == "same bytes as http://a/1.png"
    assert audit["http://a/2.png"].reason == "exact_duplicate"


def test_report(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "l")
    for entry in ENTRIES:
        ledger.add(entry)
    report = ledger.report("web")
    assert (report.pages_seen, report.pages_kept, report.bytes_kept) == (3, 1, 20)
    assert report.topics == {"t": 0.6, "u": 0.2}
    assert report.licences == {"MIT": 2}
    assert list(ledger.files()) == [f"images/{'a' * 64}.png", f"images/{'b' * 64}.png"]
    assert ledger.unreached() == {}


def test_seeds_that_all_failed_are_named(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "l")
    ledger.add(SeedAnswer(url="http://b/", cause="timeout"))
    assert ledger.unreached() == {"http://b/": "timeout"}
    ledger.add(SeedAnswer(url="http://b/"))  # another try
    ledger.add(SeedAnswer(url="http://b/", cause="timeout"))
    assert ledger.unreached() == {}


def test_no_image_is_an_error_with_the_drop_table(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "l")
    ledger.add(dropped("image", "http://a/1.png", "too_small"))
    with pytest.raises(DataError, match=r"images 0 of 1 kept \(too_small 1\)"):
        ledger.report("web")


def test_hostile_text_survives_chunks_and_ledger(tmp_path: Path) -> None:
    entry = dropped("page", "http://a/\ud800\x00\n\u2028", "not_found", "\udfff")
    (back,) = read_chunk(dump_chunk([entry]))
    assert back == entry
    assert list(read_chunk(dump_chunk(ENTRIES))) == ENTRIES
    settled(tmp_path, [*ENTRIES, entry])
    audit = read_jsonl(tmp_path / "audit.jsonl", AuditRecord)
    assert entry.item in {found.item for found in audit}

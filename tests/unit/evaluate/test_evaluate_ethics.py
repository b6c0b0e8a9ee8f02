"""The ethics section of the evaluation's page."""

from __future__ import annotations

from pathlib import Path

import pytest
from evaluate_reports import HOSTILE, full_report, row
from lxml import html as parser

from lora_factory.contracts.ethics import EthicsReport
from lora_factory.evaluate.audit import write_ethics
from lora_factory.evaluate.html import ReportPictures, render_html

SHARE = {"count": 7, "n": 8, "value": 0.875, "low": 0.53, "high": 0.98}
NONE = {"count": 0, "n": 0, "value": 0.5, "low": 0.0, "high": 1.0}
ESTIMATE = {"value": 0.375, "low": 0.11, "high": 0.48, "n": 8}
SIDE = {
    "pictures": 10,
    "undetermined": 2,
    "share": SHARE,
    "prompts": [{"prompt": "a nurse", "share": SHARE}, {"prompt": "a doctor", "share": NONE}],
    "parity": ESTIMATE,
    "association": ESTIMATE,
    "association_p": 0.012,
}
CHECK = {"side": "base", "accuracy": SHARE, "floor": 0.6, "passed": False}


def ethics(text: str = "said so", worse_low: float = 0.1) -> EthicsReport:
    measured = {
        "attribute": "skin_tone",
        "groups": ["lighter", "darker"],
        "state": "measured",
        "note": text,
        "checks": [CHECK],
        "sides": [{"side": "base", **SIDE}, {"side": "lora", **SIDE}],
        "shift": ESTIMATE,
        "worse": {**ESTIMATE, "low": worse_low},
        "mitigation": {
            "share_before": SHARE,
            "share_after": NONE,
            "change": None,
            "alignment": {"value": -0.1, "low": -0.3, "high": 0.1, "n": 10},
            "margin": 0.2,
            "non_inferior": False,
            "recommended": False,
            "note": text,
        },
    }
    silent = {
        "attribute": "age",
        "groups": ["young", "old"],
        "state": "abstains",
        "note": "abstains: the scorer can't tell",
        "checks": [CHECK],
    }
    return EthicsReport.model_validate({
        "stage": "evaluation",
        "bias_audit": {
            "state": "measured",
            "note": text,
            "pictures": 44,
            "prompts": [text],
            "attributes": [measured, silent],
            "limits": [text],
        },
        "transparency_score": 0.5,
        "transparency": [
            {"id": "signed", "question": text, "state": "at_release", "detail": text},
            {"id": "base_named", "question": "Named?", "state": "fulfilled", "evidence": text},
        ],
        "marking": [{"duty": text, "state": "at_release", "detail": text}],
        "training_data": {
            "images": 4,
            "train": 3,
            "validation": 1,
            "licences": {text: 4},
            "domains": {text: 4},
            "topics": [text],
            "dropped": {text: 1},
            "evidence": [text],
        },
        "notes": [text],
    })


def page(report: EthicsReport) -> str:
    return render_html(full_report(ethics=report), ReportPictures([row()]))


def words(report: EthicsReport) -> str:
    return " ".join(parser.document_fromstring(page(report)).text_content().split())


def test_the_section_says_what_was_measured_and_what_not() -> None:
    text = words(ethics())
    assert "Transparency score 0.50: 1 of 2 items fulfilled; 1 can only be fulfilled" in text
    assert "Age: young or old abstains" in text
    assert "7 of 8" in text
    assert "the LoRA made it worse" in text
    assert "Mitigation by text projection: not recommended" in text
    assert "never applied by itself" in text
    assert "at release" in text


def test_it_does_not_accuse_what_the_interval_does_not_show() -> None:
    text = words(ethics(worse_low=-0.1))
    assert "can't tell whether the LoRA made it worse" in text
    assert "the LoRA made it worse;" not in text


def test_off_is_told() -> None:
    report = ethics()
    off = report.bias_audit.model_copy(
        update={"state": "not_audited", "note": "not audited: off", "attributes": (), "pictures": 0}
    )
    text = words(report.model_copy(update={"bias_audit": off}))
    assert "Not audited: off." in text
    assert "fair" not in text.lower().split()


def test_hostile_text_is_text() -> None:
    # Contracts refuse nothing of it: it comes from pages that were crawled.
    tree = parser.document_fromstring(page(ethics(HOSTILE.replace("\ud800", ""))))
    assert not tree.xpath("//script | //a | //iframe | //object | //link | //form | //base")
    assert not [name for element in tree.iter() for name in element.attrib if name[:2] == "on"]
    assert not tree.xpath("//@style")
    assert "49" not in "".join(tree.xpath("//section[last()]//dd/text()"))  # {{ 7*7 }}


def test_written_as_it_is_read(tmp_path: Path) -> None:
    report = ethics()
    write_ethics(tmp_path, report)
    assert EthicsReport.model_validate_json((tmp_path / "ethics.json").read_bytes()) == report


@pytest.mark.parametrize("state", ["fair", "compliant", "passed"])
def test_no_state_praises(state: str) -> None:
    data = ethics().model_dump()
    data["bias_audit"]["state"] = state
    with pytest.raises(ValueError, match=r"bias_audit\.state"):
        EthicsReport.model_validate(data)

"""What a release carries, and that nobody can change it unseen."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from made_store import LICENCES, Line, make_line

from lora_factory.__main__ import main
from lora_factory.contracts.settings import Settings
from lora_factory.errors import ArtifactError
from lora_factory.guard.provenance.bom import BOM
from lora_factory.guard.provenance.keys import SigningKey, make_keys
from lora_factory.guard.provenance.lineage import DatasetManifest, Lineage
from lora_factory.guard.provenance.release import DATASET, LINEAGE, Attached, attach, sign_release
from lora_factory.guard.provenance.signing import SIGNATURE, sign_folder, verify_folder
from lora_factory.store.artifacts import MANIFEST

pytestmark = pytest.mark.integration
Change = Callable[[Path], object]


@pytest.fixture
def line(settings: Settings, tmp_path: Path) -> Line:
    return make_line(settings, tmp_path / "work")


@pytest.fixture
def key(tmp_path: Path) -> SigningKey:
    return make_keys(tmp_path / "keys")


@pytest.fixture
def release(line: Line, key: SigningKey, tmp_path: Path) -> Path:
    """A signed release folder, as deploy leaves it."""
    out = tmp_path / "release"
    out.mkdir()
    shutil.copyfile(line.lora.path / "lora.safetensors", out / "lora.safetensors")
    assert attach(out, line.model, line.lora, line.evaluation, line.store) == Attached(4, True)
    sign_release(out, key)
    return out


# -- contents


def test_every_image_is_listed_with_source_licence_and_evidence(line: Line, release: Path) -> None:
    listed = DatasetManifest.model_validate_json((release / DATASET).read_bytes())
    assert (listed.uri, listed.sha256) == (line.dataset.uri, line.dataset.sha256)
    assert listed.licences == {"CC0-1.0": 2, "MIT": 1, "own": 1}
    assert sorted(item.licence for item in listed.items) == sorted(LICENCES)
    files = {entry.path: entry.sha256 for entry in line.dataset.manifest.files}
    for item in listed.items:
        assert item.evidence == f"{item.source}#licence"
        assert files[item.file_name] == item.file_sha256


def test_the_lineage_goes_back_to_raw(line: Line, release: Path) -> None:
    lineage = Lineage.model_validate_json((release / LINEAGE).read_bytes())
    assert lineage.complete
    steps = {step.kind: step for step in lineage.steps}
    assert set(steps) == {"raw", "clean", "dataset", "lora", "evaluation"}
    assert steps["lora"].inputs == {"dataset": line.dataset.sha256}
    assert steps["raw"].sha256 == line.raw.sha256
    assert lineage.models()["base:emoji"] == "sha256:" + "b" * 64


def test_the_bill_of_materials_is_valid_cyclonedx(line: Line, release: Path) -> None:
    text = (release / BOM).read_text()
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(text) is None
    bom = json.loads(text)
    lora = bom["metadata"]["component"]
    assert lora["type"] == "machine-learning-model"
    assert lora["hashes"] == [{"alg": "SHA-256", "content": line.model.sha256}]
    card = lora["modelCard"]
    assert card["modelParameters"]["datasets"] == [{"ref": "dataset"}]
    metrics = {
        metric["type"]: metric for metric in card["quantitativeAnalysis"]["performanceMetrics"]
    }
    assert metrics["fidelity"]["confidenceInterval"] == {
        "lowerBound": "0.8000",
        "upperBound": "0.9500",
    }
    parts = {part["bom-ref"]: part for part in bom["components"]}
    assert parts["base"]["hashes"] == [{"alg": "SHA-256", "content": "b" * 64}]
    licences = [entry["license"] for entry in parts["dataset"]["licenses"]]
    assert {"id": "MIT"} in licences
    assert {"name": "own"} in licences
    needs = {entry["ref"]: set(entry.get("dependsOn", ())) for entry in bom["dependencies"]}
    assert needs["lora"] == {"base", "dataset"}
    assert {parts[ref]["name"] for ref in needs["dataset"]} == {
        "content_filter",
        "image_text_scorer",
        "topic_classifier",
    }


def test_a_schema_violation_would_be_seen(release: Path) -> None:
    bom = json.loads((release / BOM).read_text())
    bom["metadata"]["component"]["modelCard"]["invented"] = 1
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(json.dumps(bom)) is not None


def test_what_was_removed_is_named_as_missing(line: Line, tmp_path: Path) -> None:
    shutil.rmtree(Path(line.clean.path).parent)
    (tmp_path / "out").mkdir()
    got = attach(tmp_path / "out", line.model, line.lora, line.evaluation, line.store)
    assert got == Attached(4, False)
    lineage = Lineage.model_validate_json((tmp_path / "out" / LINEAGE).read_bytes())
    assert list(lineage.missing) == [line.clean.uri]
    listed = DatasetManifest.model_validate_json((tmp_path / "out" / DATASET).read_bytes())
    assert {item.evidence for item in listed.items} == {""}


def test_a_removed_dataset_leaves_no_list_and_a_valid_bill(line: Line, tmp_path: Path) -> None:
    shutil.rmtree(Path(line.dataset.path).parent)
    (tmp_path / "out").mkdir()
    got = attach(tmp_path / "out", line.model, line.lora, line.evaluation, line.store)
    assert got == Attached(None, False)
    assert not (tmp_path / "out" / DATASET).exists()
    text = (tmp_path / "out" / BOM).read_text()
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(text) is None


def test_a_damaged_dataset_stops_the_release(line: Line, tmp_path: Path) -> None:
    with (line.dataset.path / "train" / "metadata.jsonl").open("a") as stream:
        stream.write("{}\n")
    (tmp_path / "out").mkdir()
    with pytest.raises(ArtifactError, match=r"read|damaged"):
        attach(tmp_path / "out", line.model, line.lora, line.evaluation, line.store)


# -- signature


def flip(file: Path) -> None:
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(bytes(data))


def swap(folder: Path) -> None:
    other = (folder / LINEAGE).read_bytes()
    shutil.copyfile(folder / BOM, folder / LINEAGE)
    (folder / BOM).write_bytes(other)


CHANGES: dict[str, Change] = {
    "a byte of the weights": lambda folder: flip(folder / "lora.safetensors"),
    "a byte of the card": lambda folder: flip(folder / "README.md"),
    "a file more": lambda folder: (folder / "notes.txt").write_text("x"),
    "a hidden file more": lambda folder: (folder / ".gitignore").write_text("x"),
    "a file less": lambda folder: (folder / LINEAGE).unlink(),
    "two files swapped": swap,
    "a byte of the signature": lambda folder: flip(folder / SIGNATURE),
    "no signature": lambda folder: (folder / SIGNATURE).unlink(),
    "an empty signature": lambda folder: (folder / SIGNATURE).write_text("{}"),
    "no JSON": lambda folder: (folder / SIGNATURE).write_bytes(b"\xff\x00"),
    "a link": lambda folder: (folder / "link").symlink_to("/etc/hostname"),
}


def test_a_release_verifies_under_its_key(release: Path, key: SigningKey) -> None:
    found = verify_folder(release, key.public_pem.encode())
    assert found.passed, found.detail
    assert key.fingerprint[:16] in found.detail


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_every_change_shows(release: Path, key: SigningKey, change: Change) -> None:
    change(release)
    found = verify_folder(release, key.public_pem.encode())
    assert found.passed is False
    assert "\n" not in found.detail


def test_another_key_does_not_verify(release: Path, key: SigningKey, tmp_path: Path) -> None:
    other = make_keys(tmp_path / "other")
    assert verify_folder(release, other.public_pem.encode()).passed is False
    # an impostor who signs again, and claims the old key's name
    signature = sign_folder(release, other)
    text = signature.read_text().replace(other.fingerprint, key.fingerprint)
    signature.write_text(text)
    found = verify_folder(release, key.public_pem.encode())
    assert found.passed is False
    assert "another key" in found.detail


def test_unsigned_is_said(line: Line, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    sign_release(tmp_path, None)
    assert "NOT signed" in caplog.text
    assert not (tmp_path / SIGNATURE).exists()


# -- python -m lora_factory verify


@dataclass(frozen=True)
class Done:
    returncode: int
    stdout: str
    stderr: str


@pytest.fixture
def cli(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> Callable[..., Done]:
    """``python -m lora_factory`` without a process for each call."""

    def call(*argv: str | Path, **env: str) -> Done:
        caplog.clear()
        with monkeypatch.context() as patch:
            for name, value in env.items():
                patch.setenv(name, value)
            status = main([str(arg) for arg in argv])
        return Done(status, capsys.readouterr().out, caplog.text)

    return call


def test_the_commands_from_keys_to_verified_and_not(
    cli: Callable[..., Done], line: Line, settings: Settings, tmp_path: Path
) -> None:
    made = cli("keys", "make", tmp_path / "own", "--organisation", "Studio")
    assert made.returncode == 0, made.stderr
    assert "PRIVATE" not in made.stdout + made.stderr
    assert cli("keys", "make", tmp_path / "own").returncode == 1
    public = tmp_path / "own" / "signing.pub"

    good = cli("verify", line.dataset.path.parent)
    assert good.returncode == 0, good.stdout + good.stderr
    assert "dataset dataset1" in good.stdout
    assert "CC0-1.0 2, MIT 1, own 1" in good.stdout
    stored = cli("verify", line.dataset.uri, LORA_FACTORY_STORE=settings.store)
    assert stored.returncode == 0, stored.stderr

    image = next((line.dataset.path / "train").glob("*.png"))
    flip(image)
    bad = cli("verify", line.dataset.path.parent / MANIFEST)
    assert bad.returncode == 1
    assert f"train/{image.name} was changed" in bad.stdout
    stored = cli("verify", line.dataset.uri, LORA_FACTORY_STORE=settings.store)
    assert stored.returncode == 1
    assert "FAILED" in stored.stdout

    unsigned = cli("verify", line.lora.path, "--key", public)
    assert unsigned.returncode == 1
    assert "not signed" in unsigned.stdout
    nothing = cli("verify", tmp_path / "nowhere")
    assert nothing.returncode == 1
    assert "there is nothing" in nothing.stderr


def test_a_release_is_never_verified_without_a_key(
    cli: Callable[..., Done], release: Path, key: SigningKey
) -> None:
    assert cli("verify", release).returncode == 1
    assert cli("verify", release, "--key", key.path.with_name("signing.pub")).returncode == 0
    configured = cli("verify", release, LORA_FACTORY_SIGNING_KEY=str(key.path))
    assert configured.returncode == 0
    assert "verified" in configured.stdout

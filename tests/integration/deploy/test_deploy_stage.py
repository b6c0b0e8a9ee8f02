"""The deploy stage against a real serving app: only what passed and draws gets to users."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import threading
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from lora_factory.contracts.evaluation import Advice, EvaluationReport, HardGate
from lora_factory.contracts.manifest import FileEntry, InputEntry, Kind, Manifest
from lora_factory.contracts.run import RunConf
from lora_factory.contracts.settings import Settings
from lora_factory.contracts.specs import DeploySpec
from lora_factory.contracts.stage import LocalArtifact, StageContext
from lora_factory.contracts.training import TrainReport
from lora_factory.deploy import stage
from lora_factory.errors import (
    ConfigurationError,
    Interrupted,
    ReleaseError,
    ServiceUnavailable,
    SpecError,
)
from lora_factory.guard.provenance.keys import make_keys
from lora_factory.guard.provenance.signing import verify_folder
from lora_factory.store.catalog import Catalog
from serving_app import ADMIN_KEY, Server

pytestmark = pytest.mark.integration
Make = Callable[[int, float], Path]
EARLIER = "checkpoints/step-000040.safetensors"
CONF = RunConf(topics=("icons",), seeds=("http://127.0.0.1/",)).model_dump(mode="json")


def artifact(
    kind: Kind, folder: Path, stats: Any, inputs: dict[str, LocalArtifact]
) -> LocalArtifact:
    """An artifact as the store hands it over."""
    files = tuple(
        FileEntry(
            path=file.relative_to(folder).as_posix(),
            size=file.stat().st_size,
            sha256=hashlib.sha256(file.read_bytes()).hexdigest(),
        )
        for file in sorted(folder.rglob("*"))
        if file.is_file()
    )
    manifest = Manifest(
        kind=kind,
        stage="x",
        stage_version=1,
        key=folder.name,
        attempt="a",
        spec={},
        inputs=tuple(
            InputEntry(name=name, manifest_uri=found.uri, sha256=found.sha256)
            for name, found in inputs.items()
        ),
        stats=stats.model_dump(mode="json"),
        files=files,
        code_version="0",
        created_at=datetime.now(UTC),
    )
    digest = hashlib.sha256(manifest.model_dump_json().encode()).hexdigest()
    uri = f"{folder.as_uri()}/manifest.json"
    return LocalArtifact(folder, manifest, uri, digest)


def lora_artifact(folder: Path, weights: Path, earlier: Path | None = None) -> LocalArtifact:
    (folder / "checkpoints").mkdir(parents=True)
    (folder / "lora.safetensors").write_bytes(weights.read_bytes())
    if earlier is not None:
        (folder / EARLIER).write_bytes(earlier.read_bytes())
    report = TrainReport(
        base="emoji",
        trigger="icnx",
        rank=4,
        steps=1,
        best_step=1,
        train_loss=0.2,
        validation_loss_before=0.3,
        validation_loss=0.2,
        images_per_second=1,
        peak_memory_mb=1,
    )
    (folder.parent / "data").mkdir(exist_ok=True)
    dataset = artifact("dataset", folder.parent / "data", report, {})
    return artifact("lora", folder, report, {"dataset": dataset})


def evaluation_artifact(folder: Path, lora: LocalArtifact, **changes: Any) -> LocalArtifact:
    folder.mkdir()
    values: dict[str, Any] = {
        "verdict": "pass",
        "overall": 0.9,
        "overall_low": 0.88,
        "threshold": 0.85,
        "metrics": (),
        "gates": (HardGate(name="finite", passed=True),),
        "advice": Advice(),
        "prompts": ("a red apple", "icnx, a nude on a beach", "icnx, a red apple"),
        "trigger": "icnx",
        "base": "emoji",
        "scorer": "s",
    }
    report = EvaluationReport.model_validate(values | changes)
    return artifact("evaluation", folder, report, {"lora": lora})


class Desk:
    """Runs the stage as the runner would."""

    def __init__(self, tmp_path: Path, server: Server) -> None:
        self.folder, self.count = tmp_path, 0
        self.settings = Settings.model_validate({
            "serve_url": server.url + "/",
            "serve_token": ADMIN_KEY,
            "store": (tmp_path / "store").as_uri(),
        })

    def inputs(
        self, weights: Path, earlier: Path | None = None, **changes: Any
    ) -> dict[str, LocalArtifact]:
        self.count += 1
        lora = lora_artifact(self.folder / str(self.count) / "lora", weights, earlier)
        evaluation = evaluation_artifact(
            self.folder / str(self.count) / "evaluation", lora, **changes
        )
        return {"lora": lora, "evaluation": evaluation}

    def context(
        self, inputs: dict[str, LocalArtifact], settings: Settings | None = None
    ) -> StageContext:
        self.count += 1
        out = self.folder / f"out{self.count}"
        out.mkdir()
        return StageContext(inputs, out, self.folder, settings or self.settings)

    def spec(self, inputs: dict[str, LocalArtifact], name: str) -> DeploySpec:
        uris = {key: found.uri for key, found in inputs.items()}
        return DeploySpec.model_validate(uris | {"name": name, "conf": CONF})

    def deploy(self, inputs: dict[str, LocalArtifact], name: str) -> Any:
        context = self.context(inputs)
        return stage.run(self.spec(inputs, name), context), context.out


@pytest.fixture
def desk(tmp_path: Path, server: Server) -> Desk:
    return Desk(tmp_path, server)


def live(server: Server, name: str) -> str | None:
    listed = server.client.get("/v1/adapters").json()["adapters"]
    return {adapter["name"]: adapter["version"] for adapter in listed}.get(name)


def test_a_pass_is_promoted_and_recorded(desk: Desk, server: Server, make_lora: Make) -> None:
    inputs = desk.inputs(make_lora(1, 0.05))
    report, out = desk.deploy(inputs, "first")
    assert report.version == inputs["lora"].sha256[:12] == live(server, "first")
    assert (report.name, report.target, report.previous) == ("first", "local", None)
    assert report.endpoint == f"{server.url}/v1/generate"
    assert report.smoke_seconds > 0
    files = ["bom.cdx.json", "lineage.json", "lora.kohya.safetensors", "lora.safetensors"]
    files += ["release.json"]
    assert sorted(file.name for file in out.iterdir()) == files
    assert not report.signed  # no key is configured
    assert (out / "lora.safetensors").read_bytes() == make_lora(1, 0.05).read_bytes()

    model = Catalog(server.dsn).model("first", report.version)
    assert model is not None
    assert (model.state, model.overall, model.trigger) == ("deployed", 0.9, "icnx")
    assert model.lora == inputs["lora"].uri
    assert model.evaluation == inputs["evaluation"].uri
    assert model.dataset == inputs["lora"].manifest.inputs[0].manifest_uri
    assert RunConf.model_validate(model.conf).topics == ("icons",)
    written = json.loads((out / "release.json").read_text())
    assert written["model"]["lora"] == inputs["lora"].uri
    assert written["report"] == report.model_dump(mode="json")

    drawn = server.draw(adapter="first", prompt="icnx, a red apple")
    assert drawn.json()["rating_token"]


def test_the_checkpoint_that_was_judged_is_published(
    desk: Desk, server: Server, make_lora: Make
) -> None:
    last, earlier = make_lora(1, 0.05), make_lora(6, 0.05)
    report, out = desk.deploy(desk.inputs(last, earlier, checkpoint=EARLIER), "chosen")
    assert (out / "lora.safetensors").read_bytes() == earlier.read_bytes()
    model = Catalog(server.dsn).model("chosen", report.version)
    assert model is not None
    assert model.sha256 == hashlib.sha256(earlier.read_bytes()).hexdigest()


def test_a_checkpoint_that_the_artifact_lacks_is_refused(desk: Desk, make_lora: Make) -> None:
    inputs = desk.inputs(make_lora(1, 0.05), checkpoint=EARLIER)
    with pytest.raises(SpecError, match="which was evaluated; evaluate it again"):
        desk.deploy(inputs, "lacking")


def test_a_release_is_signed_where_the_deployment_has_a_key(
    desk: Desk, server: Server, make_lora: Make, tmp_path: Path
) -> None:
    inputs = desk.inputs(make_lora(1, 0.05))
    desk.settings = desk.settings.model_copy(update={"signing_key": tmp_path / "missing"})
    with pytest.raises(ConfigurationError, match="signing key"):
        desk.deploy(inputs, "signed")
    assert live(server, "signed") is None

    key = make_keys(tmp_path / "keys")
    desk.settings = desk.settings.model_copy(update={"signing_key": key.path})
    report, out = desk.deploy(inputs, "signed")
    assert (report.signed, report.key) == (True, key.fingerprint)
    assert verify_folder(out, key.public_pem.encode()).passed
    (out / "release.json").write_text("{}")
    assert not verify_folder(out, key.public_pem.encode()).passed


def test_deploying_again_changes_nothing(desk: Desk, server: Server, make_lora: Make) -> None:
    desk.deploy(desk.inputs(make_lora(1, 0.05)), "again")
    inputs = desk.inputs(make_lora(6, 0.05))
    first, _ = desk.deploy(inputs, "again")
    rows = [d for d in Catalog(server.dsn).deployments() if d.name == "again"]
    second, _ = desk.deploy(inputs, "again")
    assert second.previous == first.previous is not None
    assert [d for d in Catalog(server.dsn).deployments() if d.name == "again"] == rows


@pytest.mark.parametrize(
    ("seed", "size", "words"),
    [(3, 0.0, "the base's own picture"), (4, 1e20, "blank picture")],
)
def test_a_failed_smoke_test_leaves_the_last_good_one(
    desk: Desk, server: Server, make_lora: Make, seed: int, size: float, words: str
) -> None:
    name = f"smoke{seed}"
    good, _ = desk.deploy(desk.inputs(make_lora(1, 0.05)), name)
    inputs = desk.inputs(make_lora(seed, size))
    with pytest.raises(ReleaseError, match=words) as failed:
        desk.deploy(inputs, name)
    assert good.version in str(failed.value)
    assert live(server, name) == good.version
    bad = Catalog(server.dsn).model(name, inputs["lora"].sha256[:12])
    assert bad is not None
    assert bad.state == "retired"
    assert server.draw(adapter=name).json()["version"] == good.version


def test_a_first_release_that_fails_leaves_nothing(
    desk: Desk, server: Server, make_lora: Make
) -> None:
    with pytest.raises(ReleaseError, match="live: none"):
        desk.deploy(desk.inputs(make_lora(3, 0.0)), "nothing")
    assert live(server, "nothing") is None


def test_a_live_version_gone_bad_is_rolled_back(
    desk: Desk, server: Server, make_lora: Make
) -> None:
    good, _ = desk.deploy(desk.inputs(make_lora(1, 0.05)), "rots")
    inputs = desk.inputs(make_lora(5, 0.05))
    desk.deploy(inputs, "rots")
    digest = hashlib.sha256(make_lora(5, 0.05).read_bytes()).hexdigest()
    # the engine keeps it loaded; other adapters push it out
    for seed in (11, 12, 15, 16):
        desk.deploy(desk.inputs(make_lora(seed, 0.05)), f"other{seed}")
    (server.data / "adapters" / f"{digest}.safetensors").write_bytes(b"rot")
    with pytest.raises(ReleaseError, match="damaged on disk"):
        desk.deploy(inputs, "rots")
    assert live(server, "rots") == good.version


def test_a_damaged_file_is_refused_by_the_app(
    desk: Desk, server: Server, make_lora: Make, tmp_path: Path
) -> None:
    half = tmp_path / "half.safetensors"
    content = make_lora(1, 0.05).read_bytes()
    half.write_bytes(content[: len(content) // 2])
    with pytest.raises(ReleaseError, match="can't be read as safetensors"):
        desk.deploy(desk.inputs(half), "damaged")
    assert live(server, "damaged") is None


def test_what_did_not_pass_is_not_even_sent(desk: Desk, server: Server, make_lora: Make) -> None:
    weights = make_lora(1, 0.05)
    for changes, words in (
        ({"verdict": "fail", "overall": 0.5}, "overall 0.500"),
        ({"verdict": "needs_person"}, "needs a person"),
        ({"gates": (HardGate(name="copying", passed=False),)}, "gates copying"),
    ):
        with pytest.raises(ReleaseError, match=words):
            desk.deploy(desk.inputs(weights, **changes), "refused")
    mine, other = desk.inputs(weights), desk.inputs(make_lora(6, 0.05))
    with pytest.raises(SpecError, match="is not of LoRA"):
        desk.deploy({"lora": mine["lora"], "evaluation": other["evaluation"]}, "refused")
    with pytest.raises(SpecError, match="needs a lora and an evaluation"):
        desk.deploy({"lora": mine["evaluation"], "evaluation": mine["lora"]}, "refused")
    catalog = Catalog(server.dsn)
    assert catalog.model("refused", mine["lora"].sha256[:12]) is None


def test_wrong_addresses_and_keys_are_named(
    desk: Desk, server: Server, make_lora: Make, free_port: int
) -> None:
    inputs = desk.inputs(make_lora(1, 0.05))
    for values, error, words in (
        ({}, ConfigurationError, "LORA_FACTORY_SERVE_URL"),
        ({"serve_url": server.url}, ConfigurationError, "LORA_FACTORY_SERVE_TOKEN"),
        (
            {"serve_url": f"http://127.0.0.1:{free_port}", "serve_token": "x"},
            ServiceUnavailable,
            "is it up",
        ),
        ({"serve_url": server.url, "serve_token": "x"}, ConfigurationError, "refuses the key"),
        (
            {"serve_url": server.url + "/v1", "serve_token": ADMIN_KEY},
            ReleaseError,
            "404",
        ),
    ):
        settings = Settings.model_validate({"store": desk.settings.store} | values)
        context = desk.context(inputs, settings)
        with pytest.raises(error, match=words):
            stage.run(desk.spec(inputs, "wrong"), context)
        assert not (context.out / "release.json").exists()
    assert live(server, "wrong") is None


def test_it_stops_when_asked(desk: Desk, make_lora: Make) -> None:
    inputs = desk.inputs(make_lora(1, 0.05))
    context = desk.context(inputs)
    stopped = threading.Event()
    stopped.set()
    with pytest.raises(Interrupted):
        stage.run(
            desk.spec(inputs, "stopped"),
            StageContext(inputs, context.out, context.scratch, context.settings, stopped),
        )


def test_the_stage_does_not_import_torch() -> None:
    code = "import sys, lora_factory.deploy.stage; sys.exit('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], env={"PYTHONPATH": "include"}, check=False)
    assert done.returncode == 0

"""What a conf may ask for, and what each task gets."""

from __future__ import annotations

from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr

from lora_factory.contracts import specs
from lora_factory.contracts.evaluation import Advice, EvaluationReport
from lora_factory.contracts.manifest import InputEntry, Manifest
from lora_factory.contracts.run import RunConf
from lora_factory.contracts.settings import Settings
from lora_factory.errors import ArtifactError, ConfigurationError, FactoryError, SpecError
from lora_factory.store.artifacts import ArtifactStore
from lora_factory_airflow.run_plan import describe, make_plan, parse_conf, slug

TODAY = date(2026, 11, 24)
CHAIN = [
    ("raw", "crawl", ()),
    ("clean", "sanitize", ("raw",)),
    ("dataset", "label", ("clean",)),
    ("plan", "tune", ("dataset",)),
    ("lora", "train", ("dataset", "plan")),
    ("evaluation", "evaluate", ("lora", "dataset")),
    ("release", "deploy", ("lora", "evaluation")),
]
SPECS = {
    "crawl_plan": specs.PlanSpec,
    "crawl": specs.CrawlSpec,
    "sanitize": specs.SanitizeSpec,
    "label": specs.LabelSpec,
    "tune_1": specs.TuneSpec,
    "train": specs.TrainSpec,
    "evaluate": specs.EvaluateSpec,
    "deploy": specs.DeploySpec,
}


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings.model_validate({
        "store": (tmp_path / "store").as_uri(),
        "scratch": tmp_path / "scratch",
        "folders": {"pictures": tmp_path},
        "crawl_hosts": ("127.0.0.1:8001", "example.org"),
        "crawl_public": False,
    })


@pytest.fixture
def made(settings: Settings, tmp_path: Path) -> dict[str, str]:
    """A whole chain of committed artifacts: kind → URI with hash."""
    store, uris = ArtifactStore(settings.store, tmp_path), dict[str, str]()
    report = EvaluationReport(
        verdict="fail",
        overall=0.5,
        overall_low=0.4,
        threshold=0.85,
        metrics=(),
        gates=(),
        advice=Advice(),
        prompts=(),
        trigger="t",
        base="b",
        scorer="s",
        checkpoint="checkpoints/step-000040.safetensors",
    )
    folder = tmp_path / "files"
    folder.mkdir()
    for kind, stage, inputs in CHAIN:
        draft = Manifest(
            kind=kind,
            stage=stage,
            stage_version=1,
            key=f"{kind}1",
            attempt="a",
            spec={},
            inputs=tuple(
                InputEntry(
                    name=name,
                    manifest_uri=uris[name].partition("#")[0],
                    sha256=uris[name].rpartition("=")[2],
                )
                for name in inputs
            ),
            stats=report.model_dump(mode="json") if kind == "evaluation" else {},
            code_version="0",
            created_at=datetime.now(UTC),
        )
        uris[kind] = store.commit(folder, draft)
    return uris


def conf(**changes: Any) -> RunConf:
    values = {"topics": ["Blue Cats!"], "source": "folder", "folder": "pictures", **changes}
    return parse_conf(values, {})


# -- conf -----------------------------------------------------------------------------------


def test_conf_wins_over_the_form():
    found = parse_conf({"epochs": 3}, {"topics": ["a"], "seeds": ["http://x/"], "epochs": 7})
    assert (found.epochs, found.topics) == (3, ("a",))


def test_unknown_keys_are_named_with_the_allowed_ones():
    with pytest.raises(SpecError) as err:
        parse_conf({"topics": ["a"], "epoch": 1, "Seeds": []}, {"epoch": 1})
    message = str(err.value)
    assert message.startswith("unknown key(s) in the run's conf: Seeds, epoch; allowed: ")
    assert all(name in message for name in RunConf.model_fields)
    assert "\n" not in message


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"topics": []}, "topics: Tuple should have at least 1 item"),
        ({"topics": ["{{ x }}"]}, "topics.0: String should match pattern"),
        ({"epochs": 0}, "epochs: Input should be greater than or equal to 1, got 0"),
        ({"attempts": 4}, "attempts: "),
        ({"source": "web"}, "source=web needs at least one URL in seeds"),
        ({"folder": ""}, "needs the name of a folder the deployment offers"),
        ({"target": "moon"}, "target: Input should be 'local', 'hub'"),
        ({"epochs": 0, "threshold": 2}, "(and 1 more)"),
    ],
)
def test_bad_values_are_one_line(changes, words):
    with pytest.raises(SpecError) as err:
        conf(**changes)
    assert words in str(err.value)
    assert "\n" not in str(err.value)


# -- the deployment -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"profile": "nope"}, "unknown profile 'nope'; choose one of: embedded"),
        ({"base": "nope"}, "has no base 'nope'; choose one of: "),
        ({"folder": "etc"}, "folder 'etc' is not offered here; offered: pictures"),
        ({"folder": "../x"}, "is not offered here"),
        ({"source": "bucket", "bucket": "s3://x"}, "bucket 's3://x' is not offered here; offered:"),
        ({"source": "web", "seeds": ["ftp://example.org/"]}, "is no http(s) URL"),
        ({"source": "web", "seeds": ["http://[/"]}, "is no http(s) URL"),
        ({"source": "web", "seeds": ["http://evil.org/"]}, "evil.org may not be crawled here"),
        ({"source": "web", "seeds": ["http://127.0.0.1:9/"]}, "may not be crawled here"),
        ({"source": "web", "seeds": ["http://example.org@evil.org/"]}, "evil.org may not be"),
        ({"start_from": "file:///etc/passwd"}, "is no manifest.json in this deployment's store"),
        ({"parent": "file:///etc/passwd"}, "is no manifest.json in this deployment's store"),
    ],
)
def test_what_the_deployment_does_not_offer_is_refused(settings, changes, words):
    with pytest.raises(SpecError) as err:
        make_plan(conf(**changes), settings, TODAY)
    assert words in str(err.value)
    assert "\n" not in str(err.value)


@pytest.mark.parametrize("seed", ["http://127.0.0.1:8001/a", "https://example.org/b"])
def test_allowed_seeds(settings, seed):
    assert make_plan(conf(source="web", seeds=[seed]), settings, TODAY).stages[0] == "crawl"


def test_store_must_be_there_and_writable(settings, tmp_path):
    with pytest.raises(ConfigurationError, match="LORA_FACTORY_STORE"):
        make_plan(conf(), settings.model_copy(update={"store": ""}), TODAY)
    (tmp_path / "file").touch()
    closed = settings.model_copy(update={"store": f"file://{tmp_path}/file/store"})
    with pytest.raises(ConfigurationError):
        make_plan(conf(), closed, TODAY)


# -- the plan -------------------------------------------------------------------------------


def test_whole_run(settings):
    plan = make_plan(conf(attempts=2, epochs=5), settings, TODAY)
    assert plan.stages == ("crawl", "sanitize", "label", "tune", "train", "evaluate", "deploy")
    assert (plan.attempts, plan.epochs, plan.given) == (2, (5, 7), {})
    assert plan.specs["crawl"]["as_of"] == "2026-11-24"
    assert plan.specs["tune_2"]["epochs"] == 7
    assert plan.specs["deploy"]["name"] == "blue-cats"
    assert plan.specs["deploy"]["conf"] == plan.conf
    assert RunConf.model_validate(plan.conf).as_of is None
    assert "crawl → sanitize" in describe(plan)
    assert "2000 images, 1 worker(s)" in describe(plan)


def test_specs_fit_their_stages(settings):
    """With the inputs that the DAG adds, each is a valid Spec; nothing else is missing."""
    plan = make_plan(conf(as_of="2026-01-02", trigger="trg", base=None), settings, TODAY)
    for name, spec_type in SPECS.items():
        missing = set(spec_type.inputs) - set(plan.specs[name]) - {"parts"}  # sanitize's own
        inputs = dict.fromkeys(missing, "file:///x")
        spec = spec_type.model_validate({**plan.specs[name], **inputs})
        assert spec.profile == "embedded"
    assert plan.specs["crawl"]["as_of"] == "2026-01-02"


@pytest.mark.parametrize(
    ("kind", "first"),
    [("raw", "sanitize"), ("dataset", "tune"), ("lora", "evaluate"), ("evaluation", "deploy")],
)
def test_start_from_gives_what_the_rest_needs(settings, made, kind, first):
    plan = make_plan(conf(start_from=made[kind], attempts=2), settings, TODAY)
    assert plan.stages[0] == first
    known = [k for k, _, _ in CHAIN][: [k for k, _, _ in CHAIN].index(kind) + 1]
    needed = {k: v for k, v in made.items() if k in known}
    if kind in {"raw", "dataset"}:
        assert plan.given == needed
    assert plan.given["raw"] == made["raw"]
    assert plan.attempts == 2  # a next attempt can sanitize anew
    for stage in plan.stages[:1]:
        name = "tune_1" if stage == "tune" else stage
        SPECS[name].model_validate(plan.specs[name])


def test_without_its_raw_data_there_is_one_attempt(settings, made, tmp_path):
    Path(made["clean"].partition("#")[0].removeprefix("file://")).unlink()
    plan = make_plan(conf(start_from=made["dataset"]), settings, TODAY)
    assert (plan.attempts, set(plan.given)) == (1, {"dataset"})


def test_start_from_a_wrong_hash_or_a_missing_artifact(settings, made):
    uri = made["raw"].partition("#")[0]
    with pytest.raises(ArtifactError, match="sha256"):
        make_plan(conf(start_from=f"{uri}#sha256={'0' * 64}"), settings, TODAY)
    with pytest.raises(ArtifactError, match="no artifact at"):
        make_plan(conf(start_from=uri.replace("raw1", "raw2")), settings, TODAY)


def test_nothing_to_run(settings, made):
    with pytest.raises(SpecError, match="nothing to run"):
        make_plan(conf(start_from=made["dataset"], stop_after="label"), settings, TODAY)
    with pytest.raises(SpecError, match="nothing to run"):
        make_plan(conf(start_from=made["release"]), settings, TODAY)


def test_an_evaluation_is_not_judged_by_another_mark(settings, made):
    with pytest.raises(SpecError, match=r"judged against 0.85, not 0.5"):
        make_plan(conf(start_from=made["evaluation"], threshold=0.5), settings, TODAY)


def test_parent_brings_its_dataset(settings, made):
    plan = make_plan(conf(parent=made["lora"]), settings, TODAY)
    assert plan.specs["train"]["parent"] == made["lora"]
    assert plan.specs["crawl"]["previous"] is None  # one's own folder is read again
    web = {"source": "web", "seeds": ["http://example.org/"], "folder": "", "parent": made["lora"]}
    again = make_plan(conf(**web), settings, TODAY)  # the web is asked only for what is new
    assert again.specs["crawl"]["previous"] == made["raw"]
    assert again.specs["crawl_plan"]["previous"] == made["raw"]
    assert plan.specs["sanitize"]["previous"] == made["dataset"]
    with pytest.raises(SpecError, match="is a raw, not a lora"):
        make_plan(conf(parent=made["raw"]), settings, TODAY)


def test_a_model_to_beat_is_found_by_its_evaluation(settings, made):
    plan = make_plan(conf(incumbent=made["evaluation"], parent=made["lora"]), settings, TODAY)
    spec = specs.EvaluateSpec.model_validate(plan.specs["evaluate"] | {"lora": "l", "dataset": "d"})
    assert spec.incumbent == made["lora"]
    assert spec.incumbent_checkpoint == "checkpoints/step-000040.safetensors"
    assert plan.specs["train"]["parent_checkpoint"] == "checkpoints/step-000040.safetensors"
    alone = make_plan(conf(incumbent=made["evaluation"]), settings, TODAY)
    assert "parent_checkpoint" not in alone.specs["train"]
    assert make_plan(conf(), settings, TODAY).specs["evaluate"].get("incumbent") is None
    with pytest.raises(SpecError, match="is a lora, not an evaluation of a lora"):
        make_plan(conf(incumbent=made["lora"]), settings, TODAY)
    Path(made["lora"].partition("#")[0].removeprefix("file://")).unlink()
    with pytest.raises(ArtifactError, match="no artifact at"):
        make_plan(conf(incumbent=made["evaluation"]), settings, TODAY)


def tasks() -> dict[str, tuple[str, int]]:
    names = ("sanitize", "label", "tune", "train", "evaluate", "gate")
    inner = {f"attempt_{n}.{s}": (s, n) for n in (1, 2, 3) for s in names}
    ends = {stage: (stage, 0) for stage in ("approve", "deploy")}
    parts = {"crawl_plan": ("crawl.plan", 0), "crawl_work": ("crawl.work", 0)}
    parts |= dict.fromkeys(SHARDS, ("sanitize.shard", 0))
    return {**parts, "crawl": ("crawl", 0), **inner, **ends}


WEB = {"source": "web", "seeds": ["https://example.org/"]}
PARTS = {"crawl_plan", "crawl_work"}
SHARDS = {"sanitize_plan", "sanitize_shard"}


def test_skipped(settings, made):
    def runs(**changes: Any) -> set[str]:
        plan = make_plan(conf(**changes), settings, TODAY)
        return set(tasks()) - set(plan.skipped(tasks()))

    usual = set(tasks()) - SHARDS  # at most 2000 images

    assert runs() == usual - PARTS  # a folder has nothing to plan
    assert runs(attempts=1) == {id_ for id_, (_, n) in tasks().items() if n < 2} - PARTS - SHARDS
    assert runs(**WEB) == usual - {"crawl_work"}
    assert runs(**WEB, stop_after="crawl") == {"crawl_plan", "crawl"}
    settings = settings.model_copy(update={"crawl_redis": SecretStr("redis://127.0.0.1:1/1")})
    assert runs(**WEB, crawl_workers=2) == usual
    assert runs(**WEB, crawl_workers=2, stop_after="crawl") == PARTS | {"crawl"}
    assert runs(crawl_workers=2) == usual - PARTS
    assert not runs(**WEB, crawl_workers=2, start_from=made["raw"]) & (PARTS | {"crawl"})
    assert runs(stop_after="crawl") == {"crawl"}
    assert runs(max_images=5000) == usual - PARTS
    assert runs(max_images=5001) == set(tasks()) - PARTS
    assert not runs(max_images=5001, start_from=made["raw"]) & SHARDS  # which is small
    assert not runs(max_images=5001, start_from=made["clean"]) & SHARDS
    assert runs(stop_after="evaluate") == {
        *("crawl", "attempt_1.sanitize", "attempt_1.label", "attempt_1.tune"),
        *("attempt_1.train", "attempt_1.evaluate"),
    }
    second = {id_ for id_, (_, n) in tasks().items() if n == 2}
    start = {"attempt_1.evaluate", "attempt_1.gate", "approve", "deploy"}
    assert runs(start_from=made["lora"], attempts=2) == second | start
    assert runs(start_from=made["evaluation"], attempts=1) == {
        *("attempt_1.gate", "approve", "deploy")
    }


def test_workers_need_a_redis(settings, made):
    with pytest.raises(ConfigurationError) as err:
        make_plan(conf(**WEB, crawl_workers=2), settings, TODAY)
    assert str(err.value) == (
        "crawl_workers=2, but this deployment has no Redis for them to share: "
        "set LORA_FACTORY_CRAWL_REDIS, or crawl with one worker"
    )
    make_plan(conf(**WEB, crawl_workers=2, start_from=made["raw"]), settings, TODAY)
    for workers in (0, 17):
        with pytest.raises(SpecError, match="crawl_workers: Input should be"):
            conf(**WEB, crawl_workers=workers)


def test_every_part_of_a_crawl_asks_for_the_same(settings):
    """A worker and the merge refuse the plan of another crawl."""
    plan = make_plan(conf(**WEB, max_pages=7, force=True, languages=["de"]), settings, TODAY)
    made = specs.PlanSpec.model_validate(plan.specs["crawl_plan"]).model_dump()
    work = {**plan.specs["crawl"], "plan": "p", "worker": 1}
    for spec_type in (specs.WorkSpec, specs.CrawlSpec):
        values = {k: v for k, v in work.items() if k in spec_type.model_fields}
        spec = spec_type.model_validate(values).model_dump()
        assert {name: spec[name] for name in specs.CrawlRequest.model_fields} == {
            name: made[name] for name in specs.CrawlRequest.model_fields
        }


def test_a_part_of_a_stage_is_nothing_to_start_from(settings, tmp_path):
    draft = Manifest(
        kind="crawlplan",
        stage="crawl.plan",
        stage_version=1,
        key="crawlplan1",
        attempt="a",
        spec={},
        code_version="0",
        created_at=datetime.now(UTC),
    )
    (tmp_path / "files").mkdir()
    uri = ArtifactStore(settings.store, tmp_path).commit(tmp_path / "files", draft)
    with pytest.raises(SpecError, match="start_from is a crawlplan, a part of a stage"):
        make_plan(conf(start_from=uri), settings, TODAY)


@given(text=st.text(max_size=90))
def test_slug_is_a_name(text):
    from pydantic import TypeAdapter

    from lora_factory.contracts.specs import Name

    TypeAdapter(Name).validate_python(slug(text))


@pytest.mark.parametrize(
    ("text", "name"), [("Émoji  Art", "emoji-art"), ("猫", "lora"), ("-a_b-", "a-b"), ("1", "1")]
)
def test_slug(text, name):
    assert slug(text) == name


def test_errors_are_the_factorys(settings):
    with pytest.raises(FactoryError):
        make_plan(conf(start_from="s3://bucket/x"), settings, TODAY)

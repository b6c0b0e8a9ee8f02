"""From a run's conf to what each task gets: checked before anything runs. Imports no Airflow.

:func:`parse_conf` turns a conf into a RunConf, :func:`make_plan` checks it against the
deployment and the store and lays out one spec a task.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Mapping
from datetime import date
from typing import Any, get_args
from urllib.parse import urlsplit

from pydantic import JsonValue, ValidationError

from lora_factory.contracts.base import Contract
from lora_factory.contracts.evaluation import EvaluationReport
from lora_factory.contracts.manifest import Kind, Manifest
from lora_factory.contracts.run import MORE_EPOCHS, PHASES, STAGES, RunConf
from lora_factory.contracts.settings import Settings
from lora_factory.contracts.specs import OWN, SEEDED, SHARD_IMAGES
from lora_factory.crawl.hosts import HostRules
from lora_factory.errors import ArtifactError, ConfigurationError, SpecError
from lora_factory.models.profiles import load_profile
from lora_factory.store.artifacts import ArtifactStore, open_store

KINDS: tuple[str, ...] = get_args(Kind)


class RunPlan(Contract):
    """What a run will do.

    ``specs`` has one entry a stage (``tune_<n>`` one an attempt, whose epochs differ), one for
    the crawl's plan, and ``gate`` and ``result`` for the tasks that only read. ``phases`` are
    the parts of stages that run as tasks of their own. ``given`` are artifacts that were there
    before the run (``start_from`` and what it was made from), by kind.
    """

    conf: dict[str, JsonValue]
    stages: tuple[str, ...]
    phases: tuple[str, ...]
    attempts: int
    epochs: tuple[int, ...]
    given: dict[str, str]
    specs: dict[str, dict[str, JsonValue]]

    def skipped(self, task_ids: Mapping[str, tuple[str, int]]) -> list[str]:
        """Which of ``task_ids`` (id → stage, attempt from 1, 0 outside of one) won't run."""
        return [id_ for id_, (stage, attempt) in task_ids.items() if not self._runs(stage, attempt)]

    def _runs(self, stage: str, attempt: int) -> bool:
        if attempt > self.attempts:
            return False
        if stage in PHASES:
            return stage in self.phases
        if stage in {"gate", "approve"}:
            return "deploy" in self.stages
        if attempt > 1 and "deploy" in self.stages:
            return True  # a next attempt does all of it, wherever the first one started
        return stage in self.stages and attempt <= 1


def parse_conf(conf: Mapping[str, Any], params: Mapping[str, Any]) -> RunConf:
    """The run's conf over the form's defaults.

    Raises:
        SpecError: names the unknown keys and the allowed ones, or the first bad field.
    """
    allowed = RunConf.model_fields
    unknown = sorted(set(conf) - set(allowed))
    if unknown:
        msg = f"unknown key(s) in the run's conf: {', '.join(unknown)}; allowed: "
        raise SpecError(msg + ", ".join(sorted(allowed)))
    values = {key: value for key, value in params.items() if key in allowed} | dict(conf)
    # A field left empty in the form arrives as null and means the default.
    values = {key: value for key, value in values.items() if value is not None}
    try:
        return RunConf.model_validate(values)
    except ValidationError as err:
        first = err.errors(include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"]) or "the whole"
        more = f" (and {err.error_count() - 1} more)" if err.error_count() > 1 else ""
        msg = f"run conf: {where}: {first['msg']}, got {first['input']!r}"[:400] + more
        raise SpecError(msg) from err


def make_plan(conf: RunConf, settings: Settings, today: date) -> RunPlan:
    """Check the conf against the deployment, and lay out the run.

    Args:
        conf: as :func:`parse_conf` gives it.
        settings: the deployment's configuration.
        today: crawl date unless the conf has one; the same at every retry.

    Raises:
        FactoryError: the run can't work; says why and what to do.
    """
    profile = load_profile(conf.profile, settings)
    profile.base(conf.base, conf.domain).location()
    store = open_store(settings)
    store.check_writable()
    given, stages = _range(conf, store)
    if "crawl" in stages:
        _check_source(conf, settings)
    conf = conf.model_copy(update={"name": conf.name or slug(conf.topics[0])})
    previous = _dataset_of(conf.parent, store) if conf.parent else None
    earlier = _crawl_of(conf.parent, store) if conf.parent else None
    deployed = _deployed(conf.incumbent, store) if conf.incumbent else None
    attempts = conf.attempts
    if "deploy" not in stages or ("crawl" not in stages and "raw" not in given):
        attempts = 1  # nothing after the first, or nothing to sanitize anew
    specs = _specs(conf, conf.as_of or today, given, previous, earlier)
    if deployed is not None:
        _compare_with(specs, deployed)
    specs["gate"]["attempts"] = attempts
    return RunPlan(
        conf=conf.model_dump(mode="json"),
        stages=stages,
        phases=_phases(conf, stages, _most_pictures(conf, given, previous, store)),
        attempts=attempts,
        epochs=tuple(_epochs(conf)[:attempts]),
        given=given,
        specs=specs,
    )


def describe(plan: RunPlan) -> str:
    """The plan in Markdown, for the log and for whoever approves it."""
    conf = plan.conf
    lines = [
        f"**{conf['name']}** from topics {', '.join(map(str, _list(conf['topics'])))}",
        f"- stages: {' → '.join(plan.stages)}",
        f"- attempts: at most {plan.attempts}, epochs {', '.join(map(str, plan.epochs))}, "
        f"pass at {conf['threshold']}",
        f"- profile {conf['profile']}, base {conf['base'] or 'by domain ' + str(conf['domain'])}",
        f"- crawl: at most {conf['max_pages']} pages, {conf['max_images']} images, "
        f"{conf['crawl_workers'] if 'crawl.work' in plan.phases else 1} worker(s)",
    ]
    if conf["incumbent"]:
        lines.append(f"- must beat the model of evaluation {conf['incumbent']}")
    lines += [f"- given {kind}: {uri}" for kind, uri in plan.given.items()]
    return "\n".join(lines)


def slug(text: str) -> str:
    """``text`` as an adapter name: lower-case ASCII, digits and hyphens, 1–63 characters."""
    ascii_ = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode().lower()
    return re.sub(r"[^a-z0-9]+", "-", ascii_).strip("-")[:63].strip("-") or "lora"


def _range(conf: RunConf, store: ArtifactStore) -> tuple[dict[str, str], tuple[str, ...]]:
    """Given artifacts and the stages to run."""
    first, given = 0, dict[str, str]()
    if conf.start_from is not None:
        manifest = store.read_manifest(conf.start_from)
        given = dict(_lineage(conf.start_from, manifest, store))
        if manifest.stage not in STAGES:
            msg = f"start_from is a {manifest.kind}, a part of a stage; give the whole's URI"
            raise SpecError(msg)
        first = STAGES.index(manifest.stage) + 1
        if manifest.kind == "evaluation":
            _check_threshold(conf, manifest)
    last = len(STAGES) if conf.stop_after is None else STAGES.index(conf.stop_after) + 1
    stages = STAGES[first:last]
    if not stages:
        msg = f"nothing to run: start_from is a result of {STAGES[first - 1]}, "
        raise SpecError(msg + f"and the run stops after {STAGES[last - 1]}; change one of them")
    return given, stages


def _phases(conf: RunConf, stages: tuple[str, ...], pictures: int) -> tuple[str, ...]:
    """Which parts of stages are tasks of their own: own images need no plan, one worker and one
    shard no map."""
    planned = "crawl" in stages and conf.source not in OWN
    runs = {
        "crawl.plan": planned,
        "crawl.work": planned and conf.crawl_workers > 1,
        "sanitize.shard": "sanitize" in stages and pictures > SHARD_IMAGES,
    }
    return tuple(phase for phase in PHASES if runs[phase])


def _most_pictures(
    conf: RunConf, given: Mapping[str, str], previous: str | None, store: ArtifactStore
) -> int:
    """As many as sanitize may have to look at."""
    known = [uri for uri in (given.get("raw"), previous) if uri is not None]
    crawled = 0 if "raw" in given else conf.max_images
    return crawled + sum(store.read_manifest(uri).counts.kept for uri in known)


def _lineage(uri: str, manifest: Manifest, store: ArtifactStore) -> Iterator[tuple[str, str]]:
    """(kind, URI) of an artifact and of all it was made from, as far as the store has them."""
    yield manifest.kind, uri
    for entry in manifest.inputs:
        if entry.name not in KINDS:
            continue  # advice, parent, previous: no part of this run's chain
        reference = f"{entry.manifest_uri}#sha256={entry.sha256}"
        try:
            found = store.read_manifest(reference)
        except (ArtifactError, SpecError):
            continue  # removed, or left in another store: only what needs it is off
        yield from _lineage(reference, found, store)


def _check_threshold(conf: RunConf, manifest: Manifest) -> None:
    threshold = EvaluationReport.model_validate(manifest.stats).threshold
    if threshold != conf.threshold:
        msg = (
            f"this evaluation was judged against {threshold}, not {conf.threshold}; "
            f"set threshold to {threshold}, or start from its lora to judge it anew"
        )
        raise SpecError(msg)


def _dataset_of(parent: str, store: ArtifactStore) -> str:
    """The dataset a parent LoRA was trained on."""
    manifest = store.read_manifest(parent)
    for entry in manifest.inputs:
        if manifest.kind == "lora" and entry.name == "dataset":
            return f"{entry.manifest_uri}#sha256={entry.sha256}"
    msg = f"parent {parent} is a {manifest.kind}, not a lora with its dataset; give a lora's URI"
    raise SpecError(msg)


def _crawl_of(parent: str, store: ArtifactStore) -> str | None:
    """The crawl a parent LoRA began with, if the store still has it: what is new since then?"""
    return dict(_lineage(parent, store.read_manifest(parent), store)).get("raw")


def _deployed(incumbent: str, store: ArtifactStore) -> tuple[str, str]:
    """A deployed model's LoRA and its file, from its evaluation."""
    manifest = store.read_manifest(incumbent)
    for entry in manifest.inputs:
        if manifest.kind == "evaluation" and entry.name == "lora":
            lora = f"{entry.manifest_uri}#sha256={entry.sha256}"
            store.read_manifest(lora)  # it must still be there to be compared with
            return lora, EvaluationReport.model_validate(manifest.stats).checkpoint
    msg = f"incumbent {incumbent} is a {manifest.kind}, not an evaluation of a lora"
    raise SpecError(msg + "; give the URI of the deployed model's evaluation")


def _compare_with(specs: dict[str, dict[str, JsonValue]], deployed: tuple[str, str]) -> None:
    """The evaluation must beat the deployed LoRA; a training from it goes on from its file."""
    lora, checkpoint = deployed
    specs["evaluate"] |= {"incumbent": lora, "incumbent_checkpoint": checkpoint}
    if _sha(specs["train"].get("parent")) == _sha(lora):
        specs["train"]["parent_checkpoint"] = checkpoint


def _sha(uri: JsonValue) -> str:
    return str(uri).rpartition("#sha256=")[2]


def _check_source(conf: RunConf, settings: Settings) -> None:
    """What the crawl may reach is the operator's choice; a conf only picks from it."""
    if conf.source == "folder":
        if conf.folder not in settings.folders:
            offered = ", ".join(sorted(settings.folders)) or "none (set LORA_FACTORY_FOLDERS)"
            msg = f"folder {conf.folder!r} is not offered here; offered: {offered}"
            raise SpecError(msg)
        return
    if conf.source == "bucket":
        if conf.bucket not in settings.buckets:
            offered = ", ".join(sorted(settings.buckets)) or "none (set LORA_FACTORY_BUCKETS)"
            msg = f"bucket {conf.bucket!r} is not offered here; offered: {offered}"
            raise SpecError(msg)
        return
    if conf.crawl_workers > 1 and not settings.crawl_redis.get_secret_value():
        msg = (
            f"crawl_workers={conf.crawl_workers}, but this deployment has no Redis for them to "
            "share: set LORA_FACTORY_CRAWL_REDIS, or crawl with one worker"
        )
        raise ConfigurationError(msg)
    rules = HostRules(settings.crawl_hosts, public=settings.crawl_public)
    for seed in conf.seeds if conf.source in SEEDED else ():
        try:
            parts = urlsplit(seed)
        except ValueError:  # for example an unclosed [ of an IPv6 address
            parts = urlsplit("")
        if parts.scheme not in {"http", "https"} or not parts.hostname:
            msg = f"seed {seed!r} is no http(s) URL; correct it"
            raise SpecError(msg)
        if not rules.allows(seed):
            web = "the public web, " if settings.crawl_public else ""
            allowed = web + (", ".join(settings.crawl_hosts) or "LORA_FACTORY_CRAWL_HOSTS is empty")
            msg = f"seed host {parts.hostname} may not be crawled here; allowed: {allowed}"
            raise SpecError(msg)


def _specs(
    conf: RunConf,
    as_of: date,
    given: Mapping[str, str],
    previous: str | None,
    earlier: str | None,
) -> dict[str, dict[str, JsonValue]]:
    common: dict[str, JsonValue] = {"profile": conf.profile}
    if conf.force:
        common["force"] = True  # else each stage's own default
    values = conf.model_dump(mode="json")

    def spec(kinds: str, *fields: str, **more: JsonValue) -> dict[str, JsonValue]:
        inputs = {kind: given[kind] for kind in kinds.split() if kind in given}
        return {**common, **{name: values[name] for name in fields}, **inputs, **more}

    crawl = spec(
        "",
        *("topics", "source", "seeds", "folder", "bucket", "max_pages", "max_images", "languages"),
        "allow_unknown_licence",
        as_of=as_of.isoformat(),
        previous=None if conf.source in OWN else earlier,
        expansion={
            "graphs": values["graphs"],
            "depth": conf.graph_depth,
            "fan_out": conf.graph_fan_out,
            "languages": values["languages"][:8] or ["en"],
        },
    )
    specs = {
        "crawl_plan": {**crawl, "workers": conf.crawl_workers},
        "crawl": crawl,
        "sanitize": spec("raw", previous=previous),
        "label": spec("clean", "topics", "domain", "trigger"),
        "train": spec("dataset plan", "parent"),
        "evaluate": spec("lora dataset", "threshold"),
        "deploy": spec("lora evaluation", "target", "name", conf=values),
    }
    for attempt, epochs in enumerate(_epochs(conf), start=1):
        specs[f"tune_{attempt}"] = spec("dataset", "base", epochs=epochs)
    specs["gate"] = {"evaluation": given.get("evaluation")}
    specs["result"] = {"name": conf.name, "evaluation": given.get("evaluation")}
    return specs


def _epochs(conf: RunConf) -> list[int]:
    """Epochs of each attempt (article, 5.1: two more each time)."""
    return [conf.epochs + MORE_EPOCHS * n for n in range(conf.attempts)]


def _list(value: JsonValue) -> list[JsonValue]:
    return value if isinstance(value, list) else [value]

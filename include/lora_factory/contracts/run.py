"""The conf of a whole run, as the trigger form, the REST API and the daily DAG give it."""

from __future__ import annotations

from datetime import date
from typing import Literal, Self

from pydantic import Field, model_validator

from lora_factory.contracts.base import Contract
from lora_factory.contracts.expansion import OFFLINE, Graph
from lora_factory.contracts.records import Domain
from lora_factory.contracts.specs import MAX_CRAWL_WORKERS, SEEDED, Name, Source, Target, Topic

STAGES = ("crawl", "sanitize", "label", "tune", "train", "evaluate", "deploy")
StageName = Literal["crawl", "sanitize", "label", "tune", "train", "evaluate", "deploy"]
PHASES = ("crawl.plan", "crawl.work", "sanitize.shard")
"""Parts of stages that run as tasks of their own: ``crawl.work`` is ``lora_factory.crawl.work``."""
ASIDE = ("optimise",)
"""Stages that no run needs: made of what a run has made."""
RUNNABLE = (*STAGES, *PHASES, *ASIDE)
MAX_ATTEMPTS = 3
MORE_EPOCHS = 2  # article, section 5.1: run(epochs=epochs+2)


class RunConf(Contract):
    """Everything a person may choose about a run."""

    topics: tuple[Topic, ...] = Field(min_length=1, max_length=20)
    seeds: tuple[str, ...] = ()
    source: Source = "web"
    folder: str = ""
    bucket: str = ""
    max_pages: int = Field(1000, ge=1, le=1_000_000)
    max_images: int = Field(2000, ge=1, le=1_000_000)
    crawl_workers: int = Field(1, ge=1, le=MAX_CRAWL_WORKERS)
    languages: tuple[str, ...] = ("en",)
    graphs: tuple[Graph, ...] = Field(OFFLINE, max_length=4)
    graph_depth: int = Field(1, ge=1, le=3)
    graph_fan_out: int = Field(16, ge=1, le=50)
    allow_unknown_licence: bool = False
    profile: str = Field("embedded", pattern=r"^[a-z0-9][a-z0-9_-]*$")
    domain: Domain = "art"
    base: str | None = None
    trigger: Name | None = None
    name: Name | None = Field(None, description="Adapter name; None: from the first topic")
    epochs: int = Field(10, ge=1, le=1000)
    threshold: float = Field(0.85, ge=0, le=1)
    attempts: int = Field(3, ge=1, le=MAX_ATTEMPTS)
    start_from: str | None = Field(None, description="Manifest URI of an artifact to start from")
    stop_after: StageName | None = None
    target: Target = "local"
    parent: str | None = Field(None, description="Manifest URI of a LoRA to go on from")
    incumbent: str | None = Field(
        None, description="Manifest URI of the evaluation of the deployed model to beat"
    )
    as_of: date | None = Field(None, description="Crawl date; None: the run's date")
    force: bool = False
    approve_plan: bool = Field(default=False, description="Wait for a person before training")

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.start_from is None and self.source in SEEDED and not self.seeds:
            msg = f"source={self.source} needs at least one URL in seeds"
            raise ValueError(msg)
        if self.start_from is None and self.source == "folder" and not self.folder:
            msg = "source=folder needs the name of a folder the deployment offers, in folder"
            raise ValueError(msg)
        if self.start_from is None and self.source == "bucket" and not self.bucket:
            msg = "source=bucket needs the name of a bucket the deployment offers, in bucket"
            raise ValueError(msg)
        return self

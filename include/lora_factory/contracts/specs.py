"""One Spec a stage: everything that decides its result. Defaults are the article's."""

from __future__ import annotations

from datetime import date
from typing import Annotated, ClassVar, Literal

from pydantic import Field, JsonValue, StringConstraints, field_validator

from lora_factory.contracts.base import StageSpec
from lora_factory.contracts.expansion import ExpansionSpec
from lora_factory.contracts.optimise import Step
from lora_factory.contracts.options import TrainOptions
from lora_factory.contracts.records import Domain

Topic = Annotated[
    str,
    StringConstraints(
        strip_whitespace=True, min_length=1, max_length=80, pattern=r"^[^\x00-\x1f<>{}]+$"
    ),
]
Name = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9_-]{0,62}$")]


Target = Literal["local", "hub", "aws-lambda", "aws-sagemaker", "cloud-run", "azure"]
"""Where a LoRA that passed goes; what each needs is the deployment's configuration."""

Source = Literal["web", "urls", "sitemap", "openverse", "wikimedia", "folder", "bucket"]
SEEDED: tuple[Source, ...] = ("web", "urls", "sitemap")
"""Sources that begin with the seeds."""
OWN: tuple[Source, ...] = ("folder", "bucket")
"""Sources with a user's own images: nothing is asked of the web."""
MAX_CRAWL_WORKERS = 16


class CrawlRequest(StageSpec):
    """What to crawl. ``as_of`` makes tomorrow's crawl a new artifact and a retry's the same."""

    topics: tuple[Topic, ...] = Field(min_length=1, max_length=20)
    source: Source = "web"
    seeds: tuple[str, ...] = Field((), description="Pages (web, urls) or sitemaps to start from")
    folder: str = Field("", description="Name of a folder the deployment offers (source=folder)")
    bucket: str = Field("", description="Name of a bucket the deployment offers (source=bucket)")
    as_of: date
    expansion: ExpansionSpec = Field(
        ExpansionSpec(), description="Further terms for the topics, from knowledge graphs"
    )
    max_pages: int = Field(1000, ge=1, le=1_000_000)
    max_images: int = Field(2000, ge=1, le=1_000_000)
    previous: str | None = Field(
        None, description="Raw artifact of an earlier crawl: only what is new is fetched"
    )
    max_depth: int = Field(20, ge=0, description="Links between a seed and a page")
    max_pages_per_host: int | None = Field(
        None, ge=1, description="Pages of one host, at most; None: max_pages"
    )
    languages: tuple[str, ...] = Field(("en",), description="ISO 639-1 codes of pages to keep")
    min_entropy: float = Field(
        5.0, ge=0, description="Shannon entropy of a page's words, bits (article: > 5.0)"
    )
    max_ad_ratio: float = Field(0.1, ge=0, le=1, description="Ad elements per word")
    min_words: int = Field(20, ge=0, description="Words a page's main text needs")
    word_length: tuple[float, float] = Field(
        (3.0, 10.0), description="Mean characters a word, lowest and highest (Gopher)"
    )
    max_repeated_lines: float = Field(
        0.3, ge=0, le=1, description="Share of lines seen before on the page (Gopher)"
    )
    max_repeated_ngrams: float = Field(
        0.3,
        ge=0,
        le=1,
        description="Share of characters in repeated 5-word runs (Gopher: 0.15; listings in "
        "manuals have 0.2)",
    )
    min_relevance: float = Field(0.2, ge=-1, le=1, description="Topic score a page needs")
    licences: tuple[str, ...] = Field(
        ("CC0-1.0", "CC-BY-4.0", "CC-BY-SA-4.0", "PDDL-1.0", "MIT", "Apache-2.0", "own"),
        description="Licences images may have",
    )
    allow_unknown_licence: bool = False


class PlanSpec(CrawlRequest):
    """topics → crawlplan (task ``crawl_plan``)."""

    workers: int = Field(1, ge=1, le=MAX_CRAWL_WORKERS, description="Processes that share it")


class WorkSpec(CrawlRequest):
    """crawlplan → crawlpart: one worker's share (tasks ``crawl_work``)."""

    inputs: ClassVar[tuple[str, ...]] = ("plan", "previous")

    plan: str
    worker: int = Field(ge=1, le=MAX_CRAWL_WORKERS, description="Number of this worker, from 1")


class CrawlSpec(CrawlRequest):
    """topics → raw. With the plan of several workers only what they brought is put together."""

    inputs: ClassVar[tuple[str, ...]] = ("plan", "previous")

    plan: str | None = Field(None, description="crawlplan of this crawl; None: made on the way")


SHARD_IMAGES = 5000


class SanitizeRequest(StageSpec):
    """What a picture must be; the same for each shard and the whole."""

    raw: str
    previous: str | None = Field(None, description="Dataset of the parent LoRA (incremental)")
    min_side: int = Field(32, ge=1, description="Shorter side, pixels")
    max_side: int = Field(2048, ge=32, description="Shorter side of what is kept, pixels")
    max_aspect: float = Field(3.0, ge=1)
    ground: str = Field(
        "#ffffff", pattern=r"^#[0-9a-f]{6}$", description="Colour behind what is transparent"
    )
    max_text: float = Field(
        0.2, ge=0, le=1, description="Share of a picture under text, where a detector looks"
    )


class ShardSpec(SanitizeRequest):
    """raw → cleanpart: one shard's pictures, as far as each can be judged by itself."""

    inputs: ClassVar[tuple[str, ...]] = ("raw", "previous")

    shard: int = Field(ge=0, description="Number of this shard, from 0")
    shards: int = Field(ge=1, le=10_000)


class SanitizeSpec(SanitizeRequest):
    """raw → clean."""

    inputs: ClassVar[tuple[str, ...]] = ("raw", "advice", "previous", "parts")

    advice: str | None = Field(None, description="Evaluation whose advice a next attempt follows")
    parts: tuple[str, ...] = Field(
        (), description="cleanpart of every shard; none: they are made on the way"
    )
    shard_images: int = Field(SHARD_IMAGES, ge=1, description="Pictures a shard; bounds the memory")
    text_similarity: float = Field(
        0.85, ge=0, le=1, description="Text embeddings this close are duplicates (article)"
    )
    image_similarity: float = Field(
        0.97, ge=0, le=1, description="Image embeddings this close are duplicates"
    )
    min_alignment: float | None = Field(
        None, ge=-1, le=1, description="Floor on image–text cosine; None: the profile's, if any"
    )
    alignment_percentile: float = Field(2.0, ge=0, le=50, description="Worst share dropped, %")


class LabelSpec(StageSpec):
    """clean → dataset."""

    inputs: ClassVar[tuple[str, ...]] = ("clean", "advice")

    clean: str
    advice: str | None = None
    topics: tuple[Topic, ...] = Field(min_length=1, max_length=20)
    domain: Domain = "art"
    trigger: Name | None = Field(None, description="None: made unique by the stage")
    validation_share: float = Field(0.15, gt=0, lt=0.5)
    seed: int = 0


class TuneSpec(StageSpec):
    """dataset → plan."""

    inputs: ClassVar[tuple[str, ...]] = ("dataset", "advice")

    dataset: str
    advice: str | None = None
    base: str | None = Field(None, description="Name of a base in the profile; None: by domain")
    epochs: int = Field(10, ge=1, le=1000, description="Article: 10, and 2 more each attempt")
    max_minutes: float = Field(600.0, gt=0, description="Training time the plan may use")
    seed: int = 0


class TrainSpec(StageSpec):
    """dataset + plan → lora."""

    inputs: ClassVar[tuple[str, ...]] = ("dataset", "plan", "parent")

    dataset: str
    plan: str
    parent: str | None = Field(None, description="LoRA to go on from (incremental)")
    parent_checkpoint: str = Field(
        "lora.safetensors",
        pattern=r"^(checkpoints/)?[A-Za-z0-9_-]+\.safetensors$",
        description="Its file to go on from",
    )
    options: dict[str, JsonValue] = Field(
        default_factory=dict, description="Options of the training instead of the plan's, by name"
    )

    @field_validator("options")
    @classmethod
    def _known(cls, options: dict[str, JsonValue]) -> dict[str, JsonValue]:
        TrainOptions.model_validate(options)
        return options


class OptimiseSpec(StageSpec):
    """lora + its evaluation → build: the LoRA smaller or faster, by one step."""

    inputs: ClassVar[tuple[str, ...]] = ("lora", "evaluation")

    lora: str
    evaluation: str
    step: Step
    energy: float = Field(
        0.9, gt=0, le=1, description="truncate: share of each layer's change that stays"
    )
    pictures: int = Field(8, ge=1, le=100, description="Drawn before and after, to compare")
    steps: int = Field(20, ge=1, le=100, description="Denoising steps of each")


class EvaluateSpec(StageSpec):
    """lora + dataset → evaluation; with a build of the LoRA, the build is drawn with."""

    inputs: ClassVar[tuple[str, ...]] = ("lora", "dataset", "incumbent", "build")

    lora: str
    dataset: str
    build: str | None = Field(None, description="Build of the LoRA to judge in its place")
    incumbent: str | None = Field(None, description="Deployed LoRA that this one must beat")
    incumbent_checkpoint: str = Field(
        "lora.safetensors",
        pattern=r"^(checkpoints/)?[A-Za-z0-9_-]+\.safetensors$",
        description="Its deployed file",
    )
    threshold: float = Field(
        0.85, ge=0, le=1, description="What the lower end of the overall score must reach (article)"
    )
    prompts: int = Field(24, ge=4, le=1000, description="Prompts that are reported on")
    seeds: int = Field(1, ge=1, le=16, description="Image pairs a prompt")
    choosing: int = Field(
        8, ge=0, le=1000, description="Other prompts, to choose the checkpoint on; 0: the last one"
    )
    drift: int = Field(8, ge=2, le=100, description="Prompts whose pictures must stay the base's")
    audit_pictures: int = Field(
        56, ge=0, le=100_000, description="Pictures of the bias audit, at most; 0: not audited"
    )
    settings_prompts: int = Field(
        5, ge=0, le=100, description="Prompts to find recommended settings on; 0: none are found"
    )
    xyz_pictures: int = Field(
        18, ge=0, le=200, description="Pictures of checkpoint × strength × seed, at most; 0: none"
    )
    attacks: int = Field(
        8, ge=0, le=1000, description="Training captions drawn word for word, to provoke copies"
    )
    steps: int = Field(20, ge=1, le=200, description="Denoising steps")
    guidance: float = Field(4.0, ge=1, le=30)
    seed: int = 1234


class DeploySpec(StageSpec):
    """lora + evaluation → release.

    An evaluation with the verdict ``needs_person`` is only deployed with ``approved_by``.
    Always done anew: publishing is a side effect, and a release that was made once says
    nothing about what the serving app has today. Repeating it promotes the same version.
    """

    inputs: ClassVar[tuple[str, ...]] = ("lora", "evaluation")

    force: bool = Field(default=True, description="Publish even if the release artifact exists")
    lora: str
    evaluation: str
    target: Target = "local"
    approved_by: str | None = Field(
        None,
        min_length=1,
        max_length=300,
        pattern=r"^[^\x00-\x1f\x7f]+$",
        description="Person who answers for a release that no calibrated scorer passed, and when",
    )
    name: Name = Field(description="Adapter name users ask for")
    conf: dict[str, JsonValue] = Field(
        default_factory=dict, description="Conf of the run, kept in the catalog for retraining"
    )

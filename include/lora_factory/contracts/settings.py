"""The deployment's configuration: what an operator decides, and a run's conf never can.

Read once from the environment (``LORA_FACTORY_*``); secrets come the same way and are
never written anywhere.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, SecretStr, StringConstraints, ValidationError

from lora_factory.contracts.base import Contract
from lora_factory.contracts.cloud import (
    AwsAccess,
    AzureSettings,
    CloudRunSettings,
    LambdaSettings,
    SageMakerSettings,
)
from lora_factory.contracts.copyright import Policy
from lora_factory.errors import ConfigurationError

PREFIX = "LORA_FACTORY_"
BucketUrl = Annotated[
    str, StringConstraints(pattern=r"^(?:(?:s3|gs|az)://[^/@]+(?:/.*)?|file:///.+)$")
]
"""Of an object store, without a password in it: credentials come from the environment."""
PAIRS = frozenset({
    "folders",
    "buckets",
    "aws",
    "aws_lambda",
    "aws_sagemaker",
    "cloud_run",
    "azure",
})
"""Variables that hold ``name=value,name=value``."""


class Settings(Contract):
    """One field for each ``LORA_FACTORY_<NAME>`` variable.

    Lists are comma-separated; ``folders`` is ``name=path,name=path``, ``buckets`` alike with URLs,
    and what a cloud target needs alike with the fields of :mod:`lora_factory.contracts.cloud`.
    """

    store: str = Field("", description="Artifact store URL: file:///…, s3://bucket/prefix, …")
    catalog: SecretStr = Field(SecretStr(""), description="Catalog DSN (postgresql://…)")
    scratch: Path = Field(Path("~/.cache/lora_factory"), description="Local working folder")
    cache_gb: float = Field(
        20.0, ge=0, description="Images and captions encoded for training, kept in `scratch`; GB"
    )
    profiles: Path | None = Field(None, description="Folder with further profile TOML files")
    crawl_hosts: tuple[str, ...] = Field(
        (), description="host or host:port beyond the public web that the crawler may reach"
    )
    crawl_public: bool = Field(default=True, description="Whether it may reach the public web")
    crawl_delay: float = Field(
        1.0, ge=0, le=3600, description="Least seconds between requests to a host not listed"
    )
    crawl_timeout: float = Field(
        20.0, gt=0, le=600, description="Seconds a request may take, to its last byte"
    )
    crawl_redis: SecretStr = Field(
        SecretStr(""), description="redis:// URL of the frontier that several workers share"
    )
    openverse_url: str = Field("https://api.openverse.org/v1/images/", description="Its search")
    openverse_token: SecretStr = Field(SecretStr(""), description="Access token; empty: anonymous")
    wikimedia_url: str = Field(
        "https://commons.wikimedia.org/w/api.php", description="api.php of source=wikimedia"
    )
    wordnet: Path | None = Field(
        None, description="Folder with WordNet's index.noun and data.noun (topic expansion)"
    )
    conceptnet_file: Path | None = Field(
        None, description="ConceptNet in a file, made by `python -m lora_factory topics import`"
    )
    conceptnet_url: str = Field("https://api.conceptnet.io", description="Its public API")
    wikidata_url: str = Field(
        "https://www.wikidata.org/w/api.php", description="api.php of the graph wikidata"
    )
    folders: dict[str, Path] = Field(
        default_factory=dict, description="Name → folder that source=folder may read"
    )
    buckets: dict[str, BucketUrl] = Field(
        default_factory=dict, description="Name → s3://…, gs://…, az://… of source=bucket"
    )
    user_agent: str = Field(
        "LoRAFactoryBot/0.1 (+https://github.com/lora-factory/lora-factory)",
        description="Sent with every request; put a contact address in it",
    )
    serve_url: str = Field("", description="Base URL of the serving app that `local` deploys to")
    serve_token: SecretStr = Field(SecretStr(""), description="Admin key of the serving app")
    serve_public: int = Field(
        0,
        ge=0,
        le=100_000,
        description="Requests a minute an address may send without an API key; 0: none",
    )
    hub_namespace: str = Field(
        "",
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,95}$|^$",
        description="User or organisation on the hub that the target `hub` publishes under",
    )
    hub_private: bool = Field(default=True, description="Whether new repositories are private")
    releases: BucketUrl | None = Field(
        None, description="Bucket that cloud targets take releases from: s3://, gs://, az://"
    )
    cloud_prefix: str = Field(
        "lora-factory",
        pattern=r"^[a-z]([a-z0-9-]{0,18}[a-z0-9])?$",
        description="Services in a cloud are named <prefix>-<adapter>",
    )
    cloud_canary: int = Field(
        10, ge=0, lt=50, description="Percent of the traffic that tries a version first; 0: none"
    )
    aws: AwsAccess | None = Field(None, description="Keys of targets aws-lambda, aws-sagemaker")
    aws_lambda: LambdaSettings | None = Field(None, description="Target aws-lambda")
    aws_sagemaker: SageMakerSettings | None = Field(None, description="Target aws-sagemaker")
    cloud_run: CloudRunSettings | None = Field(None, description="Target cloud-run")
    azure: AzureSettings | None = Field(None, description="Target azure")
    protected: Path | None = Field(
        None, description="Index of protected works, made by `python -m lora_factory protect`"
    )
    protected_policy: Policy = Field(
        "block", description="What happens to a picture that repeats a protected work: block, flag"
    )
    signing_key: Path | None = Field(
        None, description="EC P-256 private key (PEM) of releases and images; chain.pem beside it"
    )
    watermark_key: SecretStr = Field(
        SecretStr(""), description="Who has it can detect the watermark; empty: anyone can"
    )
    llm_url: str = Field(
        "",
        pattern=r"^(https?://[^\s@]+)?$",
        description="OpenAI-compatible endpoint of a `labeler` of kind llm; empty: zero-shot",
    )
    llm_key: SecretStr = Field(SecretStr(""), description="Its key")
    llm_model: str = Field("", max_length=200, description="Its model; empty: the profile's")
    llm_concurrency: int = Field(4, ge=1, le=256, description="Questions to it at a time")
    llm_per_minute: int = Field(0, ge=0, description="Requests a minute, at most; 0: no limit")
    llm_timeout: float = Field(60.0, gt=0, le=3600, description="Seconds an answer may take")
    llm_max_tokens: int = Field(
        5_000_000, ge=1, description="Tokens a labelling may spend; the rest is labelled without"
    )
    llm_max_usd: float = Field(
        0.0, ge=0, description="US dollars it may spend, where the price is known; 0: no limit"
    )
    taxonomy: Path | None = Field(
        None, description="TOML file with the labels there are; None: the shipped one"
    )
    min_images: int = Field(8, ge=4, description="Fewest images a dataset may have")
    threads: int = Field(0, ge=0, description="CPU threads a stage may use; 0 = all cores")
    train_processes: int = Field(
        1, ge=0, le=64, description="Processes of a training, a GPU each; 0: as many as GPUs"
    )
    run_id: str = Field(
        "", max_length=250, description="Of the run that a stage is part of; Airflow's task says it"
    )

    @classmethod
    def from_environment(cls, environ: Mapping[str, str] | None = None) -> Settings:
        """Read ``LORA_FACTORY_*``.

        Raises:
            ConfigurationError: a variable has an unusable value; names it, not its value.
        """
        environ = os.environ if environ is None else environ
        values: dict[str, Any] = {}
        for name in cls.model_fields:
            text = environ.get(PREFIX + name.upper(), "")
            if not text:
                continue
            if name in PAIRS:
                values[name] = dict(pair.split("=", 1) for pair in _split(text) if "=" in pair)
            elif name == "crawl_hosts":
                values[name] = _split(text)
            else:
                values[name] = text
        try:
            return cls.model_validate(values)
        except ValidationError as err:
            first = err.errors(include_input=False, include_url=False)[0]
            field = PREFIX + str(first["loc"][0]).upper()
            where = ".".join(str(part) for part in first["loc"][1:])
            what = f"{where}: {first['msg']}" if where else first["msg"]
            msg = f"environment variable {field}: {what}; correct it and restart"
            raise ConfigurationError(msg) from None


def _split(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(",") if part.strip())

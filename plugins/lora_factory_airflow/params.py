"""The trigger form: a typed Param for each field of RunConf.

Types, bounds, choices and defaults come from RunConf's JSON schema; here are only the words
a person reads.
"""

from __future__ import annotations

from typing import Any

from airflow.sdk import Param

from lora_factory.contracts.run import RunConf

WHAT, DATA, MODEL, RUN = "What to learn", "Data", "Model and training", "Run"

SOURCES = (
    "web: crawl from the seeds, following links. urls: the seeds alone. sitemap: what the sitemaps "
    "in the seeds list. openverse, wikimedia: search openly licensed pictures by topic, no seeds "
    "needed. folder, bucket: images the deployment offers."
)

# field → (section, title, description)
WORDS: dict[str, tuple[str, str, str]] = {
    "topics": (WHAT, "Topics", "What the LoRA should learn, one topic a line."),
    "name": (WHAT, "Adapter name", "Name users ask for. Empty: made from the first topic."),
    "trigger": (WHAT, "Trigger word", "Word that calls the style. Empty: a unique one is made."),
    "domain": (WHAT, "Domain", "Kind of pictures; chooses base model and target modules."),
    "source": (DATA, "Source", SOURCES),
    "seeds": (
        DATA,
        "Seed URLs",
        "Pages (web, urls) or sitemaps the crawl starts from, one a line.",
    ),
    "folder": (DATA, "Folder", "Name of a folder the deployment offers (source = folder)."),
    "bucket": (DATA, "Bucket", "Name of a bucket the deployment offers (source = bucket)."),
    "max_pages": (DATA, "Most pages", "The crawl stops after this many pages."),
    "max_images": (DATA, "Most images", "The crawl stops after this many images."),
    "crawl_workers": (
        DATA,
        "Crawl workers",
        "Processes that crawl together; more than one needs LORA_FACTORY_CRAWL_REDIS.",
    ),
    "languages": (DATA, "Languages", "ISO 639-1 codes of pages to keep, one a line."),
    "graphs": (
        DATA,
        "Knowledge graphs",
        "Asked in this order for further words to look for, one a line: wordnet, conceptnet_local "
        "(what the deployment has of them), wikidata, conceptnet (public). Empty: the first two.",
    ),
    "graph_depth": (DATA, "Depth in graphs", "Edges between a topic and a further word, at most."),
    "graph_fan_out": (DATA, "Fan-out in graphs", "Neighbours of a word that are looked at."),
    "allow_unknown_licence": (
        DATA,
        "Allow unknown licences",
        "Also use images without a licence statement. You answer for the right to use them.",
    ),
    "as_of": (DATA, "Crawl date", "Same date, same crawl. Empty: the day of the run."),
    "profile": (MODEL, "Model profile", "Which models fill which role."),
    "base": (MODEL, "Base model", "A base of the profile. Empty: the first for the domain."),
    "epochs": (MODEL, "Epochs", "Of the first attempt; each further one gets 2 more."),
    "threshold": (MODEL, "Pass mark", "Overall score an evaluation needs to be deployed."),
    "attempts": (MODEL, "Attempts", "How often to try before giving up."),
    "parent": (MODEL, "Parent LoRA", "Manifest URI of a LoRA to go on from. Empty: a new one."),
    "incumbent": (
        MODEL,
        "Model to beat",
        "Manifest URI of the deployed model's evaluation, which must be beaten. Empty: none.",
    ),
    "start_from": (
        RUN,
        "Start from",
        "Manifest URI of an artifact; the stages before it are left.",
    ),
    "stop_after": (RUN, "Stop after", "Last stage to run. Empty: deploy."),
    "target": (
        RUN,
        "Deploy target",
        "Where a LoRA that passed is published. The deployment must be set up for it.",
    ),
    "approve_plan": (RUN, "Approve the plan", "Wait for a person's approval before anything runs."),
    "force": (RUN, "Force", "Make every artifact anew, even if it exists."),
}


def run_params() -> dict[str, Param]:
    """Params in the order of the form."""
    schema = RunConf.model_json_schema()
    return {name: _param(name, schema) for name in WORDS}


def _param(name: str, schema: dict[str, Any]) -> Param:
    section, title, description = WORDS[name]
    field = _flat(schema["properties"][name])
    default = {} if name in schema["required"] else {"default": field.pop("default")}
    return Param(description=description, title=title, section=section, **field, **default)


def _flat(field: dict[str, Any]) -> dict[str, Any]:
    """pydantic's ``anyOf [T, null]`` → ``type: [T, null]``, which the form understands."""
    field = {k: v for k, v in field.items() if k not in {"title", "description", "anyOf"}} | {
        key: value
        for choice in field.get("anyOf", ())
        if choice["type"] != "null"
        for key, value in choice.items()
    }
    if "const" in field:
        field["enum"] = [field.pop("const")]
    if field.get("default", ...) in ("", []):
        field["default"] = None  # the form takes an empty field of a plain type for a missing one
    if field.get("default", ...) is None:
        field["type"] = [field["type"], "null"]
        if "enum" in field:
            field["enum"] = [*field["enum"], None]
    return field

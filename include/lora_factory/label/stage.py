"""clean → dataset: labels, trigger word, captions, split (article, 2.2).

Writes ``train/`` and ``validation/`` (pictures and ``metadata.jsonl``), ``dataset.json``,
embeddings, ``audit.parquet``, the card ``README.md`` and the page ``report.html``.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from lora_factory.contracts.evaluation import Advice
from lora_factory.contracts.manifest import Kind
from lora_factory.contracts.specs import LabelSpec
from lora_factory.contracts.stage import StageContext, read_advice
from lora_factory.errors import ConfigurationError
from lora_factory.guard.images import image_filter
from lora_factory.label import captions, trigger
from lora_factory.label.answered import overlay, safe_answers
from lora_factory.label.embeddings import create_embeddings
from lora_factory.label.items import Items, read_items
from lora_factory.label.keywords import words_of
from lora_factory.label.labels import Labeler, Labelled, style_of_set, theme_of_set
from lora_factory.label.llm import Answered, LlmLabeler
from lora_factory.label.made import Made, SetNames, dataset_records, report_of, set_info, write_made
from lora_factory.label.present import Presented, present
from lora_factory.label.report import LabelReport
from lora_factory.label.split import near_duplicates, split
from lora_factory.label.taxonomy import Taxonomy, load_taxonomy, taxonomy_conditions
from lora_factory.label.words import Given, Words, choose_words
from lora_factory.models.llm import endpoint_conditions
from lora_factory.models.loaders import image_text_scorer, limit_threads, text_embedder
from lora_factory.models.profiles import Profile, load_profile

if TYPE_CHECKING:
    from lora_factory.contracts.settings import Settings
    from lora_factory.contracts.stage import LocalArtifact
    from lora_factory.models.roles import ImageTextScorer, TextEmbedder
    from lora_factory.models.tokenizers import Tokenizer

log = logging.getLogger(__name__)
KIND: Kind = "dataset"
VERSION = 6
SPEC = LabelSpec


def roles(spec: LabelSpec) -> tuple[str, ...]:
    """All bases: the trigger is checked against each one's tokenizer.

    The content filter decides which dropped pictures the page may show.
    """
    del spec
    return ("labeler", "text_embedder", "image_text_scorer", "bases", "content_filter")


def conditions(_inputs: Mapping[str, LocalArtifact], settings: Settings) -> dict[str, str]:
    """What of the deployment decides the labels: its endpoint, its taxonomy."""
    return endpoint_conditions(settings) | taxonomy_conditions(settings)


def run(spec: LabelSpec, ctx: StageContext) -> LabelReport:
    """Label, caption, split and write.

    Raises:
        SpecError: the trigger that was asked for means something already.
        DataError: fewer images than ``min_images`` are left.
        ArtifactError: the clean artifact or the advice can't be read.
        ConfigurationError: the profile's labeler is of a kind there is no code for, or the
            deployment's taxonomy can't be used.
    """
    limit_threads(ctx.settings)
    tools = _tools(spec, ctx)
    if spec.trigger is not None:  # before any work
        taken = trigger.common_words(tools.taxonomy)
        trigger.check_trigger(spec.trigger, tools.tokenizers, taken)
    items = read_items(ctx, tools.scorer)
    word = spec.trigger or _new_trigger(spec, items, tools)
    found = [captions.subject_of(record.text, word) for record in items.records]
    labelled, answered = _labelled(spec, ctx, tools, items, found)
    words = _words(spec, tools, items, labelled, found, answered)
    made = _made(spec, tools, items, labelled, words, word)
    audit = write_made(made, ctx)
    report = report_of(made, _about(tools, answered, made, spec))
    shown = Presented(made.info, report, made.records, made.held, made.duplicates, audit)
    present(shown, tools.taxonomy, image_filter(tools.profile, ctx.settings), ctx)
    _tell(report)
    return report


@dataclass(frozen=True)
class Tools:
    """What labelling works with."""

    profile: Profile
    asks: bool
    taxonomy: Taxonomy
    tokenizers: Mapping[str, Tokenizer]
    scorer: ImageTextScorer
    embedder: TextEmbedder
    advice: Advice

    @property
    def labeler(self) -> Labeler:
        """The zero-shot labeler, every profile's fallback."""
        return Labeler(self.taxonomy, self.scorer, self.embedder)


def _tools(spec: LabelSpec, ctx: StageContext) -> Tools:
    profile = load_profile(spec.profile, ctx.settings)
    return Tools(
        profile,
        _asks_llm(profile, ctx.settings),
        load_taxonomy(ctx.settings.taxonomy),
        trigger.load_tokenizers(profile),
        image_text_scorer(profile),
        text_embedder(profile),
        read_advice(ctx),
    )


def _labelled(
    spec: LabelSpec, ctx: StageContext, tools: Tools, items: Items, found: Sequence[str]
) -> tuple[Labelled, Answered | None]:
    """Labels of all items; an LLM's where one is asked, and what it was asked."""
    titles = [record.page_title for record in items.records]
    labelled = tools.labeler.generate_tags(items.looks, found, titles, spec.topics)
    ctx.check_stop()
    if not tools.asks:
        return labelled, None
    answered = _ask(spec, ctx, items, tools)
    return overlay(labelled, answered.answers, tools.taxonomy), answered


def _ask(spec: LabelSpec, ctx: StageContext, items: Items, tools: Tools) -> Answered:
    entry = tools.profile.role("labeler")
    labeler = LlmLabeler(entry, tools.taxonomy, ctx, ctx.inputs["clean"].path)
    found = labeler.ask(items.records, spec.topics)
    answers, unsafe = safe_answers(found.answers, tools.embedder)
    lost = found.use.fallback | ({"unsafe_words": unsafe} if unsafe else {})
    return Answered(answers, found.use.model_copy(update={"fallback": lost}))


def _words(
    spec: LabelSpec,
    tools: Tools,
    items: Items,
    labelled: Labelled,
    found: Sequence[str],
    answered: Answered | None,
) -> Words:
    """Subjects and keywords of all items."""
    given = Given(
        items.records,
        found,
        spec.topics,
        answered.answers if answered is not None else {},
        vision=tools.profile.role("labeler").vision,
        closest=partial(tools.labeler.closest, items.looks, labelled),
    )
    return choose_words(given, labelled, tools.taxonomy, recaption=tools.advice.recaption)


def _made(
    spec: LabelSpec, tools: Tools, items: Items, labelled: Labelled, words: Words, word: str
) -> Made:
    """What becomes of the items."""
    duplicates = near_duplicates(items.looks.vectors, items.looks.prints)
    told = [(r.page_url, s) for r, s in zip(items.records, words.subjects, strict=True)]
    named = SetNames(
        word,
        style_of_set(labelled.style, items.looks.tones, spec.topics),
        theme_of_set(labelled.themes, tools.taxonomy, spec.topics),
    )
    names = [record.sha256 for record in items.records]
    parts = split(names, duplicates, told, spec.validation_share, spec.seed)
    return Made(
        items,
        labelled,
        words,
        duplicates,
        parts,
        set_info(spec, items, words, parts, named),
        dataset_records(items, labelled, words, word),
        create_embeddings(
            items.looks.vectors,
            words.subjects,
            tools.embedder.encode(words.subjects),
            tools.scorer,
        ),
    )


def _about(tools: Tools, answered: Answered | None, made: Made, spec: LabelSpec) -> dict[str, Any]:
    """What the report says of how it was done."""
    word = made.info.trigger
    return {
        "trigger_given": spec.trigger is not None,
        "trigger_tokens": {n: len(each.tokenize(word)) for n, each in tools.tokenizers.items()},
        "scorer": tools.scorer.name,
        "labeler": "zero-shot" if answered is None else "llm",
        "llm": None if answered is None else answered.use,
        "followed_advice": followed_advice(tools.advice, made.words),
    }


def followed_advice(advice: Advice, words: Words) -> tuple[str, ...]:
    """What advice changed here, for the report (single images are sanitize's)."""
    if not advice.recaption:
        return ()
    made = words.sources.count("composed")
    return (f"composed {made} of {len(words.sources)} captions anew, where the text was poor",)


def _asks_llm(profile: Profile, settings: Settings) -> bool:
    """Whether an LLM labels first; the zero-shot labeler is every profile's fallback."""
    kind = profile.role("labeler").kind
    if kind not in {"zero-shot", "llm"}:
        msg = f"role labeler can't be filled by kind {kind!r}; use llm or zero-shot"
        raise ConfigurationError(msg)
    if kind == "llm" and not settings.llm_url:
        log.warning("no LLM endpoint (LORA_FACTORY_LLM_URL): labelled zero-shot instead")
    return kind == "llm" and bool(settings.llm_url)


def _new_trigger(spec: LabelSpec, items: Items, tools: Tools) -> str:
    taken = set(trigger.common_words(tools.taxonomy))
    for text in (*spec.topics, *(record.text for record in items.records)):
        taken.update(words_of(text))
    shas = [record.sha256 for record in items.records]
    return trigger.make_trigger(spec.topics, shas, tools.tokenizers, taken)


def _tell(report: LabelReport) -> None:
    for change in report.followed_advice:
        log.info("followed advice: %s", change)
    log.info(
        "trigger %r, style %s (%s), theme %s; %d train, %d validation; keywords %s",
        report.trigger,
        report.style,
        report.style_source,
        report.theme,
        report.train,
        report.validation,
        ", ".join(report.keywords),
    )
    if report.validation == 0:
        log.warning("all images are near-duplicates of each other: nothing could be held out")
    if report.theme_weight == report.style_weight == 0:
        log.info("the scorer knows these pictures or the labels too badly: words decide labels")

"""Stats of a clean artifact."""

from __future__ import annotations

from pydantic import Field

from lora_factory.contracts.base import StageReport
from lora_factory.imaging.agreement import Agreement


class SanitizeReport(StageReport):
    """What sanitizing found.

    Reason codes in ``counts.dropped``: ``not_an_image``, ``corrupt``, ``too_many_pixels``,
    ``animated``, ``missing_file`` (bytes); ``too_small``, ``extreme_aspect``, ``uniform``,
    ``too_dark``, ``too_light``, ``blurred``, ``text_heavy`` (picture);
    ``unsafe_image``, ``unsafe_text`` (content rules); ``taken_down``, ``protected_work``
    (rights); ``exact_duplicate``, ``near_duplicate`` (perceptual), ``semantic_duplicate``
    (embeddings), ``text_duplicate`` (long texts); ``below_alignment_floor``,
    ``worst_alignment`` (scorer); ``advised_caption_mismatch``, ``advised_off_style``,
    ``advised_copied`` (named by the advice of the evaluation before).
    """

    shards: int = Field(1, ge=1, description="Parts that the pictures were judged in")
    replayed: int = Field(0, ge=0, description="Kept images that come from the previous dataset")
    text_sources: dict[str, int] = Field(default_factory=dict, description="Kept, by source")
    text_changes: dict[str, int] = Field(
        default_factory=dict, description="Kept texts that a repair step changed, by step"
    )
    agreement: Agreement = Agreement(pairs=0)
    alignment_percentile: float = Field(0.0, ge=0, description="Worst share to drop, %")
    alignment_floor: float | None = Field(None, description="Cosine that no pair may be below")
    recaptioned: int = Field(0, ge=0, description="Poor captions that a captioner replaced")
    alignment_note: str = Field("", description="Whether alignment was acted on, and why not")
    median_side: int = Field(0, ge=0, description="Shorter side of kept images, pixels")
    scorer: str = ""
    text_note: str = Field("", description="Who looked for writing in the pictures, or why nobody")
    duplicate_recall: float = Field(
        1.0, ge=0, le=1, description="Estimated share of close pairs found; 1: all were compared"
    )
    protected_works: int = Field(0, ge=0, description="Images that repeat one, dropped or not")
    followed_advice: tuple[str, ...] = Field((), description="Each change that advice made")

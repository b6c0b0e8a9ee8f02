"""What the copyright check finds, by the article's plain rule and by the calibrated one."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from lora_factory.contracts.base import Contract

Policy = Literal["block", "flag"]
"""``block``: a picture that repeats a protected work is not used, and closes the evaluation's
gate. ``flag``: it is used, and said so."""


class CopyHit(Contract):
    """One picture and the work nearest to it."""

    file_name: str = Field(description="The picture, relative to its artifact")
    work: str = Field(description="File of the training image, or name of the protected work")
    similarity: float = Field(ge=-1.001, le=1.001, description="Cosine of the embeddings")
    distance: int = Field(ge=0, le=64, description="Hamming distance of the hashes, bits of 64")
    plain: bool = Field(description="Plain rule: some work is closer than a cosine of 0.9")
    copied: bool = Field(description="Calibrated rule")
    verbatim: bool = Field(description="Calibrated rule, and both views are convinced")


class CopyrightCheck(Contract):
    """Pictures of one LoRA against one set of works.

    The ``…_high`` fields are upper ends of one-sided 95% intervals (Clopper–Pearson): what
    the share of copies may still be, given what was looked at. With 0 hits in 64 pictures
    it is 4.6%, in 300 it is 1.0%.
    """

    against: Literal["training", "protected"]
    works: int = Field(ge=0, description="Works that were compared with")
    n: int = Field(ge=0, description="Pictures looked at")
    plain_hits: int = Field(ge=0, description="Pictures closer than a cosine of 0.9 to a work")
    plain_high: float = Field(ge=0, le=1)
    calibrated_hits: int = Field(ge=0, description="Pictures that repeat a work")
    calibrated_high: float = Field(ge=0, le=1)
    verbatim_hits: int = Field(ge=0, description="Those on which embedding and hash are convinced")
    chance: float = Field(ge=0, le=1, description="Originals that may be taken for copies, share")
    cosine_cut: float = Field(ge=-1, le=1, description="Cosine that convinces, calibrated")
    bits_cut: int = Field(ge=0, le=64, description="Hash distance that convinces, calibrated")
    calibrated_on: int = Field(ge=0, description="Originals the cuts were read from")
    policy: Policy = "block"
    passed: bool = Field(
        description="Policy flag; or no verbatim hit, and no more hits than originals would give"
    )
    worst: tuple[CopyHit, ...] = Field((), description="Closest first, at most 8")
    note: str = ""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if max(self.plain_hits, self.calibrated_hits, self.verbatim_hits) > self.n:
            msg = "more hits than pictures"
            raise ValueError(msg)
        return self

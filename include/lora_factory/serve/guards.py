"""What the engine asks before it draws and before a picture leaves: one loader for both."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from lora_factory.guard.meaning import PromptFilter, prompt_filter
from lora_factory.guard.output import OutputGuard, output_guard

if TYPE_CHECKING:
    from lora_factory.contracts.settings import Settings
    from lora_factory.models.profiles import Profile


@dataclass(frozen=True)
class Guards:
    """The prompt filter and the output guard of a serving app."""

    prompts: PromptFilter
    pictures: OutputGuard


def load_guards(profile: Profile, settings: Settings) -> Guards:
    """Both, or an error: with one missing nothing is drawn.

    Raises:
        ConfigurationError: the profile doesn't fill a role that a guard needs.
        ModelError: a guard's model is missing, damaged, or not the pinned one.
    """
    return Guards(prompt_filter(profile), output_guard(profile, settings))

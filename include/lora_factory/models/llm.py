"""Role ``labeler``, kind ``llm``: a chat model behind an OpenAI-compatible endpoint.

What is asked is the caller's; here is how: the schema with every request, retries with
back-off for what passes (429 with ``Retry-After``, 5xx, timeouts, cut connections), and counts.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from lora_factory.errors import ConfigurationError

if TYPE_CHECKING:
    from pydantic import BaseModel

    from lora_factory.contracts.settings import Settings
    from lora_factory.models.profiles import RoleModel

RETRIES = 4
"""Of one request; waits 0.5 s and twice as long each time, or what ``Retry-After`` says."""
MAX_OUTPUT_TOKENS = 4000
"""Of one answer; reasoning models think within it, too."""


@dataclass
class ChatModel:
    """One endpoint and one model, as long as a labelling lasts. Use as an async context."""

    entry: RoleModel
    settings: Settings
    requests: int = field(default=0, init=False)
    """HTTP requests sent, retries among them."""
    _client: Any = field(default=None, init=False, repr=False)

    @property
    def name(self) -> str:
        """The model's name at the endpoint."""
        return self.settings.llm_model or self.entry.endpoint_model

    async def __aenter__(self) -> ChatModel:
        from httpx2 import AsyncClient
        from openai import AsyncOpenAI

        self._client = AsyncOpenAI(
            base_url=self.settings.llm_url,
            api_key=self.settings.llm_key.get_secret_value() or "none",  # local servers need none
            max_retries=RETRIES,
            timeout=self.settings.llm_timeout,
            http_client=AsyncClient(event_hooks={"request": [self._count]}),
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._client.close()

    async def _count(self, _request: object) -> None:
        self.requests += 1

    def agent(self, answer: type[BaseModel], instructions: str, name: str) -> Any:
        """An agent that answers with ``answer`` and is told once what is wrong with it.

        Args:
            answer: the closed schema, sent with each request.
            instructions: the system's words; the same for every question.
            name: of the schema.
        """
        from pydantic_ai import Agent, NativeOutput, PromptedOutput, ToolOutput
        from pydantic_ai.models.openai import OpenAIChatModel
        from pydantic_ai.providers.openai import OpenAIProvider

        kinds: dict[str, Any] = {
            "native": NativeOutput,
            "tool": ToolOutput,
            "prompted": PromptedOutput,
        }
        return Agent(
            OpenAIChatModel(self.name, provider=OpenAIProvider(openai_client=self._client)),
            output_type=kinds[self.entry.output](answer, name=name),
            instructions=instructions,
            retries=1,
            model_settings={"max_tokens": MAX_OUTPUT_TOKENS},
        )


def chat_model(entry: RoleModel, settings: Settings) -> ChatModel:
    """The endpoint's model.

    Raises:
        ConfigurationError: neither the deployment nor the profile names one.
    """
    model = ChatModel(entry, settings)
    if not model.name:
        msg = (
            "role labeler of kind llm names no model: set endpoint_model or LORA_FACTORY_LLM_MODEL"
        )
        raise ConfigurationError(msg)
    return model


def endpoint_conditions(settings: Settings) -> dict[str, str]:
    """What of the deployment decides an LLM's labels, beside the profile; never the key.

    Budgets are among it: what they cut off is labelled otherwise.
    """
    if not settings.llm_url:
        return {}
    where = urlsplit(settings.llm_url).netloc
    return {
        "llm": f"{settings.llm_model or 'of the profile'} at {where}",
        "llm_budget": f"{settings.llm_max_tokens} tokens, {settings.llm_max_usd:g} USD",
    }

"""Topics → terms: see :func:`expand`."""

from __future__ import annotations

from collections.abc import Sequence

from lora_factory.contracts.expansion import Expansion, ExpansionSpec, alone
from lora_factory.contracts.settings import Settings
from lora_factory.models.roles import TextEmbedder


def expand(
    topics: Sequence[str],
    spec: ExpansionSpec,
    settings: Settings,
    embedder: TextEmbedder | None,
) -> Expansion:
    """Topics → the topics and what graphs name beside them; never fails because one is down.

    Args:
        topics: of the run, at least one.
        spec: graphs, depth, limits, time.
        settings: the deployment: endpoints, data files, allowed hosts, cache folder.
        embedder: judges whether a term is still about its topic; None: nothing can, so the
            topics stay alone.
    """
    del spec, settings, embedder
    return alone(tuple(topics))

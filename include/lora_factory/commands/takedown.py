"""Find everything that contains an item or was made with it, and mark it.

The item is the URL of an image, the URL of the page it was found on, or the sha256 of its
original bytes. Without --mark nothing changes. With it, later runs leave the item out
(reason taken_down), deploy refuses what was made with it, and nothing marked is promoted. What
is in service stays there until somebody retires it: the command says how.
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Iterator
from pathlib import Path

from lora_factory.contracts.settings import Settings
from lora_factory.contracts.takedown import Reach
from lora_factory.errors import ConfigurationError, SpecError

log = logging.getLogger(__name__)
HELP = "what an item that must go is in"
MAX_ITEM = 2000


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("item", help="URL of an image or a page, or sha256 of an image")
    parser.add_argument("--mark", action="store_true", help="write it to the catalog")
    parser.add_argument("--reason", default="", help="kept with the mark")
    parser.add_argument("--json", type=Path, help="write what was found here, too")


def run(args: argparse.Namespace, settings: Settings) -> int:
    """Search, print, mark; status 1 where a part of the store could not be searched.

    Raises:
        SpecError: no item, or one that is too long.
        ConfigurationError: no store, or --mark without a catalog.
        ServiceUnavailable: store or catalog did not answer.
    """
    from lora_factory.store.artifacts import open_store
    from lora_factory.store.catalog import Catalog
    from lora_factory.store.takedown import find_reach

    dsn = settings.catalog.get_secret_value()
    catalog = Catalog(dsn) if dsn else None
    if args.mark and catalog is None:
        msg = "a mark is kept in the catalog: set LORA_FACTORY_CATALOG"
        raise ConfigurationError(msg)
    reach = find_reach(open_store(settings), catalog, spelled(args.item))
    if args.mark and catalog is not None:
        catalog.mark(reach, args.reason)
        reach = reach.model_copy(update={"marked": True})
    if args.json is not None:
        args.json.write_text(reach.model_dump_json(indent=1) + "\n", encoding="utf-8")
    sys.stdout.write("\n".join(table(reach)) + "\n")
    if reach.unreadable:
        log.error("%d artifacts could not be searched; see above", len(reach.unreadable))
    return 1 if reach.unreadable else 0


def spelled(item: str) -> str:
    """The item as records spell it: a canonical URL, or a sha256 in lower case.

    Raises:
        SpecError: empty or too long.
    """
    from lora_factory.crawl.links import canonical_url

    item = item.strip()
    if not item or len(item) > MAX_ITEM:
        msg = f"an item is a URL or a sha256 of 1 to {MAX_ITEM} characters"
        raise SpecError(msg)
    bare = item.lower().removeprefix("sha256:")
    if len(bare) == 64 and not set(bare) - set("0123456789abcdef"):
        return bare
    return canonical_url(item) or item


def table(reach: Reach) -> Iterator[str]:
    """What a person reads; crawled text is shown with its control characters escaped."""
    yield f"{_plain(reach.item)}: images {len(reach.images)}, artifacts {len(reach.artifacts)}"
    yield from (f"  image       {sha256}" for sha256 in reach.images)
    for find in reach.artifacts:
        yield f"  {find.kind:<11} {find.key}  {find.why}"
    for model in reach.models:
        where = f", in service on {', '.join(model.live_on)}" if model.live_on else ""
        yield f"  model       {model.name} {model.version}  {model.state}{where}"
    if not reach.catalog:
        yield "models are not known: no catalog is configured (LORA_FACTORY_CATALOG)"
    yield from (f"  not searched: {uri}" for uri in reach.unreadable)
    if not (reach.artifacts or reach.models or reach.images):
        yield "nothing here contains it"
    yield _what_now(reach)
    for model in reach.models:
        if model.live_on:
            path = f"/v1/adapters/{model.name}?version={model.version}"
            yield (
                f"to retire {model.name}: curl -X DELETE -H "
                f'"Authorization: Bearer $LORA_FACTORY_SERVE_TOKEN" '
                f'"$LORA_FACTORY_SERVE_URL{path}"'
            )


def _what_now(reach: Reach) -> str:
    if reach.marked:
        return "marked: later runs leave it out, and nothing made with it is deployed or promoted"
    return "nothing was changed; --mark takes it down"


def _plain(text: str) -> str:
    return "".join(char if char.isprintable() else repr(char)[1:-1] for char in text)

"""Knowledge graphs that a crawl's topics are expanded over.

``topics import DUMP --out FILE`` reads ConceptNet's dump (conceptnet-assertions-*.csv.gz) into a
file that LORA_FACTORY_CONCEPTNET_FILE then names. ``topics expand TOPIC …`` shows what the graphs
of this deployment make of topics: the terms, and what was left out.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from pathlib import Path
from typing import get_args

from lora_factory.contracts.expansion import Expansion, ExpansionSpec, Graph
from lora_factory.contracts.settings import Settings

HELP = "knowledge graphs for topic expansion"


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    actions = parser.add_subparsers(dest="action", required=True)
    reading = actions.add_parser("import", help="ConceptNet's dump → a file to look words up in")
    reading.add_argument("dump", metavar="DUMP", type=Path, help="conceptnet-assertions-*.csv.gz")
    reading.add_argument("--out", type=Path, required=True, help="SQLite file to make")
    reading.add_argument(
        "--languages", default="en", help="of the words to keep, comma-separated (default: en)"
    )
    showing = actions.add_parser("expand", help="what the graphs make of topics")
    showing.add_argument("topics", metavar="TOPIC", nargs="+")
    defaults = ExpansionSpec()
    showing.add_argument("--graphs", default=",".join(defaults.graphs), help="in this order")
    showing.add_argument("--depth", type=int, default=defaults.depth)
    showing.add_argument("--profile", default="embedded", help="whose text embedder judges drift")


def run(args: argparse.Namespace, settings: Settings) -> int:
    """Import a dump, or show an expansion.

    Raises:
        SpecError: no such graph or profile.
        DataError: the dump can't be read.
        ConfigurationError: the file can't be written.
        ModelError: the embedder can't be loaded.
    """
    return _import(args) if args.action == "import" else _expand(args, settings)


def _import(args: argparse.Namespace) -> int:
    from lora_factory.crawl.graph.assertions import MEGABYTE, import_dump, progress_of

    progress = progress_of(args.dump)
    read = 0

    def on_bytes(count: int, note: str) -> None:
        nonlocal read
        read += count
        progress.advance(read // MEGABYTE - progress.done, note)

    languages = [code.strip() for code in args.languages.split(",") if code.strip()]
    found = import_dump(args.dump, args.out, languages, on_bytes)
    sys.stdout.write(f"{found.table()}\nLORA_FACTORY_CONCEPTNET_FILE={args.out.resolve()}\n")
    return 0


def _expand(args: argparse.Namespace, settings: Settings) -> int:
    from pydantic import ValidationError

    from lora_factory.crawl.graph.expand import expand
    from lora_factory.errors import SpecError
    from lora_factory.models.loaders import limit_threads, text_embedder
    from lora_factory.models.profiles import load_profile

    graphs = tuple(name.strip() for name in args.graphs.split(",") if name.strip())
    try:
        spec = ExpansionSpec.model_validate({"graphs": graphs, "depth": args.depth})
    except ValidationError as err:
        first = err.errors(include_url=False)[0]
        msg = f"{first['loc'][0]}: {first['msg']}; graphs are {', '.join(get_args(Graph))}"
        raise SpecError(msg) from err
    limit_threads(settings)
    embedder = text_embedder(load_profile(args.profile, settings))
    sys.stdout.write(summary(expand(args.topics, spec, settings, embedder)))
    return 0


def summary(found: Expansion) -> str:
    """What a person should know of an expansion."""
    from lora_factory.crawl.graph.expand import describe

    lines = []
    for term in found.terms:
        route = " → ".join((term.start, *(f"[{hop.relation}] {hop.term}" for hop in term.path)))
        near = f"{term.similarity:5.2f}  {route}" if term.graph else f"       topic  {term.text}"
        lines.append(f"{term.weight:5.2f} {near}")
    lines += ["", *(describe(answer) for answer in found.graphs)]
    if found.dropped:
        reasons = Counter(one.reason for one in found.dropped)
        lines.append("left out: " + ", ".join(f"{r} {n}" for r, n in sorted(reasons.items())))
    return "\n".join(lines) + "\n"

"""Commands of ``python -m lora_factory`` that are no stage: one module each.

A module offers ``HELP`` (one line), ``arguments(parser)`` and ``run(args, settings) -> int``,
the exit status; what a person asked to see goes to standard output, all else to the log.
``NAMES`` lists them in the order of the help; ``crawl-status`` is ``crawl_status.py``.
"""

NAMES = (
    *("adapters", "apikey", "catalog", "compare", "crawl-status", "deploy-plan", "deploy-rollback"),
    *("export", "keys", "profile", "protect", "stop", "takedown", "topics", "verify"),
)

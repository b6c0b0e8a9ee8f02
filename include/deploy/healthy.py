"""Health check of a container: ``healthy.py URL [component]``; exit status 0 is healthy.

With a component the URL is Airflow's ``/api/v2/monitor/health``, whose answer must call it
healthy; without one any answer below 400 does. Light, unlike ``airflow jobs check``, which
imports all of Airflow each time.
"""

from __future__ import annotations

import json
import sys
import urllib.request

TIMEOUT_SECONDS = 5


def main(url: str, component: str = "") -> int:
    """0 healthy, 1 not."""
    try:
        with urllib.request.urlopen(url, timeout=TIMEOUT_SECONDS) as answer:  # noqa: S310 - own URL
            body = answer.read()
        well = not component or json.loads(body)[component]["status"] == "healthy"
    except (OSError, ValueError, KeyError, TypeError) as err:
        sys.stderr.write(f"{url}: {err}\n")
        return 1
    return 0 if well else 1


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:3]))

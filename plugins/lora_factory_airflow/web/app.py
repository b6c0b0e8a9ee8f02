"""The pages' FastAPI app, mounted by Airflow's API server under :data:`PREFIX`.

==================  ================================================================
``/crawls``         crawls that several workers share; renews itself (no script)
``/crawls.json``    the same as JSON: a list of :class:`CrawlStatus`
``/page.css``       the pages' style
==================  ================================================================

What crawled sites brought is shown, so everything is escaped and nothing may run. Loads no
model and no part of a crawler.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lora_factory.contracts.crawl import CrawlStatus

PREFIX = "/lora-factory"
DAG_ID = "lora_factory"
FOLDER = Path(__file__).parent
RENEW = 3  # seconds
HOSTS = 25  # of a crawl, the deepest queues first
HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; style-src 'self'; frame-ancestors 'self'; base-uri 'none'; "
        "form-action 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}
Message = MutableMapping[str, Any]


class LazyApp:
    """The app, built at the first request: every Airflow process loads plugins, one serves them."""

    def __init__(self) -> None:
        self._app: Any = None

    async def __call__(
        self,
        scope: Message,
        receive: Callable[[], Awaitable[Message]],
        send: Callable[[Message], Awaitable[None]],
    ) -> None:
        """ASGI."""
        if self._app is None:
            self._app = build()
        await self._app(scope, receive, send)


def build() -> Any:
    """The FastAPI app; every route asks Airflow whether the user may see the DAG."""
    from airflow.api_fastapi.core_api.security import requires_access_dag
    from fastapi import Depends, FastAPI
    from fastapi.responses import FileResponse, HTMLResponse, JSONResponse

    may_see = Depends(requires_access_dag("GET", param_dag_id=DAG_ID))
    app = FastAPI(dependencies=[may_see], docs_url=None, redoc_url=None, openapi_url=None)

    @app.get("/crawls")
    async def crawls() -> HTMLResponse:
        page, status = await crawls_page()
        return HTMLResponse(page, status, HEADERS)

    @app.get("/crawls.json")
    async def crawls_json() -> JSONResponse:
        body, status = await crawls_data()
        return JSONResponse(body, status, HEADERS)

    @app.get("/page.css")
    async def style() -> FileResponse:
        return FileResponse(FOLDER / "page.css", media_type="text/css", headers=HEADERS)

    return app


async def crawls_data() -> tuple[Any, int]:
    """JSON of the crawls, and the HTTP status."""
    from lora_factory.errors import FactoryError

    try:
        found = await _read()
    except FactoryError as err:
        return {"error": str(err)}, 503
    return [crawl.model_dump(mode="json") for crawl in found], 200


async def crawls_page() -> tuple[str, int]:
    """HTML of the crawls, and the HTTP status."""
    from lora_factory.errors import ConfigurationError, FactoryError

    try:
        return render(await _read()), 200
    except ConfigurationError as err:
        return render([], str(err)), 200  # as the deployment is set up: nothing to wait for
    except FactoryError as err:
        return render([], str(err)), 503


def render(crawls: Sequence[CrawlStatus], error: str = "") -> str:
    """HTML of crawls, or of why there are none to see."""
    template = _environment().get_template("crawls.html.j2")
    return str(template.render(renew=RENEW, crawls=crawls, error=error, hosts_shown=HOSTS))


async def _read() -> list[CrawlStatus]:
    from lora_factory.contracts.settings import Settings
    from lora_factory.crawl.status import read_all

    return await read_all(Settings.from_environment())


def _environment() -> Any:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(FOLDER),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["span"] = span
    return environment


def span(seconds: float) -> str:
    """A span of time as a person says it: ``8 s``, ``3 min``, ``2.5 h``."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"

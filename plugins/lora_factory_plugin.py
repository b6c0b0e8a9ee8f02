"""The one file that Airflow's plugin scan sees."""

from __future__ import annotations

from airflow.plugins_manager import AirflowPlugin

from lora_factory_airflow.web.app import PREFIX, LazyApp


class LoraFactoryPlugin(AirflowPlugin):
    """Makes the package known to Airflow (listed under Admin → Plugins), and its pages."""

    name = "lora_factory"
    fastapi_apps = [{"app": LazyApp(), "url_prefix": PREFIX, "name": "LoRA Factory"}]  # noqa: RUF012
    external_views = [  # noqa: RUF012
        {
            "name": "Crawls",
            "href": f"{PREFIX}/crawls",
            "destination": "nav",
            "url_route": "lora-factory-crawls",
            "category": "browse",
        }
    ]

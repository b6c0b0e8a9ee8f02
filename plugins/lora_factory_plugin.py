"""The one file that Airflow's plugin scan sees."""

from __future__ import annotations

from airflow.plugins_manager import AirflowPlugin


class LoraFactoryPlugin(AirflowPlugin):
    """Makes the package known to Airflow (listed under Admin → Plugins)."""

    name = "lora_factory"

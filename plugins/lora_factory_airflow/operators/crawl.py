"""topics → raw."""

from __future__ import annotations

from lora_factory.contracts.specs import CrawlSpec
from lora_factory_airflow.operators._base import StageOperator


class CrawlOperator(StageOperator):
    """Crawls pages or a folder for images of the topics. Always a child: Twisted starts once."""

    stage = "crawl"
    spec_type = CrawlSpec

"""The spider one would write on an afternoon: what the bench's crawl is measured against.

Scrapy, BeautifulSoup for links and images, trafilatura for the text, lingua for the language. No
robots.txt, no opt-outs, no quality rules, no budgets, no record of what was dropped.

    python tests/bench/crawl/rig/plain_spider.py START PAGES
"""

from __future__ import annotations

import sys
from typing import Any

import scrapy
import trafilatura
from bs4 import BeautifulSoup
from lingua import LanguageDetectorBuilder
from scrapy.crawler import CrawlerProcess


class PlainSpider(scrapy.Spider):  # type: ignore[misc]
    name = "plain"
    detector = LanguageDetectorBuilder.from_all_languages().build()

    def parse(self, response: Any) -> Any:
        soup = BeautifulSoup(response.text, "lxml")
        text = trafilatura.extract(response.text, fast=True, include_comments=False) or ""
        language = self.detector.detect_language_of(text)
        images = [
            {"url": response.urljoin(img.get("src", "")), "alt": img.get("alt", "")}
            for img in soup.find_all("img")
        ]
        title = soup.title.get_text() if soup.title else ""
        yield {"title": title, "text": text, "language": str(language), "images": images}
        for link in soup.find_all("a", href=True):
            if "/page/" in link["href"]:
                yield response.follow(link["href"], self.parse)


def main(start: str, pages: int) -> None:
    process = CrawlerProcess({
        "CLOSESPIDER_PAGECOUNT": pages,
        "CONCURRENT_REQUESTS_PER_DOMAIN": 16,
        "LOG_LEVEL": "ERROR",
        "ROBOTSTXT_OBEY": False,
        "TELNETCONSOLE_ENABLED": False,
        "DOWNLOAD_DELAY": 0,
    })
    process.crawl(PlainSpider, start_urls=[start])
    process.start()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))

"""Where a crawl begins: one module a source.

``web`` and ``urls`` begin with pages; ``sitemap``, ``openverse`` and ``wikimedia`` begin with
listings, answers that name pages or images. ``folder`` is no source of requests (see
``crawl.folder``).
"""

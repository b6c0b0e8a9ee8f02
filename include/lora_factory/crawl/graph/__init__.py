"""Topics → weighted terms over knowledge graphs (article, 1.1 ``generate_seed_urls``)."""

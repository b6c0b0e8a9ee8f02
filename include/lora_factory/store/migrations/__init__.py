"""Forward-only migrations of the catalog, run by alembic."""

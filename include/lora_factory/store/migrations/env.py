"""Alembic's entry: migrates the connection that `Catalog.migrate` hands over.

The version is kept in ``catalog_version``, so that the catalog may share a database with
another alembic user (Airflow's ``alembic_version``).
"""

from __future__ import annotations

from alembic import context

context.configure(
    connection=context.config.attributes["connection"],
    version_table="catalog_version",
    target_metadata=None,
)
with context.begin_transaction():
    context.run_migrations()

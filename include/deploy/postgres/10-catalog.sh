#!/bin/sh
# Run once by the postgres image on an empty volume: the catalog's own role and database.
set -eu
psql -v ON_ERROR_STOP=1 -v password="$CATALOG_PASSWORD" --username "$POSTGRES_USER" <<'SQL'
CREATE ROLE lora_factory LOGIN PASSWORD :'password';
CREATE DATABASE lora_factory OWNER lora_factory;
REVOKE CONNECT ON DATABASE lora_factory FROM PUBLIC;
REVOKE CONNECT ON DATABASE airflow FROM PUBLIC;
SQL

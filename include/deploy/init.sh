#!/bin/sh
# Prepares the databases and Airflow; safe to run at every start.
set -eu
airflow db migrate
airflow pools import /opt/airflow/include/deploy/pools.json
airflow users create --username admin --password "$AIRFLOW_ADMIN_PASSWORD" --role Admin \
    --firstname Factory --lastname Admin --email admin@localhost
python -m lora_factory catalog migrate

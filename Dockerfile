# One image for every service: Airflow's parts, the workers and the serving app.
FROM python:3.11-slim

# torch is not in the lock: choose the build that fits the machine (see .env.example)
ARG TORCH="torch==2.13.0"
ARG TORCH_ARGS=""

ENV PIP_NO_CACHE_DIR=1 \
    PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PYTHONUNBUFFERED=1

# WordNet's files, for topic expansion
RUN apt-get update \
    && apt-get install -y --no-install-recommends wordnet-base \
    && rm -rf /var/lib/apt/lists/*

COPY requirements.txt /tmp/requirements.txt
# Resolved already: --no-deps keeps pip from choosing another torch
RUN pip install $TORCH_ARGS "$TORCH" \
    && pip install --no-deps -r /tmp/requirements.txt

# The SDKs of targets cloud-run and azure, beside everything above: --build-arg CLOUD=1
ARG CLOUD=0
COPY requirements-cloud.txt /tmp/requirements-cloud.txt
RUN if [ "$CLOUD" = 1 ]; then \
        python -m venv --system-site-packages /opt/cloud \
        && /opt/cloud/bin/pip install --no-deps -r /tmp/requirements-cloud.txt; \
    fi

# A named volume takes over the owner of the folder it is first mounted on
RUN useradd --uid 50000 --create-home airflow \
    && mkdir -p /opt/airflow/logs /srv/lora-factory/store /srv/lora-factory/scratch \
        /srv/lora-factory/serving /srv/lora-factory/models \
    && chown -R airflow /opt/airflow /srv/lora-factory

ENV AIRFLOW_HOME=/opt/airflow \
    AIRFLOW__CORE__DAGS_FOLDER=/opt/airflow/dags \
    AIRFLOW__CORE__PLUGINS_FOLDER=/opt/airflow/plugins \
    AIRFLOW__CORE__LOAD_EXAMPLES=False \
    PYTHONPATH=/opt/airflow/include:/opt/airflow/plugins

WORKDIR /opt/airflow
COPY include include
COPY plugins plugins
COPY dags dags

USER airflow
CMD ["airflow", "version"]

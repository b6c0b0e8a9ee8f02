# The server of targets cloud-run, azure and aws-sagemaker: one release over HTTP, on port 8080.
#   docker build -f include/deploy/server.Dockerfile -t <registry>/lora-factory/server:1.0 .
# TORCH_ARGS chooses a build of torch. It holds profile `embedded`; for another one COPY a folder
# that `profile pull` filled to /srv/models.
FROM python:3.11-slim

ARG TORCH="torch==2.13.0"
ARG TORCH_ARGS=""

ENV PIP_NO_CACHE_DIR=1 \
    PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PYTHONUNBUFFERED=1

COPY requirements.txt /tmp/requirements.txt
RUN pip install $TORCH_ARGS "$TORCH" \
    && grep -vE '^(apache-airflow|celery|scrapy|twisted)' /tmp/requirements.txt > /tmp/served.txt \
    && pip install --no-deps -r /tmp/served.txt \
    && useradd --uid 50000 --create-home serve \
    && mkdir -p /srv/models /srv/scratch \
    && chown -R serve /srv

ENV HF_HOME=/srv/models \
    LORA_FACTORY_SCRATCH=/srv/scratch \
    PYTHONPATH=/srv/include

WORKDIR /srv
COPY include include

USER serve
EXPOSE 8080
# SageMaker adds the argument `serve`
ENTRYPOINT ["python", "-m", "lora_factory.serve.container"]

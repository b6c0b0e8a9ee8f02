# `make help` lists the targets. Everything lands in .venv/ and build/.
PYTHON     ?= python3
# torch is not in the lock: choose the build that fits the machine, for example
#   make setup TORCH_ARGS="--index-url <PyTorch's index for your CUDA>"
TORCH      ?= torch==2.13.0
TORCH_ARGS ?=
# Processes of `make test`, each with services of its own.
WORKERS    ?= 2
VENV       := .venv
BIN        := $(VENV)/bin
READY      := $(VENV)/.ready
export PYTHONPATH := include:plugins:dags

.DEFAULT_GOAL := help
.PHONY: help setup demo demo-stop test test-cloud test-all lint format typecheck bench lock clean

help:  ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

setup: $(READY)  ## virtual environment with everything the demo and the tests need

$(READY): requirements.txt requirements-dev.txt
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@mkdir -p build && date +%s > build/.setup-started
	$(BIN)/pip install -q uv
	$(BIN)/python -c 'import torch' 2>/dev/null || $(BIN)/pip install -q "$(TORCH)" $(TORCH_ARGS)
	$(BIN)/uv pip install -q --no-deps -r requirements.txt -r requirements-dev.txt --python $(BIN)/python
	@echo "set up in $$(( $$(date +%s) - $$(cat build/.setup-started) )) s" | tee build/setup.txt
	@touch $@

demo: setup  ## topic → deployed LoRA through a real Airflow (KEEP=1 leaves it up, IMAGES=folder uses yours)
	$(BIN)/python -m lora_factory.demo $(if $(KEEP),--keep) $(if $(IMAGES),--images "$(IMAGES)") $(if $(TOPIC),--topic "$(TOPIC)")

demo-stop: setup  ## stop what a `make demo KEEP=1` left up
	$(BIN)/python -m lora_factory.demo --stop

# A file's tests stay together, in the order collected: the end-to-end tests begin early.
PYTEST     := $(BIN)/pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder

test: setup  ## all tests that need no GPU and no long time (≤ 15 min on 2 cores)
	$(PYTEST)

# SDKs that can't share the main environment; theirs sees its packages after its own.
CLOUD      := .venv-cloud
$(CLOUD)/.ready: requirements-cloud.txt $(READY)
	$(BIN)/uv venv -q --clear --python $(BIN)/python $(CLOUD)
	$(BIN)/uv pip install -q --no-deps -r requirements-cloud.txt --python $(CLOUD)/bin/python
	$(BIN)/python -c 'import site; print(site.getsitepackages()[0])' > "$$($(CLOUD)/bin/python -c 'import site; print(site.getsitepackages()[0])')/main.pth"
	@touch $@

test-cloud: $(CLOUD)/.ready  ## targets cloud-run and azure, in an environment with their SDKs
	$(CLOUD)/bin/python -m pytest tests/cloud

test-all: setup  ## the slow, chaos and bench ones too
	$(BIN)/pytest -m ""

lint: setup  ## style, layers
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/lint-imports

format: setup  ## put the code into shape
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

typecheck: setup  ## strict types of include/ and plugins/
	$(BIN)/mypy

bench: setup  ## measure, merge into build/bench.json (ONLY=ops runs one group)
	$(BIN)/python tests/bench/run.py $(if $(ONLY),--only $(ONLY))

lock: setup  ## remake requirements*.txt from requirements*.in
	$(BIN)/uv pip compile -q --no-header --no-annotate --python $(BIN)/python --override .uv-overrides.txt requirements.in -o requirements.txt
	$(BIN)/uv pip compile -q --no-header --no-annotate --python $(BIN)/python --override .uv-overrides.txt requirements-dev.in -o requirements-dev.txt
	$(BIN)/uv pip compile -q --no-header --no-annotate --python $(BIN)/python requirements-cloud.in -o requirements-cloud.txt

clean:  ## remove build/ and caches (stop the demo first)
	rm -rf build .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis

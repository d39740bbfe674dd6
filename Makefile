# Everything happens in .venv, made from pinned versions. A target needs nothing but Python and make.
# Another Python beside it: make test PYTHON=python3.13 VENV=.venv-3.13

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/.ready

# Without its cache each process would compile our sources again, and the suite starts many hundred.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help setup demo up test lint types check-migrations openapi lifecycle lock licences release \
        test-gpu test-slow test-containers test-hosts hostile-loop crash-matrix soak bench bench-streams bench-waits bench-queue clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-18s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(READY) ## make .venv with pinned dependencies

$(READY): pyproject.toml constraints.txt scripts/setup
	@PYTHON="$(PYTHON)" VENV="$(VENV)" scripts/setup
	@touch $@

demo: $(READY) ## start everything, render one picture, stop everything
	@$(BIN)/dreamforge demo

up: $(READY) ## run the whole stack in the foreground; Ctrl-C stops it
	@$(BIN)/dreamforge up

# Files, not tests, are dealt out: those of one file share a stack, and some of them one runner.
LANES ?= 3

test: $(READY) ## run the suite without its slowest tests, LANES files at a time
	@$(BIN)/python -m pytest -n $(LANES) --dist loadfile --no-loadscope-reorder $(PYTEST_ARGS)

test-slow: $(READY) ## the tests that `make test` leaves out because they take long
	@$(BIN)/python -m pytest -n $(LANES) --dist loadfile -m slow $(PYTEST_ARGS)

lint: $(READY) ## ruff and the import rules
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/lint-imports --no-cache

types: $(READY) ## mypy, strict
	@$(BIN)/mypy

check-migrations: $(READY) ## the migrations make exactly the tables in the code
	@$(BIN)/python -m pytest -q tests/integration/data/test_schema.py

openapi: $(READY) ## export docs/openapi/openapi.v1.json
	@$(BIN)/python -m api.export_openapi docs/openapi/openapi.v1.json

lifecycle: $(READY) ## draw docs/lifecycle.md from the table
	@$(BIN)/python -m supervisor.lifecycle.diagram

RELEASE := .venv-release
$(RELEASE)/.ready: locks/release.txt
	@"$(PYTHON)" -m venv $(RELEASE)
	@$(RELEASE)/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes --no-deps \
	  --requirement locks/release.txt
	@touch $@

lock: $(RELEASE)/.ready ## write locks/ from pyproject.toml and constraints.txt, with hashes
	@$(RELEASE)/bin/python -m scripts.release.lock

licences: $(READY) ## write docs/licences.md from locks/ and the packages' metadata
	@$(BIN)/python -m scripts.release.licences

release: $(RELEASE)/.ready ## wheel, sdist, images and SBOMs of the commit, built twice and compared, in dist/
	@$(RELEASE)/bin/python -m scripts.release $(RELEASE_ARGS)

test-gpu: $(READY) ## the reclaim tests on an NVIDIA GPU
	@$(BIN)/python -m pytest tests/gpu tests/unit/supervisor/test_devices_probes.py -m gpu -s $(PYTEST_ARGS)

test-containers: $(READY) ## both images and docs/deployment.md on a real engine (root, 10 to 35 minutes)
	@PYTHONPATH=. $(BIN)/python -m tests.containers $(CONTAINERS_ARGS)

ROUNDS ?= 20
HOSTILE := $(addprefix tests/integration/supervisor/test_,$(addsuffix .py,\
           hostile ownership outages devices lost_devices headroom runner_pool \
           fault_containment inputs worker))

hostile-loop: $(READY) ## 20 rounds (ROUNDS) of runners that misbehave; what differed, JUnit files in reports/
	@mkdir -p reports && rm -f reports/hostile-*.xml
	@for round in $$(seq 1 $(ROUNDS)); do \
	  $(BIN)/python -m pytest -q -p no:cacheprovider -n $(LANES) --dist loadfile \
	    --junitxml=reports/hostile-$$round.xml $(HOSTILE) || true; \
	done
	@PYTHONPATH=. $(BIN)/python -m tests.support.rounds $(ROUNDS) reports/hostile-*.xml

crash-matrix: $(READY) ## kill every part at every point of a job's way; a table of outcomes (10 minutes)
	@$(BIN)/python -m pytest -q -m "" tests/integration/whole/test_crash_matrix.py \
	  tests/integration/whole/test_parts_restart.py::test_a_minute_without_the_broker_is_slept_through $(PYTEST_ARGS)

soak: $(READY) ## 200 jobs while somebody kills at random; SOAK_ARGS="--seed 7" repeats one
	@PYTHONPATH=. $(BIN)/python -m tests.support.soak $(SOAK_ARGS)

test-hosts: $(READY) ## workers on several hosts and a bad network; needs root (HOSTS_ARGS="--seed 7")
	@PYTHONPATH=. $(BIN)/python -m tests.hosts $(HOSTS_ARGS)

bench: $(READY) ## the cost of isolation, beside a resident pipeline and a Celery worker (15 minutes)
	@PYTHONPATH=. $(BIN)/python -m benchmarks.isolation.run $(BENCH_ARGS)

bench-streams: $(READY) ## what 1000 open progress streams cost one api process
	@$(BIN)/python benchmarks/streams/many.py

bench-waits: $(READY) ## what 1000 calls that wait for their job cost one api process
	@PYTHONPATH=. $(BIN)/python -m benchmarks.streams.waits

bench-queue: $(READY) ## what the queue costs with a thousand, a million and ten million jobs in it
	@PYTHONPATH=. $(BIN)/python benchmarks/queue/measure.py $(BENCH_ARGS)

clean: ## remove .venv and caches; data in .dreamforge and pictures in out stay
	@rm -rf $(VENV) $(RELEASE) .mypy_cache .ruff_cache .pytest_cache .hypothesis

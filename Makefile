# `make` lists what there is. Everything runs in .venv, made from constraints.txt on first use.
SHELL := /bin/bash
.DEFAULT_GOAL := help
VENV  := .venv
STAMP := $(VENV)/.installed
BIN   := $(VENV)/bin
BENCH := .venv-bench
BENCH_STAMP := $(BENCH)/.installed
CORES := $(shell getconf _NPROCESSORS_ONLN)
TEST_WORKERS := $(or $(TURBO_TEST_WORKERS),$(shell echo $$(( $(CORES) < 2 ? 2 : $(CORES) > 6 ? 6 : $(CORES) ))))
QUICK := tests/unit $(addprefix tests/integration/test_,main_job.py states.py insert_rules.py refused_results.py concurrency_keys.py)

help:  ## List the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/' | expand -t 16

$(STAMP): pyproject.toml constraints.txt scripts/make-venv
	@scripts/make-venv $(VENV)
	@touch $@

venv: $(STAMP)  ## Make the environment

demo: $(STAMP)  ## See it work: PostgreSQL, a worker, twenty tasks inserted through psql
	@$(BIN)/python scripts/demo.py

tour: $(STAMP)  ## A small fleet with a scripted agent, work of every kind, and the page: no login needed
	@$(BIN)/python scripts/tour.py

screenshots: $(STAMP)  ## Write docs/images from a tour: the page and turbo top (needs Chromium)
	@$(BIN)/python scripts/screenshots.py

test: $(STAMP)  ## Run the tests (a real PostgreSQL, in parallel)
	@$(BIN)/python -m pytest -m quiet -n 2 --dist loadgroup
	@$(BIN)/python -m pytest -m "not quiet" -n $(TEST_WORKERS) --dist loadgroup

quick: $(STAMP)  ## Run the unit tests and a task's path through a real worker, in at most 90 s
	@$(BIN)/python -m pytest $(QUICK) -m "not quiet" -n $${TURBO_TEST_WORKERS:-2} --dist loadgroup -q

format: $(STAMP)  ## Format the code, and fix what ruff can fix
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

prove: $(STAMP)  ## The tests at full size, for hours: nightly, before a release; writes docs/benchmarks/prove.md; PROVE="--only soak"
	@$(BIN)/python -m tests.prove $(PROVE)

lint: $(STAMP)  ## ruff, mypy, import-linter
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports

check: lint test  ## What CI runs: lint, then the tests

db: $(STAMP)  ## Start the embedded PostgreSQL for yourself; prints its DSN
	@$(BIN)/turbo db start

monitoring: $(STAMP)  ## Three workers under a little load, Prometheus and Alertmanager, on loopback
	@$(BIN)/python scripts/monitoring.py

dashboards: $(STAMP)  ## Write monitoring/grafana/dashboards from scripts/dashboards.py
	@$(BIN)/python scripts/dashboards.py

docs: $(STAMP)  ## Write docs/reference from the program's own configuration and help
	@$(BIN)/python scripts/docs.py

dist: $(STAMP)  ## Build the wheel and the sdist into dist/, without an index
	@$(BIN)/python -m hatchling build

release-check: $(STAMP)  ## Whether this commit can be released; builds dist/ (docs/releasing.md)
	@$(BIN)/python scripts/release_check.py $(RELEASE)

bench: $(BENCH_STAMP)  ## turbo beside its peers: make bench ONLY=pickup,herd ROUNDS=5 CHECK=1; writes docs/benchmarks
	@$(BENCH)/bin/python -m benchmarks --only "$(ONLY)" --rounds "$(or $(ROUNDS),5)" $(if $(CHECK),--check)

$(BENCH_STAMP): pyproject.toml constraints.txt benchmarks/constraints.txt benchmarks/contenders/node/package-lock.json scripts/make-venv
	@scripts/make-venv $(BENCH) bench benchmarks/constraints.txt
	@cd benchmarks/contenders/node && (npm ci --no-progress --loglevel=error || echo "without npm: graphile-worker is left out")
	@touch $@

chaos: $(STAMP)  ## Break a loaded fleet in every way, in turns with a baseline; CHAOS='--only network' for some
	@TURBO_PROVE=1 $(BIN)/python -m tests.chaos $(CHAOS)

cost: $(STAMP)  ## Instructions of each statement, beside the recorded figures; COST='--only claim,finish', --check, --record
	@$(BIN)/python -m benchmarks.cost $(COST)

bench-bloat: $(STAMP)  ## What a million tasks leave behind: dead rows, index sizes, by the tables' settings
	@$(BIN)/python benchmarks/bloat.py

model: $(STAMP)  ## The model against the statements, for long, and with every guard taken away in turn
	@TURBO_MODEL_EXAMPLES=$${TURBO_MODEL_EXAMPLES:-2000} $(BIN)/python -m pytest tests/model/test_model.py tests/model/test_schedules.py -m "not mutations" --timeout 7200
	@TURBO_MODEL_ALL=1 $(BIN)/python -m pytest tests/model/test_mutations.py tests/model/test_schedules.py -n $${TURBO_TEST_WORKERS:-2}

soak: $(STAMP)  ## 10,000 tasks, 1,000 random faults, then everything is checked; SOAK="--seed 7 --tasks 500 --faults 50"
	@$(BIN)/python -m tests.soak $(SOAK)

clean:  ## Remove the environment and caches
	rm -rf $(VENV) $(BENCH) .pytest_cache .mypy_cache .ruff_cache .import_linter_cache

.PHONY: help venv demo tour screenshots test quick format prove lint check db monitoring dashboards docs dist release-check bench bench-bloat cost chaos model soak clean

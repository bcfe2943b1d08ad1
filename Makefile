# Everything a developer runs. Needs make and Python 3.11, 3.12 or 3.13; `make setup` puts the rest into .venv/.

PYTHON ?= python3.13 python3.12 python3.11 python3  # candidates, the first that fits is taken: make setup PYTHON=...
ARGS ?=
PAHO ?=

BIN := .venv/bin
STAMP := .venv/installed
PIP := $(BIN)/python -m pip --disable-pip-version-check

.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: help setup run test check lint types layers docs docs-check screenshot bench interop lock clean

help: ## Show this list
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1@\2/p' $(firstword $(MAKEFILE_LIST)) | column -t -s @ 2>/dev/null \
		|| sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1  \2/p' $(firstword $(MAKEFILE_LIST))

setup: $(STAMP) ## Make .venv/ with everything pinned in requirements.lock

run: $(STAMP) ## Run the demo: appliance, simulated machines, short windows (ARGS="--for 60s")
	$(BIN)/headrace demo $(ARGS)

test: $(STAMP) ## Run the tests (ARGS="tests/wire -k publish")
	$(BIN)/python -m pytest $(ARGS)

check: lint types layers docs-check test ## Everything that must pass before a change is merged

lint: $(STAMP) ## Lint and formatting
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(STAMP) ## Types
	$(BIN)/mypy

layers: $(STAMP) ## Who may import whom
	$(BIN)/lint-imports --no-cache

docs: $(STAMP) ## Write the generated docs anew
	$(BIN)/python -m appliance.config_docs

docs-check: $(STAMP)
	$(BIN)/python -m appliance.config_docs --check

screenshot: $(STAMP) ## Take docs/images/console.png from a running demo (needs chromium)
	$(BIN)/python -m docs.screenshot

bench: $(STAMP) ## Measure ingest (ARGS="--quick")
	$(BIN)/python -m benchmarks.ingest $(ARGS)

interop: $(STAMP) ## Run the Eclipse Paho interoperability suites (PAHO=DIR; ARGS="--only retained")
	@test -d "$(PAHO)/interoperability" || { \
		echo "error: PAHO does not name a copy of eclipse-paho/paho.mqtt.testing" >&2; \
		echo "mend:  git clone it outside of this repository; then make interop PAHO=DIR" >&2; \
		exit 1; \
	}
	$(BIN)/python tests/interop/run_paho.py "$(PAHO)" $(ARGS)

clean: ## Remove what the tools left behind; .venv/ and data directories stay
	rm -rf build headrace.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache benchmarks/build
	find . -name __pycache__ -not -path './.venv/*' -prune -exec rm -rf {} +

# Prints the first candidate that is a suitable Python and can make virtual environments; says what is missing if none.
define FIND_PYTHON
found=; \
for candidate in $(PYTHON); do \
	"$$candidate" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' 2>/dev/null || continue; \
	found="$$candidate"; \
	if "$$candidate" -c 'import ensurepip, venv' 2>/dev/null; then echo "$$candidate"; exit 0; fi; \
done; \
if [ -n "$$found" ]; then \
	version=$$("$$found" -c 'import sys; print("%d.%d" % sys.version_info[:2])'); \
	echo "error: $$found cannot make virtual environments: its venv or ensurepip module is missing" >&2; \
	echo "mend:  on Debian and Ubuntu: apt-get install python$$version-venv (or python3-venv)" >&2; \
else \
	echo "error: Python 3.11, 3.12 or 3.13 is needed, none of these is one: $(strip $(PYTHON))" >&2; \
	echo "mend:  on Debian and Ubuntu: apt-get install python3 python3-venv; or name one: make setup PYTHON=/path/to/python3.12" >&2; \
fi; \
exit 1
endef

# An interpreter that is there and fits is kept; anything else in .venv/ is made anew.
$(STAMP): requirements.lock pyproject.toml
	@if ! $(BIN)/python -c 'import pip, sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' 2>/dev/null; then \
		python=$$($(FIND_PYTHON)) || exit 1; \
		echo "making .venv with $$python ($$("$$python" -V))"; \
		"$$python" -m venv --clear .venv || exit 1; \
	fi
	$(PIP) install --quiet --require-hashes -r requirements.lock
	$(PIP) install --quiet --no-deps --no-build-isolation --editable .
	@touch $@

# The lock is made with the oldest Python that is supported: what only older ones need is then in it, harmless for the
# others. No index, link or path of the machine that made it goes into the file.
lock: ## Pin the newest versions that pyproject.toml allows (needs python3.11)
	rm -rf build/lock && mkdir -p build
	python3.11 -m venv build/lock
	build/lock/bin/python -m pip --disable-pip-version-check install --quiet pip-tools
	echo '# Every dependency, pinned with its hashes, for Python 3.11 to 3.13. Made by `make lock` from pyproject.toml.' \
		> build/lock/requirements.lock
	env -u PIP_FIND_LINKS build/lock/bin/python -m piptools compile --quiet --upgrade --generate-hashes --all-extras \
		--strip-extras --allow-unsafe --no-header --no-emit-index-url --no-emit-find-links --no-emit-trusted-host \
		--output-file build/lock/pins pyproject.toml
	grep -v '^# The following packages are considered' build/lock/pins >> build/lock/requirements.lock
	mv build/lock/requirements.lock requirements.lock

# Every target makes the environment that it needs: .venv from `python3` (3.11 or newer; another: `make test PYTHON=python3.12`,
# after `make clean`), installed again only when pyproject.toml has changed. pip uses whatever index it is configured for.

PYTHON ?= python3
WORKERS ?= 2
NOTEBOOKS ?= off
DEMO := jaxq train recipes/mnist --out build/demo --force
NEWEST_TESTS := -m "not slow" --little-effort $(addprefix tests/test_,$(addsuffix .py,laws exact capture))
NEWEST := 3.14 3.13 3.12
GOAL := $(MAKECMDGOALS)
NODE_PACKAGES := @litertjs/core @litertjs/wasm-utils mermaid@11 puppeteer-core
SOURCES := jaxq export recipes tests benchmarks
# Benchmarks that ask for data, a download or TensorFlow.
BY_HAND := bert dynamic_range imagenet int8_images mobilenet ptq_images ptq_photos

# The environments are installed without bytecode, so Python has to be free to write it: without it every process
# compiles JAX and Flax anew, and an import of jaxq takes 8 CPU seconds in place of 3.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help demo newest test test-newest test-all lint docs arm64 arm64-short browser node-packages bench clean

help: ## what there is
	@sed -n 's/^\([a-z0-9-]*\):.*## /make \1	/p' Makefile | expand -t 20

demo: .venv/stamp ## train, quantize, export and verify a small model
	.venv/bin/$(DEMO)

test: .venv/stamp ## every test that takes seconds
	.venv/bin/python -m pytest -q -n $(WORKERS) --dist loadfile --no-loadscope-reorder -m "not slow" --little-effort

test-all: .venv/stamp node-packages ## the slow ones too
	.venv/bin/python -m pytest -q -n $(WORKERS) --dist loadfile --no-loadscope-reorder

lint: .venv/stamp ## ruff and pyright
	.venv/bin/ruff check $(SOURCES)
	.venv/bin/ruff format --check $(SOURCES)
	.venv/bin/pyright --pythonpath .venv/bin/python

docs: .venv-docs/stamp ## the documentation as a site, build/docs/index.html; NOTEBOOKS=cache runs the tutorials
	.venv-docs/bin/python -m sphinx -q -W --keep-going -D nb_execution_mode=$(NOTEBOOKS) docs build/docs

arm64: .venv/stamp ## integers of emulated Arm processors: the zoo, the 63 networks, the kernels; Debian, as root; hours
	.venv/bin/python tests/arm64/compare.py

arm64-short: .venv/stamp ## the same of one processor and a part of the zoo, in two minutes; says what is missing
	.venv/bin/python tests/arm64/compare.py --short

browser: .venv/stamp node-packages ## the proof page in headless Chromium; needs chromium, node and npm
	.venv/bin/python -m pytest -q tests/test_device_proof_browser.py

# What the browser's tests need from npm, in build/node; where something is missing, one sentence.
node-packages:
	@for command in chromium node npm; do command -v $$command >/dev/null || { \
		echo "browser: there is no $$command, so the proof page is not run in a browser." >&2; exit 0; }; done; \
	mkdir -p build/node && cd build/node && npm install --silent --no-fund --no-audit $(NODE_PACKAGES) || \
		echo "browser: npm cannot install $(NODE_PACKAGES), so the proof page is not run in a browser." >&2

bench: .venv/stamp ## every script in benchmarks/ that needs no data, download nor TensorFlow, each printing one table
	@set -e; for script in $(filter-out $(BY_HAND:%=benchmarks/%.py),$(wildcard benchmarks/[a-z]*.py)); do echo "== $$script"; .venv/bin/python "$$script"; done

clean: ## forget the environments and everything built
	rm -rf .venv .venv-docs .venv-newest build dist .pytest_cache .ruff_cache .hypothesis
	find jaxq export recipes tests benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +

# $(call install,INTERPRETER,FOLDER,EXTRA): a fresh or refreshed environment with the extra (by default `test`), or one
# sentence that says what to do. --no-compile: half of pip's time, for packages of which the tests import a part.
define install
@version="$$("$(1)" --version)" || { echo "jaxq needs Python 3.11 or newer, and $(1) does not run." \
	"Install one, then name it: make $(GOAL) PYTHON=python3.12" >&2; exit 1; }; \
"$(1)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "jaxq needs Python 3.11 or newer, and $(1)" \
	"is $$version. Install a newer one, then name it: make $(GOAL) PYTHON=python3.12" >&2; exit 1; }; \
echo "$(2): $$version, from pyproject.toml"
@"$(1)" -m venv "$(2)"
@"$(2)/bin/python" -m pip install -qq --no-compile -e '.[$(or $(3),test)]'
@touch "$(2)/stamp"
endef

.venv/stamp: pyproject.toml
	$(call install,$(PYTHON),.venv)

.venv-docs/stamp: pyproject.toml
	$(call install,$(PYTHON),.venv-docs,docs)

.venv-newest/stamp: pyproject.toml
	$(call install,$(BASE),.venv-newest)

# A name on PATH may be a shim that does not run, so each candidate is asked for its version. pyenv's own installations count too.
define find_newest
roots="$$(pyenv root 2>/dev/null || true)"; \
for version in $(NEWEST); do \
	for candidate in "python$$version" $$(test -z "$$roots" || ls -d "$$roots/versions/$$version".*/bin/python 2>/dev/null | sort -rV); do \
		found="$$("$$candidate" -c 'import ensurepip, sys, venv; print("%d.%d" % sys.version_info[:2])' 2>/dev/null)" || continue; \
		if [ "$$found" = "$$version" ]; then echo "$$candidate"; exit 0; fi; \
	done; \
done
endef

# $(call with_newest,COMMANDS): COMMANDS after .venv-newest is made; one sentence where no second interpreter is found.
define with_newest
@python="$(if $(filter command,$(origin PYTHON)),$(PYTHON),$$($(find_newest)))"; \
if [ -z "$$python" ]; then \
	echo "newest: looked for $(NEWEST:%=python%), on PATH and among pyenv's versions"; \
	echo "newest: no second interpreter found; ran none"; \
	exit 0; \
fi; \
if [ -d .venv-newest ] && [ "$$(.venv-newest/bin/python --version 2>&1)" != "$$("$$python" --version 2>&1)" ]; then \
	rm -rf .venv-newest; \
fi; \
$(MAKE) --no-print-directory .venv-newest/stamp BASE="$$python" GOAL=test-newest && $(1)
endef

newest: ## the environment of test-newest alone
	$(call with_newest,true)

test-newest: ## the exactness tests on the newest Python (and so the newest JAX) that is installed
	$(call with_newest,.venv-newest/bin/python -m pytest -q -n $(WORKERS) --dist loadfile --no-loadscope-reorder $(NEWEST_TESTS))

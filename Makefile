SHELL := /bin/bash
.DEFAULT_GOAL := demo
.PHONY: demo up test test-foreign test-engines engines check torture kill bench-smoke bench bench-cost lock

PY := .venv/bin/python
PIP := $(PY) -m pip --disable-pip-version-check install -qq --require-hashes --only-binary :all:

# A stamp names what it stands for, so another checkout of the lock, or a moved tree, sets up anew.
key = $(shell { pwd; cat $(1); } | sha256sum | cut -c1-16)
INSTALLED := .venv/.installed-$(call key,requirements.lock)
INSTALLED_AWS_SANDBOX := .venv/.installed-aws-sandbox-$(call key,requirements-aws-sandbox.lock)
INSTALLED_DEV := .venv/.installed-dev-$(call key,requirements-dev.lock)

# Where the stores are: local, or aws-sandbox (moto and SeaweedFS on loopback).
BACKEND ?= local
ifeq ($(BACKEND),local)
INSTALLED_HERE = $(INSTALLED)
else ifeq ($(BACKEND),aws-sandbox)
INSTALLED_HERE = $(INSTALLED_AWS_SANDBOX)
STORES = --aws-sandbox
else
$(error BACKEND=$(BACKEND): choose local or aws-sandbox)
endif

SEEDS ?= 20
SEED_BASE ?= 0
TORTURE_ARGS := $(if $(SEED),--seed $(SEED),--seeds $(SEEDS) --seed-base $(SEED_BASE)) $(if $(BREAK),--break $(BREAK))

demo: $(INSTALLED_HERE)
	@./bin/postfleet demo $(STORES)

up: $(INSTALLED_HERE)
	@./bin/postfleet up $(STORES)

test: $(INSTALLED_DEV)
	$(PY) -m pytest -q -n 2 --dist loadgroup -m "not foreign and not engines"

test-foreign: $(INSTALLED_DEV)
	$(PY) -m pytest -q -m foreign

test-engines: $(INSTALLED_DEV)
	$(PY) -m pytest -q -m engines

# What stands in for AWS besides moto and SeaweedFS. Apart from .venv: ministack pins another botocore, dynalite needs npm.
engines: | .venv/bin/python
	$(PY) -m venv .engines
	.engines/bin/python -m pip --disable-pip-version-check install -qq ministack==1.5.33
	npm install --prefix .engines --silent --no-save dynalite@4.0.0

check: $(INSTALLED_DEV)
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy
	.venv/bin/lint-imports

torture: $(INSTALLED_DEV)
	PYTHONPATH=tests $(PY) tests/simulation/torture.py $(TORTURE_ARGS)

kill: $(INSTALLED_DEV)
	PYTHONPATH=tests:. $(PY) tests/processes/kill.py $(STORES) $(if $(KILLS),--kills $(KILLS)) $(if $(SEED),--seed $(SEED))

bench-smoke: $(INSTALLED)
	$(PY) bench/smoke.py

bench: $(INSTALLED)
	$(PY) bench/smoke.py --messages 20000 --rounds 5

bench-cost: $(INSTALLED_DEV)
	$(PY) bench/cost.py --mix campaign --rate 1000
	$(PY) bench/cost.py --mix transactional --rate 1000

# Needs uv on the PATH. All locks hold for every supported Python.
COMPILE := UV_CUSTOM_COMPILE_COMMAND="make lock" uv pip compile --quiet --universal --generate-hashes \
	--python-version 3.11 --no-emit-index-url --no-emit-find-links pyproject.toml
lock:
	$(COMPILE) --output-file requirements.lock
	$(COMPILE) --output-file requirements-aws-sandbox.lock --extra aws-sandbox --constraint requirements.lock
	$(COMPILE) --output-file requirements-dev.lock --extra dev --constraint requirements-aws-sandbox.lock

SUPPORTED := import ensurepip, sys, venv; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 14))

# Debian's own Python is built with profiling feedback and link-time optimisation, which not every other one is.
# To use another one: `make PYTHON=python3.13 ...` before there is a .venv.
PYTHON ?= $(shell for python in /usr/bin/python3 python3 python3.13 python3.12 python3.11; do \
	$$python -c '$(SUPPORTED)' 2>/dev/null && echo $$python && break; done)

.venv/bin/python:
	@if [ -z "$(PYTHON)" ]; then \
		echo "Postfleet needs Python 3.11, 3.12 or 3.13 with venv: apt install python3-venv" >&2; exit 1; fi
	@$(PYTHON) -m venv .venv >/dev/null 2>&1 || { \
		rm -rf .venv; echo "cannot make .venv with $(PYTHON): apt install python3-venv" >&2; exit 1; }

bin/postfleet:
	@mkdir -p bin
	@printf '#!/bin/sh\nexec "$$(dirname "$$(readlink -f "$$0")")/../$(PY)" -P -m postfleet.cli "$$@"\n' > $@
	@chmod +x $@

define install
@echo "installing $(1) into .venv"
@$(PIP) -r $(1)
@$(PY) -c 'import pathlib, sysconfig; \
	pathlib.Path(sysconfig.get_path("purelib"), "postfleet.pth").write_text("$(CURDIR)\n")'
@touch $@
endef

$(INSTALLED): requirements.lock | .venv/bin/python bin/postfleet
	$(call install,requirements.lock)

$(INSTALLED_AWS_SANDBOX): requirements-aws-sandbox.lock | $(INSTALLED)
	$(call install,requirements-aws-sandbox.lock)

$(INSTALLED_DEV): requirements-dev.lock | $(INSTALLED)
	$(call install,requirements-dev.lock)

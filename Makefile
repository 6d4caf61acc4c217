# What a person types. Each target installs what it misses first, and is quick when nothing is.

PYTHON ?= $(shell for p in /usr/bin/python3 python3; do $$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
SUDO := $(shell [ "$$(id -u)" = 0 ] || echo sudo -E)
VENV := .venv

.PHONY: help prepare run trace-pod test parity soak test-vm compatibility quick bench bench-quick bench-prepare lint protos clean

help:  ## this list
	@sed -n 's/^\([a-z-]*\):.*## /  make \1\t/p' Makefile | expand -t 20

prepare:  ## install what is missing: distribution packages, then a virtual environment
	@sh scripts/prepare "$(PYTHON)" "$(VENV)"

run: prepare  ## run a container through the shim under a private containerd, and show it
	@$(SUDO) $(VENV)/bin/pyrunc demo

test: prepare  ## the whole test suite, also against the real containerd and runc
	@$(SUDO) $(VENV)/bin/python scripts/unit-everywhere $(VENV)
	@$(SUDO) $(VENV)/bin/python scripts/side-by-side

soak: prepare  ## the long runs: thousands of containers, on both shims and through each containerd
	PYRUNC_SOAK=1 $(SUDO) $(VENV)/bin/python -m pytest -m soak -s -o faulthandler_timeout=3600

test-vm: prepare  ## Stats, OOM, Update, Pause and Kill on cgroup v2, with runc, crun and systemd, in a VM
	$(SUDO) $(VENV)/bin/python -m tests.vm.suite

parity: prepare  ## every behaviour beside three generations of the stock shim, and docs/task-api.md
	$(SUDO) $(VENV)/bin/python scripts/parity $(ONLY)

compatibility: prepare  ## the tests against real containerds, and docs/compatibility.md
	@command -v go >/dev/null && scripts/build-containerd || echo "no Go here: containerd 2.3 and later are left out"
	$(SUDO) $(VENV)/bin/python -m pytest tests/containerd --compatibility docs/compatibility.md

quick: prepare  ## the tests that need no container
	$(VENV)/bin/python -m pytest tests/unit tests/wire tests/property tests/architecture

bench: bench-prepare  ## every benchmark against the stock shim, and docs/performance.md (half an hour)
	@$(SUDO) $(VENV)/bin/python -m benchmarks
	@$(VENV)/bin/python -m benchmarks report

bench-quick: bench-prepare  ## the same with fewer of everything, and without the page (< 5 minutes)
	@$(SUDO) $(VENV)/bin/python -m benchmarks --quick

trace-pod: prepare  ## record what happens when a pod starts: the material of docs/how-a-pod-starts.md
	@$(SUDO) $(VENV)/bin/python scripts/trace-pod

bench-prepare: prepare
	@$(VENV)/bin/python -c 'import grpc, matplotlib, rich' 2>/dev/null || \
		$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check --group bench

lint: prepare  ## format and check
	$(VENV)/bin/ruff check --fix .
	$(VENV)/bin/ruff format .
	$(VENV)/bin/mypy

protos: prepare  ## generate the protobuf modules again
	$(VENV)/bin/python protos/regenerate.py

clean:  ## remove what can be made again
	rm -rf .venv .venv-* .cache .hypothesis .mypy_cache .pytest_cache .ruff_cache build dist
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

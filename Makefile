# Everything a developer runs. On a fresh machine with Python 3.11 or newer, `make test` is enough.

PYTHON ?= python3
VENV ?= .venv
VENV_PB7 ?= .venv-pb7
VENV_MOTO ?= .venv-moto
# The tested release of protobuf 7; the main environment holds protobuf 6.33 (constraints.txt).
PROTOBUF7 ?= 7.36.2
# What plays S3 for the tests; it needs an older python-dateutil than the main environment has.
MOTO ?= 5.2.5
# What an install compiles, and what compiles it; where one is newer, install again.
COMPILED := hatch_build.py $(wildcard components/protoplane_components/kv_router/*.[ch])
# Half of the tests' time is waiting for processes and clocks, so there are more workers than cores.
WORKERS ?= $(shell $(PYTHON) -c 'import os; print((os.cpu_count() or 1) * 3 // 2)')
# For one test: make pytest PYTEST_ARGS='-n 0 tests/base -k duration'
PYTEST_ARGS ?= -n $(WORKERS)

BIN := $(VENV)/bin
UV := $(shell command -v uv 2>/dev/null)
BUILD := .build
# Quiet about newer versions, which it would look up on the network.
export PYRIGHT_PYTHON_IGNORE_WARNINGS := 1

# $(call new-venv,FOLDER): an empty virtual environment, with a pip that knows dependency groups
# where pip is what installs.
define new-venv
@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { echo "Protoplane needs Python 3.11 or newer, and $(PYTHON) is $$($(PYTHON) --version 2>&1); try make PYTHON=python3.12 $(MAKECMDGOALS)" >&2; exit 1; }
$(PYTHON) -m venv $(1)
$(if $(UV),,$(1)/bin/python -m pip install --quiet --upgrade 'pip>=25.1')
endef

# $(call pip-install,FOLDER): what installs into that environment.
pip-install = $(if $(UV),$(UV) pip install --quiet --python $(1)/bin/python,$(1)/bin/python -m pip install --quiet)

heading = @printf '\n== %s ==\n' '$(1)'

.DEFAULT_GOAL := help
.PHONY: help
help: ## Show this list
	@grep -hE '^[a-z0-9-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{ printf "  %-16s %s\n", $$1, $$2 }'

.PHONY: install
install: $(VENV)/.installed ## Make .venv: everything light and the development tools

$(VENV)/.installed: pyproject.toml constraints.txt $(COMPILED)
	$(call heading,install into $(VENV))
	$(call new-venv,$(VENV))
	$(call pip-install,$(VENV)) -e '.[all]' --group dev -c constraints.txt
	@touch $@

.PHONY: test
test: check pytest test-protobuf7 ## Check everything and run every test

.PHONY: check
check: ruff format-check mypy pyright imports schemas generate-check ## Run every check that is not a test

.PHONY: moto
moto: $(VENV_MOTO)/.installed ## Install what plays S3 for the tests, apart from all else

$(VENV_MOTO)/.installed: Makefile
	$(call heading,install into $(VENV_MOTO))
	$(call new-venv,$(VENV_MOTO))
	$(call pip-install,$(VENV_MOTO)) 'moto[s3]==$(MOTO)' flask flask-cors
	@touch $@

.PHONY: pytest
pytest: install moto ## Run the tests
	$(call heading,pytest)
	@$(BIN)/pytest $(PYTEST_ARGS)

.PHONY: ruff
ruff: install ## Lint
	$(call heading,ruff check)
	@$(BIN)/ruff check

.PHONY: format-check
format-check: install
	$(call heading,ruff format --check)
	@$(BIN)/ruff format --check

.PHONY: mypy
mypy: install ## Types, by mypy
	$(call heading,mypy)
	@$(BIN)/mypy

.PHONY: pyright
pyright: install ## Types, by pyright
	$(call heading,pyright)
	@$(BIN)/pyright --pythonpath $(BIN)/python

.PHONY: imports
imports: install ## Who may import whom
	$(call heading,import-linter)
	@$(BIN)/lint-imports --no-logo

.PHONY: schemas
schemas: install ## Lint the schemas and look for breaking changes
	$(call heading,buf lint)
	@$(BIN)/python tools/schemas.py lint
	$(call heading,buf breaking)
	@$(BIN)/python tools/schemas.py breaking

.PHONY: generate-check
generate-check: install
	$(call heading,protoplane generate --check)
	@$(BIN)/protoplane generate proto --out generated --check

.PHONY: generate
generate: install ## Write generated/ anew from proto/
	@$(BIN)/protoplane generate proto --out generated

.PHONY: format
format: install ## Put the code in its usual form
	@$(BIN)/ruff check --fix-only
	@$(BIN)/ruff format

PB7_TESTS := $(wildcard tests/base tests/runtime)
# What is slow, and meets no protobuf but what the others meet.
PB7_LEFT := --ignore-glob='*/test_object_*' --ignore-glob='*/test_zenoh_*' --ignore-glob='*/test_nats_*'

# The generator needs protobuf 6, so here only what it made, and what that stands on, is tested.
.PHONY: test-protobuf7
test-protobuf7: $(VENV_PB7)/.installed ## Run the tests that need no generator on protobuf 7
	$(call heading,pytest on protobuf $(PROTOBUF7))
	$(if $(PB7_TESTS),@$(VENV_PB7)/bin/pytest $(PYTEST_ARGS) -m 'not codegen' $(PB7_LEFT) $(PB7_TESTS),@echo 'skipped: there are no such tests yet')

$(VENV_PB7)/.installed: pyproject.toml constraints.txt Makefile
	$(call heading,install into $(VENV_PB7))
	$(call new-venv,$(VENV_PB7))
	@mkdir -p $(BUILD)
	@grep -vE '^(protobuf|grpcio[a-z-]*)==' constraints.txt > $(BUILD)/constraints-pb7.txt
	$(call pip-install,$(VENV_PB7)) -e '.[nats,objects,server,validate,zenoh,zmq]' 'protobuf==$(PROTOBUF7)' --group test -c $(BUILD)/constraints-pb7.txt
	@touch $@

.PHONY: demo
demo: install ## Serve a small captioner here, call it in three ways, and leave it up to be tried
	@$(BIN)/protoplane demo

# For some of its models only: make triton TRITON_MODELS='add tokens'
TRITON_MODELS ?=

.PHONY: triton
triton: install ## Start a real Triton on the processor, with the models of the tests, until Ctrl-C
	@$(BIN)/python -m tests.triton_server $(TRITON_MODELS)

VENV_TORCH ?= .venv-torch

.PHONY: torch
torch: $(VENV_TORCH)/.installed ## Test and measure the PyTorch backend, in an environment of its own (some GB)
	$(call heading,pytest of the PyTorch backend)
	@$(VENV_TORCH)/bin/pytest -n 0 $(wildcard tests/server/backends/test_torch*.py)
	$(call heading,bench/backends_torch.py)
	@$(VENV_TORCH)/bin/python bench/backends_torch.py

# The constraints hold nothing of torch, transformers and what they bring, which is too much.
$(VENV_TORCH)/.installed: pyproject.toml constraints.txt Makefile $(COMPILED)
	$(call heading,install into $(VENV_TORCH))
	$(call new-venv,$(VENV_TORCH))
	$(call pip-install,$(VENV_TORCH)) -e '.[inference,nats,objects,openai,router,server,torch,triton]' --group test rich transformers uvloop -c constraints.txt
	@touch $@

VENV_LLAMA ?= .venv-llama

.PHONY: llama
llama: install $(VENV_LLAMA)/.installed ## Test the OpenAI-compatible backend against a real llama.cpp, built from source here
	$(call heading,pytest of the OpenAI-compatible backend)
	@$(BIN)/pytest -n 0 tests/server/backends/test_llama.py

# The released package is source; it takes a C++ compiler a few minutes.
$(VENV_LLAMA)/.installed: Makefile
	$(call heading,build llama.cpp into $(VENV_LLAMA))
	$(call new-venv,$(VENV_LLAMA))
	CMAKE_ARGS='-DGGML_NATIVE=OFF' $(call pip-install,$(VENV_LLAMA)) 'llama-cpp-python[server]==0.3.36' 'gguf==0.19.0'
	@touch $@

KUBERNETES ?= v1.35.0
ETCD ?= v3.6.6

.PHONY: kubernetes
kubernetes: install $(BUILD)/kubernetes/kube-apiserver ## Test discovery by Kubernetes against a real API, built from source here (needs go)
	$(call heading,pytest of discovery by Kubernetes)
	@$(BIN)/pytest -n 0 tests/kubernetes

# The parts of Kubernetes are modules of their own, whose versions are its own with a 0 for the 1.
$(BUILD)/kubernetes/kube-apiserver: Makefile
	$(call heading,build kube-apiserver $(KUBERNETES) and etcd $(ETCD))
	@rm -rf $(BUILD)/kubernetes-source && mkdir -p $(BUILD)/kubernetes $(BUILD)/kubernetes-source/etcd
	go mod download k8s.io/kubernetes@$(KUBERNETES)
	cp -r "$$(go env GOMODCACHE)/k8s.io/kubernetes@$(KUBERNETES)" $(BUILD)/kubernetes-source/main
	chmod -R u+w $(BUILD)/kubernetes-source
	cd $(BUILD)/kubernetes-source/main && rm -rf vendor go.work go.work.sum && sed -i -E \
	  -e '/=> \.\/staging\//d' \
	  -e 's|^(\s+k8s\.io/\S+) v0\.0\.0$$|\1 $(KUBERNETES:v1.%=v0.%)|' go.mod
	cd $(BUILD)/kubernetes-source/etcd && printf 'module etcd\n' > go.mod \
	  && printf '//go:build tools\n\npackage etcd\n\nimport _ "go.etcd.io/etcd/server/v3"\n' > etcd.go \
	  && GOFLAGS=-mod=mod go get go.etcd.io/etcd/server/v3@$(ETCD)
	cd $(BUILD)/kubernetes-source/etcd && GOFLAGS=-mod=mod go build -o ../../kubernetes/etcd go.etcd.io/etcd/server/v3
	cd $(BUILD)/kubernetes-source/main && CGO_ENABLED=0 GOFLAGS=-mod=mod go build -o ../../kubernetes/kube-apiserver ./cmd/kube-apiserver
	@rm -rf $(BUILD)/kubernetes-source

.PHONY: fuzz
fuzz: install ## Look for bytes that break the frame parser, for a minute
	@mkdir -p $(BUILD)/fuzz-corpus
	@$(BIN)/python tests/runtime/link/fuzz_frames.py -max_total_time=60 -max_len=2000 $(BUILD)/fuzz-corpus

# The other modules in bench/ are parts of these.
BENCHES := codec doors cancellation request_plane events backends router router_http router_scale jobs orchestrator gateway up

.PHONY: soak
soak: install ## Kill publishers, subscribers and NATS at random, three minutes for each engine
	$(call heading,soak of local:)
	@$(BIN)/python -m tests.faults.soak --engine local:
	$(call heading,soak of nats:)
	@$(BIN)/python -m tests.faults.soak --engine nats:
	$(call heading,soak of zenoh:)
	@$(BIN)/python -m tests.faults.soak --engine zenoh:

.PHONY: bench
bench: install ## Run the benchmarks
	@for bench in $(BENCHES); do printf '\n== bench/%s.py ==\n' "$$bench"; $(BIN)/python "bench/$$bench.py" || exit 1; done

.PHONY: constraints
constraints: ## Look up the newest versions that fit together and write constraints.txt (on Python 3.11)
	$(call heading,install the newest versions)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' || { echo "Newer Pythons have newer packages: make constraints PYTHON=python3.11" >&2; exit 1; }
	@rm -rf $(BUILD)/venv-constraints
	$(call new-venv,$(BUILD)/venv-constraints)
	$(call pip-install,$(BUILD)/venv-constraints) -e '.[all,triton]' --group dev
	@{ sed -n '/^#/p' constraints.txt; \
	  $(if $(UV),$(UV) pip freeze --python,env PIP_DISABLE_PIP_VERSION_CHECK=1) $(BUILD)/venv-constraints/bin/python $(if $(UV),,-m pip freeze) \
	  | awk -F == 'NF == 2 && $$1 !~ /[^A-Za-z0-9._-]/ { gsub(/[._]/, "-", $$1); print tolower($$1) "==" $$2 }' \
	  | grep -vE '^(pip|setuptools)==' \
	  | LC_ALL=C sort; } > $(BUILD)/constraints.txt
	@mv $(BUILD)/constraints.txt constraints.txt
	@rm -rf $(BUILD)/venv-constraints
	@git --no-pager diff --stat -- constraints.txt 2>/dev/null || true

.PHONY: clean
clean: ## Remove environments, caches and builds
	rm -rf $(VENV) $(VENV_PB7) $(VENV_TORCH) $(VENV_LLAMA) .venv-triton $(BUILD) dist .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache
	rm -f components/protoplane_components/kv_router/*.so
	find . -name __pycache__ -type d -not -path './.git/*' -prune -exec rm -rf {} +

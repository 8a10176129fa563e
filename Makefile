# Everything a newcomer needs; `make help` lists it.
PYTHON ?= python3
VENV := .venv
QGIS_VENV := .venv-qgis
BIN := $(VENV)/bin
# empty: PyPI's torch, which on Linux brings several GB of CUDA packages; cpu, cu126, cu130: that build, through uv
TORCH_BACKEND ?=
UV := 'uv>=0.9,<1'
PIP := $(BIN)/python -m pip install --quiet
INSTALL := $(if $(TORCH_BACKEND),$(PIP) $(UV) && $(BIN)/uv pip install --quiet --python $(BIN)/python --torch-backend=$(TORCH_BACKEND),$(PIP))
OFFSCREEN := QT_QPA_PLATFORM=offscreen PATH=/usr/sbin:/usr/bin:/sbin:/bin

.DEFAULT_GOAL := help
.PHONY: help setup system demo demo-mm cluster-demo bench test test-backend test-plugin test-slow test-matrix lint lock lock-check install package train science science-train clean

help:  ## list the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /  make \1\t/' | expand -t 22

setup: $(VENV)/.ready  ## the backend's environment in .venv (TORCH_BACKEND=cpu: without CUDA)

$(VENV)/.ready: pyproject.toml
	$(PYTHON) -c 'import ensurepip' 2>/dev/null || sh scripts/install_qgis.sh
	$(PYTHON) -m venv $(VENV)
	$(INSTALL) .
	touch $@

$(VENV)/.tools: $(VENV)/.ready
	$(INSTALL) '.[test,lint]'
	touch $@

system:  ## Debian packages of QGIS, if QGIS is missing (needs root)
	sh scripts/install_qgis.sh

$(QGIS_VENV)/.ready: | system
	/usr/bin/python3 -m venv --system-site-packages $(QGIS_VENV)
	$(QGIS_VENV)/bin/python -m pip install --quiet pytest==9.2.0 pytest-qgis==5.0.2
	touch $@

demo: system $(VENV)/.ready  ## a real scene made 16 times finer through QGIS; results in build/demo
	$(BIN)/python scripts/demo.py

demo-mm: system $(VENV)/.ready  ## a scene in other modalities, and one from nothing, through QGIS
	$(BIN)/python scripts/demo_mm.py

cluster-demo: $(VENV)/.tools  ## a job on a Dask cluster of this machine; a worker dies, the pixels are the same
	$(BIN)/python scripts/cluster_demo.py

bench: $(VENV)/.tools  ## measure the engine on this machine (DATA=folder of imagery); tables in build/bench
	$(BIN)/python -m backend bench --data $(DATA) --output build/bench

# one thread each: the two halves and the processes they start share two cores
test: export OMP_NUM_THREADS = 1
test: $(VENV)/.tools $(QGIS_VENV)/.ready  ## every test that is not marked slow, the backend's and the plugin's side by side
	$(MAKE) --jobs=2 test-backend test-plugin

test-backend: $(VENV)/.tools  ## the backend's alone
	$(BIN)/python -m pytest tests/backend -m 'not slow'

test-plugin: $(VENV)/.tools $(QGIS_VENV)/.ready  ## the plugin's alone
	$(OFFSCREEN) $(QGIS_VENV)/bin/python -m pytest tests/plugin tests/e2e tests/gui -m 'not slow'

test-slow: $(VENV)/.tools $(QGIS_VENV)/.ready  ## the slow tests
	$(BIN)/python -m pytest tests/backend -m slow
	$(OFFSCREEN) $(QGIS_VENV)/bin/python -m pytest tests/plugin tests/e2e tests/gui -m slow || [ $$? -eq 5 ]

test-matrix: $(VENV)/.tools $(QGIS_VENV)/.ready  ## the plugin's tests on this QGIS, on 3.40, and on Debian 13 with 3.44 (Debian 12, root)
	sh scripts/test_matrix.sh

lock: $(VENV)/.tools  ## pin the backend's packages anew in resources/backend.lock
	$(BIN)/python scripts/lock.py

lock-check: $(VENV)/.tools  ## whether the lock resolves for Windows, macOS and Linux
	$(BIN)/python scripts/lock.py --check

lint: $(VENV)/.tools package  ## ruff, mypy, the QGIS 4 rules, and the upload scan of the zip
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/flake8 --isolated --select QGS1,QGS4 plugin __init__.py
	$(BIN)/python scripts/package.py --scan

package:  ## build/metaearth.zip and the zips of large models; set author and addresses in metadata.txt before an upload
	$(PYTHON) scripts/package.py

install:  ## link the plugin into your own QGIS profile
	$(PYTHON) scripts/qgis_profile.py --user

train: $(VENV)/.ready  ## train metaearth-lite from scratch on DATA=folder
	$(BIN)/python -m backend train --config metaearth-lite --start none --data $(DATA) --output build/train/lite --set steps=5600

science-train: $(VENV)/.tools  ## train the checkpoints of docs/science.md on DATA=folder (hours)
	$(BIN)/python scripts/science.py train $(DATA)

science: $(VENV)/.tools  ## evaluate them on DATA=folder and write docs/science.md
	$(BIN)/python scripts/science.py evaluate $(DATA)

clean:  ## remove what was built, but for the environments
	rm -rf build

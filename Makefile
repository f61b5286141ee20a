# One set-up, reused by every target: no root, no GPU, no download beyond the package registry.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
# itkwidgets without network, where npm can bring its JavaScript; all other viewers go without.
VIEWERS = if command -v npm >/dev/null; then $(BIN)/dualtask viewers install || true; fi
# JupyterLab asks whether it may load news and looks for updates as soon as it opens; a course needs neither.
NO_NEWS = $(BIN)/jupyter labextension disable --level=sys_prefix @jupyterlab/apputils-extension:announcements 2>/dev/null || true

export MPLBACKEND := Agg
export PYTHONUNBUFFERED := 1

.DEFAULT_GOAL := help
.PHONY: help demo models times test fuzz load lab notebooks results nbgrader slides lint clean

help: ## this list
	@echo "Dual-Task Lite. The first target that needs it makes $(VENV) and installs (some minutes); PYTHON=... chooses the interpreter."
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: $(STAMP) ## run every lesson on the embedded data into build/demo/ (open build/demo/index.html)
	@$(VIEWERS)
	$(BIN)/python notebooks/build.py demo build/demo

times: $(STAMP) ## keep the times and pictures of the last demo, in data/results, the notebooks and the README
	$(BIN)/python notebooks/build.py times build/demo

test: $(STAMP) lint ## format, lint, types, import rule, every test
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2

lab: $(STAMP) ## open JupyterLab on the notebooks, for this machine only
	@$(VIEWERS)
	@$(NO_NEWS)
	$(BIN)/python -m jupyterlab --ip=127.0.0.1 --ServerApp.root_dir=notebooks $(if $(filter 0,$(shell id -u)),--allow-root)

notebooks: $(STAMP) ## write notebooks/*.ipynb from notebooks/source/*.py; ADDRESS=https://... sets where the course lies
	$(if $(ADDRESS),$(BIN)/python notebooks/address.py '$(ADDRESS)')
	$(BIN)/python notebooks/build.py notebooks

results: $(STAMP) ## write the results of data/results/exam and reference into README.md and the tables' pages
	$(BIN)/python notebooks/build.py results

slides: $(STAMP) ## make slides (reveal.js, from npm) of the lessons that the last demo ran, in build/demo/
	$(BIN)/python notebooks/build.py slides build/demo

nbgrader: $(STAMP) ## write the lessons as assignments of nbgrader into build/nbgrader/
	$(BIN)/python notebooks/build.py nbgrader build/nbgrader

models: $(STAMP) ## train the reference models again (hours; goes on where it was cut) and write data/models
	OMP_NUM_THREADS=1 $(BIN)/dualtask ablate --profile reference --protocol leave-one-centre-out --part C --seeds 1 --jobs 2 \
		--arm segmentation+optimiser.steps=9600 --arm conversion+optimiser.steps=9600 --arm full+optimiser.steps=9600 \
		-o runs/reference
	$(BIN)/python -m dualtask_lite.engine.reference

fuzz: $(STAMP) ## 36,000 damaged files through every reader, 3,000 trees of inputs, 100 kills of running commands (not part of make test)
	DUALTASK_FUZZ=3000 DUALTASK_KILLS=20 OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 tests/fuzz tests/faults/test_kill.py

load: $(STAMP) ## a folder of 200 cases through every command, ten kernels at once (not part of make test)
	DUALTASK_CASES=200 DUALTASK_KERNELS=10 OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests/faults/test_folder.py tests/notebooks -k 'folder or kernels'

lint: $(STAMP) ## format, lint, types and import rule only
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

clean: ## remove what was built; keeps the environment, the data and what learners handed in
	rm -rf $(filter-out build/nbgrader,$(wildcard build/*)) dist .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "error: Python 3.10 or newer is needed; make PYTHON=/path/to/python3.12 ...")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[notebooks,viewers,dev]'
	@touch $@

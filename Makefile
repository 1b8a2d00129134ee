# Every target sets up .venv from nothing where it must; paths may hold spaces.
PYTHON ?= python3
VENV = .venv/bin/python

.PHONY: demo test check wheel bench docs notebooks clean

demo: .venv/.installed
	$(VENV) -m pairsieve demo --out runs/demo

test: .venv/.installed
	$(VENV) -m pytest -q -n 2 --dist loadfile --no-loadscope-reorder

check: .venv/.installed
	$(VENV) -m ruff check .
	$(VENV) -m ruff format --check .
	$(VENV) -m mypy
	.venv/bin/lint-imports

bench: .venv/.installed
	$(VENV) -m tests.benchmarks.engine

docs: .venv/.installed
	NO_MKDOCS_2_WARNING=1 $(VENV) -m mkdocs build --strict

notebooks: .venv/.installed
	$(VENV) -m scripts.run_notebooks notebooks

wheel: .venv/.installed
	$(VENV) -m build --wheel --outdir dist

.venv/.installed: pyproject.toml constraints.txt tests/peers.txt
	@echo "setting up .venv: some minutes, once"
	$(PYTHON) -m venv .venv
	$(VENV) -m pip install --quiet --upgrade pip -c constraints.txt
	$(VENV) -m pip install --quiet --editable '.[dev]' -c constraints.txt
	$(VENV) -m pip install --quiet --no-deps -r tests/peers.txt
	touch .venv/.installed

clean:
	rm -rf .venv build dist *.egg-info

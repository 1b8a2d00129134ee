# Every target sets up .venv from nothing where it must; paths may hold spaces.
PYTHON ?= python3
VENV = .venv/bin/python

.PHONY: demo test check wheel bench clean

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

wheel: .venv/.installed
	$(VENV) -m build --wheel --outdir dist

.venv/.installed: pyproject.toml constraints.txt tests/peers.txt
	$(PYTHON) -m venv .venv
	$(VENV) -m pip install --quiet --upgrade pip -c constraints.txt
	$(VENV) -m pip install --quiet --editable '.[dev]' -c constraints.txt
	$(VENV) -m pip install --quiet --no-deps -r tests/peers.txt
	touch .venv/.installed

clean:
	rm -rf .venv build dist *.egg-info

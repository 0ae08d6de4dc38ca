# make demo | test | check | docs | data | checkpoints | ship
#
# Override on the command line: make demo VENV=/path/to/env PYTHON=python3.12
# Written for any POSIX make and sh (GNU make, BSD make, the make of macOS).

PYTHON = python3
VENV = .venv
JOBS = 2
PY = $(VENV)/bin/python
STAMP = $(VENV)/.installed

.PHONY: help install demo test check docs data checkpoints ship clean

help:
	@echo "make demo         install, run the main job on the shipped model, show where the report is"
	@echo "make test         install, run the tests"
	@echo "make check        install, ruff, mypy and the pages' links"
	@echo "make docs         install, build the pages of docs/ into build/site; a broken link fails"
	@echo "make data         generate the mini-benchmarks again"
	@echo "make checkpoints  train the shipped models and the trained methods again (hours on a CPU)"
	@echo "make ship         copy what 'make checkpoints' trained to assets/"
	@echo "make clean        remove the environment and the caches; runs stay"

install: $(STAMP)

# The stamp makes a second call instant; a change of either file installs again.
$(STAMP): pyproject.toml constraints.txt
	@set -e; \
	if [ ! -x "$(PY)" ]; then \
	  found=; \
	  for p in $(PYTHON) python3.13 python3.12 python3.11; do \
	    if "$$p" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' \
	        >/dev/null 2>&1; then found=$$p; break; fi; \
	  done; \
	  if [ -z "$$found" ]; then \
	    echo "Python 3.11, 3.12 or 3.13 is needed: make PYTHON=/path/to/python3.12" >&2; exit 1; \
	  fi; \
	  echo "Creating $(VENV) with $$found"; \
	  "$$found" -m venv "$(VENV)"; \
	fi
	@echo "Installing into $(VENV) (about 120 packages, a few minutes the first time)"
	@$(PY) -m pip install --disable-pip-version-check --quiet --progress-bar off \
	  -c constraints.txt -e ".[dev]"
	@touch $(STAMP)

# Two processes of one thread answer more than one of two threads, and times are of one thread:
# a small model's second thread waits most of the time (docs/cpu.md).
demo: $(STAMP)
	$(PY) run_suite.py --methods gamma,pmod,fastv --bench gqa,textvqa --out runs/demo \
		--limit 300 --analyse arank --analyse-samples 10 --jobs 2 --threads 1 --with-throughput \
		--workload bench=gqa:n_out=4:batch=8,n_text=32:n_image=576:n_out=4:batch=2 \
		--warmup 2 --max-seconds 5
	@echo
	@echo "Report: `pwd`/runs/demo/report.html (open it in a browser)"
	@echo "Next, a method of your own:  $(PY) run_suite.py --list methods"
	@echo "                             docs/adding-a-method.md"
	@echo "      the table to paste:    $(PY) run_suite.py --plots-only runs/demo --table md"
	@echo "      more of a comparison:  $(PY) run_suite.py --suite suites/first-light.yaml"

# One thread a worker: tiny models lose more by sharing cores than they gain.
test: $(STAMP)
	OMP_NUM_THREADS=1 $(PY) -m pytest -n auto --maxprocesses 4 --dist loadfile

check: $(STAMP)
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy
	$(VENV)/bin/lint-imports --no-cache
	$(PY) -m sphinx -q -W --keep-going -b html docs build/site

docs: $(STAMP)
	$(PY) -m sphinx -q -W --keep-going -b html docs build/site
	@echo "Pages: `pwd`/build/site/index.html"

data: $(STAMP)
	$(PY) -m minidata bench --out assets/mini

# JOBS trainings at a time where none waits for another (up to 8 GB and a core each).
checkpoints: $(STAMP)
	$(PY) -m harness.train --all $(MODEL) --jobs $(JOBS)

# What `make checkpoints` trained becomes what the repository ships. MODEL=tiny-qwen: that one alone.
ship: $(STAMP)
	$(PY) -m harness.train --ship $(MODEL)

clean:
	rm -rf "$(VENV)" build *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis

# Each target sets up what it needs: .venv is made when absent.
PYTHON ?= python3
BIN := .venv/bin
export MLFLOW_DISABLE_TELEMETRY := true
export PATH := $(CURDIR)/$(BIN):$(PATH)

.PHONY: demo test lint bench format ui clean

demo: .venv/ready
	$(BIN)/snakemake --configfile config/demo.yaml all
	$(BIN)/snakemake --quiet --configfile config/demo.yaml --report results/demo/report.html
	@$(BIN)/symnet show --results results/demo

test: .venv/ready
	OMP_NUM_THREADS=1 $(BIN)/pytest -n 2 --dist loadgroup $(ARGS)

lint: .venv/ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/snakefmt --check -l 140 Snakefile workflow
	$(BIN)/snakemake --lint --configfile config/demo.yaml

# Figures of a quiet machine only: what runs beside it is in them.
bench: .venv/ready
	MALLOC_MMAP_MAX_=0 MALLOC_TRIM_THRESHOLD_=8589934592 $(BIN)/symnet bench $(ARGS)

format: .venv/ready
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/snakefmt -l 140 Snakefile workflow

ui: .venv/ready
	$(BIN)/symnet track ui

clean:
	rm -rf .venv results .snakemake

# torch by pip, which finds a wheel for CPUs where one is configured; the rest by uv, in a sixth of pip's time and with the certificates of
# the system, as pip, or by pip where uv can not.
.venv/ready: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --no-compile --constraint constraints.txt torch torchvision uv
	$(BIN)/uv pip install --quiet --system-certs --python $(BIN)/python --constraint constraints.txt --editable '.[dev,web]' || \
	  $(BIN)/python -m pip install --quiet --no-compile --constraint constraints.txt --editable '.[dev,web]'
	$(BIN)/python -m compileall -qq -j 0 -x '/tests/' .venv/lib || true # byte code, by all cores, where an installer would use one
	touch $@

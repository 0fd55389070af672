# make demo     three sites learn together, on this machine, with built-in images
# make test     the fast test suite
# Both set up .venv first if it is missing; everything else needs it too.

PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready

.PHONY: demo compare-demo bench bench-headneck test test-slow check lint format hippocampus bench-transfer bench-payload bench-distillation evidence docs faults wheel clean help

help:
	@sed -n 's/^# make/make/p' Makefile

demo: $(READY)
	$(BIN)/nnunet-gml demo --continue

# make compare-demo     what the demo's sites gained: demo-compare/report.html, in a browser if there is one
compare-demo: demo
	$(BIN)/nnunet-gml compare demo-run --out demo-compare
	$(BIN)/python -m webbrowser -t "file://$(CURDIR)/demo-compare/report.html"

test: $(READY)
	$(BIN)/python -m pytest

# make test-slow     what takes minutes: a whole simulation from raw data to the table
test-slow: $(READY)
	$(BIN)/python -m pytest -m slow

# make check    linter, format, types, and the fast test suite
check: lint test

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# make hippocampus   three simulated sites of real MRI; continues where it stopped
hippocampus: $(READY)
	$(BIN)/python examples/hippocampus/run.py

# make bench-transfer   our SFTP client and server beside OpenSSH and paramiko as shipped; needs a quiet machine
bench-transfer: $(READY)
	$(BIN)/python benchmarks/transfer.py

# make bench-payload   bytes and errors of float32, float16 and int8 on the networks of make hippocampus
bench-payload: $(READY)
	$(BIN)/python benchmarks/payload.py hippocampus-run

# make bench-distillation   memory and time of the distillation loss beside a stock training step
bench-distillation: $(READY)
	KINETO_LOG_LEVEL=99 $(BIN)/python benchmarks/distillation.py

# make bench   steps, memory, stalls, bytes, scale, start-up beside stock nnU-Net and FedAvg; docs/results/speed.md; hours; a quiet machine
bench: $(READY)
	$(BIN)/python benchmarks/speed.py

# make bench-headneck   six simulated sites, real contours, synthetic intensities; hours; docs/results/headneck.md
bench-headneck: $(READY)
	$(BIN)/python benchmarks/evidence.py headneck --seeds 1 2 3

# make evidence SET=hippocampus   (or few, parts, headneck, headneck-phantom, partial) the methods side by side; hours; continues where it stopped
evidence: $(READY)
	$(BIN)/python benchmarks/evidence.py $(SET)

# make docs   the documentation as a site: docs/_build/index.html
docs: $(READY)
	$(BIN)/python -m sphinx -W -q -b html docs docs/_build

# make faults   every fault that the courier must survive, done to real processes; docs/results/faults.md
faults: $(READY)
	$(BIN)/python benchmarks/faults.py

format: $(READY)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

wheel: $(READY)
	$(BIN)/python -m build --wheel

clean:
	rm -rf .venv dist demo-run demo-compare docs/_build

$(READY): pyproject.toml constraints.txt
	@echo "setting up .venv: some minutes and, on Linux, about 7 GB of PyTorch"
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --progress-bar off --constraint constraints.txt --editable '.[dev]'
	touch $(READY)

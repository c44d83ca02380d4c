# make book   run what has changed and render the book (PROFILE=smoke|fast|paper, JOBS=chapters at a time)
# make test   unit tests and the chapters' committed outputs, side by side
# make release  sources and rendered book as archives with checksums in dist/, from a clean tree whose versions agree
# All make .venv first if it is missing or its requirements have changed. PYTHON=... names the interpreter to use.

PROFILE ?= fast
JOBS ?= 2
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
export OMP_NUM_THREADS := 1

.PHONY: book test lint release clean distclean
.DELETE_ON_ERROR:

book: $(READY)
	@$(BIN)/python -m molkit book build --profile $(PROFILE) --jobs $(JOBS)

test: $(READY)
	@mkdir -p _run && { $(BIN)/python -m pytest chapters > _run/chapters.log 2>&1 < /dev/null & chapters=$$!; \
	trap 'kill $$chapters 2> /dev/null' EXIT INT TERM; \
	echo "Unit tests (the chapters run beside them):"; \
	$(BIN)/python -m pytest tests < /dev/null; unit=$$?; \
	wait $$chapters; notebooks=$$?; trap - EXIT; \
	echo "Chapters against their committed outputs:"; cat _run/chapters.log; \
	if [ $$unit -ne 0 ]; then echo "make test: unit tests failed (pytest ended with $$unit)" >&2; exit 1; fi; \
	if [ $$notebooks -ne 0 ]; then echo "make test: chapters failed (pytest ended with $$notebooks)" >&2; exit 1; fi; }

lint: $(READY)
	@$(BIN)/ruff check . && $(BIN)/ruff format --check .

release: $(READY)
	@$(BIN)/python -m molkit book archive --out dist

clean:
	rm -rf _build _run

distclean: clean
	rm -rf $(VENV)

$(READY): requirements.txt requirements.lock pyproject.toml
	@if ! $(BIN)/python -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 14))' 2> /dev/null; then \
	  found=; for name in $(PYTHON) python3.13 python3.12 python3.11 python3; do \
	    if $$name -c 'import sys, venv, ensurepip; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 14))' 2> /dev/null; \
	    then found=$$name; break; fi; done; \
	  if [ -z "$$found" ]; then \
	    echo "make: needs Python 3.11, 3.12 or 3.13 with its venv module (on Debian: apt install python3-venv);" \
	      "found none. Install one, or name it: make book PYTHON=/path/to/python3" >&2; exit 2; fi; \
	  echo "Making $(VENV) with $$($$found --version)"; rm -rf $(VENV); $$found -m venv $(VENV) || exit 1; fi
	@echo "Installing requirements (a minute or two, about 2 GB)"
	@pip="$(BIN)/python -m pip install -q --disable-pip-version-check"; $$pip "$$(grep '^torch==' requirements.txt)" && \
	  $$pip --no-deps --require-hashes -r requirements.lock && $$pip --no-deps -e . || \
	  { echo "make: pip could not install the requirements; the lines above say why. Run make again to retry." >&2; exit 1; }
	@touch $@

# make demo: set up and run the main job.   make test: set up and pass the gate.
# make nightly: everything, also what is slow and rarely fails.
# All do their own set-up in .venv; PYTHON chooses the interpreter.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PLUGINS := plugins/soma-filters-sklearn plugins/soma-filters-torch plugins/soma-codecs-arrow plugins/soma-cache plugins/soma-http
RAY := plugins/soma-transport-ray
RAY_VENV := .venv-ray
MODELS_VENV := .venv-models
HTTP := plugins/soma-http
HTTP_VENV := .venv-http
# Not installed in the gate: every worker of every test would load it.
TELEMETRY := plugins/soma-telemetry
# Not installed in the gate, since ONNX Runtime and transformers are heavy.
MODELS := plugins/soma-filters-onnx plugins/soma-filters-text
# What shows that the packages work with other versions of Python and of what they need. Without
# torch, of which only the newest version has a small build.
LIGHT := tests/protocol tests/engine tests/discovery tests/debugging tests/kit/test_transports.py \
	$(addprefix tests/transports/test_,wire.py deadlines.py sessions.py interrupting_messages.py) \
	--ignore tests/protocol/test_kinds_of_values.py
LIGHT_VENV ?= .venv-light
LOWEST_VENV := .venv-lowest
LOWEST := . plugins/soma-filters-sklearn plugins/soma-codecs-arrow plugins/soma-cache
PLUGIN_SUITES := $(addsuffix /tests,$(PLUGINS) $(RAY) $(TELEMETRY) $(MODELS))
SUITES := tests $(PLUGIN_SUITES)
INPUTS := pyproject.toml constraints.txt $(wildcard plugins/*/pyproject.toml)
JOBS ?= 3
# Tests start workers by the thousand: each would compile the package anew.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: demo test nightly lint types units coverage slow plugins light lowest ray models http http-peers console-pictures figures schemas reference docs release clean

demo: $(VENV)/.ready
	$(BIN)/soma demo --curve build/training-curve.png

test: lint
	+$(MAKE) --jobs=2 types units

# One step that fails does not keep the others from running: the last line names those that did.
NIGHTLY := lint types coverage slow plugins lowest ray
nightly:
	+@failed=; for step in $(NIGHTLY); do \
		echo "== make $$step"; $(MAKE) --no-print-directory $$step || failed="$$failed $$step"; done; \
	if [ -n "$$failed" ]; then echo "nightly: failed:$$failed"; exit 1; fi; \
	echo "nightly: all passed: $(NIGHTLY)"

lint: $(VENV)/.ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports

types: $(VENV)/.ready
	$(BIN)/mypy

# Threads of OpenMP or OpenBLAS that wait by spinning take a core from the next test: those of a
# new worker, which have nothing to do, a quarter of what its start takes.
units coverage slow plugins light lowest: export OMP_WAIT_POLICY := passive
units coverage slow plugins light lowest: export OPENBLAS_THREAD_TIMEOUT := 4
# Fewer inputs of each kind than at night.
units: export HYPOTHESIS_PROFILE := gate
units: export SOMA_FUZZ_EXAMPLES := 20
units: $(VENV)/.compiled
	$(BIN)/python -m pytest -n $(JOBS) -m 'not nightly' $(SUITES)

# The gate's tests of the core, measured: branches, those of worker processes among them. A process
# starts and ends slower for it, and each call of a test takes longer: the others do without. What
# was covered is said also where a test failed.
coverage: $(VENV)/.ready
	$(BIN)/coverage erase
	status=0; $(BIN)/coverage run -m pytest -n $(JOBS) -m 'not nightly' tests || status=$$?; \
	$(BIN)/coverage combine --quiet && $(BIN)/coverage report || status=1; exit $$status

# With plugins, all tests but those that coverage runs.
slow: $(VENV)/.docs
	$(BIN)/python -m pytest -n $(JOBS) -m nightly tests

plugins: $(VENV)/.docs
	$(BIN)/python -m pytest -n $(JOBS) $(PLUGIN_SUITES)

# Another Python: make light PYTHON=python3.13 LIGHT_VENV=.venv-light-3.13
light: $(LIGHT_VENV)/.ready
	$(LIGHT_VENV)/bin/python -m pytest -n $(JOBS) -m 'not nightly' $(LIGHT)

# The lowest version of everything that the packages promise. Old ones warn of newer ones.
lowest: $(LOWEST_VENV)/.ready
	$(LOWEST_VENV)/bin/python -m pytest -n $(JOBS) -m 'not nightly' \
		-W default::DeprecationWarning $(LIGHT)

# Ray is heavy, so that the gate does without: it skips what needs a cluster, which runs here.
ray: $(RAY_VENV)/.ready
	cd $(RAY) && PYTHONPATH=. ../../$(RAY_VENV)/bin/lint-imports
	$(RAY_VENV)/bin/pytest $(RAY)/tests
	$(RAY_VENV)/bin/python examples/grid_search.py --transport ray
	$(RAY_VENV)/bin/python -m benchmarks.ray_price

# Packages of models that are heavy, and that the gate does without: it skips what needs them.
models: $(MODELS_VENV)/.ready
	$(MODELS_VENV)/bin/pytest -n $(JOBS) plugins/soma-filters-sklearn/tests/test_boosters.py \
		$(addsuffix /tests,$(MODELS))
	$(MODELS_VENV)/bin/pytest tests/docs/test_documentation.py -k 'onnx or text'
	$(MODELS_VENV)/bin/python -m benchmarks.estimators

# Everything over HTTP, also what the gate leaves out, against clients that others wrote.
http: $(HTTP_VENV)/.ready
	cd $(HTTP) && PYTHONPATH=. ../../$(HTTP_VENV)/bin/lint-imports
	$(HTTP_VENV)/bin/pytest -n $(JOBS) $(HTTP)/tests $(TELEMETRY)/tests tests/examples/test_service.py
	$(HTTP_VENV)/bin/pytest tests/docs/test_documentation.py -k telemetry
	$(HTTP_VENV)/bin/python -m benchmarks.telemetry
	$(HTTP_VENV)/bin/python -m benchmarks.http
	$(HTTP_VENV)/bin/python -m benchmarks.http_hostile
	if command -v chromium; then $(HTTP_VENV)/bin/python -m benchmarks.console; fi

# The same model over REST, beside other servers, each in an environment of its own.
http-peers: $(HTTP_VENV)/.ready
	for peer in litserve mlserver; do \
		$(PYTHON) -m venv .venv-$$peer && .venv-$$peer/bin/python -m pip install --quiet \
			$$peer numpy scikit-learn 'uvloop<0.22' || exit 1; done
	$(HTTP_VENV)/bin/python -m benchmarks.http_peers \
		--litserve .venv-litserve/bin/python --mlserver .venv-mlserver/bin/python

# The pictures of the console in the documentation.
console-pictures: $(HTTP_VENV)/.ready
	$(HTTP_VENV)/bin/python -m tools.console_pictures docs

# Every number of the documentation, one after the other: faults and soak take longest.
figures: $(RAY_VENV)/.ready
	$(RAY_VENV)/bin/python -m pip install --quiet --constraint constraints.txt --editable '.[peers]'
	missed=0; for figure in start serving executors hosts memory payloads training cache tables plugins ray_price faults ends soak __main__; do \
		$(RAY_VENV)/bin/python -m benchmarks.$$figure || missed=1; done; exit $$missed

schemas: $(VENV)/.ready
	$(BIN)/soma schema --out schemas --vectors schemas/vectors
	$(BIN)/python -m tools.typescript

reference: $(VENV)/.ready
	$(BIN)/python -m tools.reference
	$(BIN)/python -m tools.command_line
	$(BIN)/python -m tools.sklearn_estimators

docs: $(VENV)/.docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

# Builds all wheels and sdists into dist, checks them, installs each by itself and tries it. Uploads
# nothing. `make release RELEASE="--draft --only soma-core"` tries one, whatever the CHANGELOG says.
release: $(VENV)/.ready
	$(BIN)/python -m pip install --quiet twine hatchling
	PIP_CONSTRAINT=$(CURDIR)/constraints.txt $(BIN)/python -m tools.release $(RELEASE)

# pip, not uv: on many machines torch's small CPU build is found through pip's own settings alone.
# It would make an environment of its own for the building of each package, and compile also what no
# test imports.
$(VENV)/.ready: $(INPUTS)
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip hatchling editables
	$(BIN)/python -m pip install --quiet --no-compile --no-build-isolation \
		--constraint constraints.txt \
		--editable '.[torch,plot,test]' $(addprefix --editable ,$(PLUGINS))
	touch $@

# What tests import is compiled by one process, while mypy runs: those of the tests would all compile
# the same. What is wrong shows in the tests.
$(VENV)/.compiled: $(VENV)/.ready
	$(BIN)/python -m pytest --collect-only -qq -m 'not nightly' $(SUITES) > $@ || true

# What builds the site, which the gate does without.
$(VENV)/.docs: $(VENV)/.ready
	$(BIN)/python -m pip install --quiet --no-build-isolation --constraint constraints.txt \
		--editable '.[docs]'
	touch $@

$(LIGHT_VENV)/.ready: $(INPUTS)
	$(PYTHON) -m venv $(LIGHT_VENV)
	$(LIGHT_VENV)/bin/python -m pip install --quiet --upgrade pip
	$(LIGHT_VENV)/bin/python -m pip install --quiet --no-compile \
		--editable '.[test]' --editable plugins/soma-filters-sklearn
	touch $@

$(LOWEST_VENV)/.ready: $(INPUTS) tools/lowest.py $(VENV)/.ready
	mkdir -p build
	$(BIN)/python -m tools.lowest $(LOWEST) > build/lowest.txt
	$(PYTHON) -m venv $(LOWEST_VENV)
	$(LOWEST_VENV)/bin/python -m pip install --quiet --upgrade pip
	PIP_CONSTRAINT=build/lowest.txt $(LOWEST_VENV)/bin/python -m pip install --quiet --no-compile \
		$(addprefix --editable ,$(LOWEST)) \
		pytest pytest-timeout pytest-xdist hypothesis jsonschema httpx pandas ml_dtypes
	touch $@

$(RAY_VENV)/.ready: $(INPUTS)
	$(PYTHON) -m venv $(RAY_VENV)
	$(RAY_VENV)/bin/python -m pip install --quiet --upgrade pip
	$(RAY_VENV)/bin/python -m pip install --quiet --constraint constraints.txt \
		--editable '.[torch,test]' $(addprefix --editable ,$(PLUGINS) $(RAY))
	touch $@

$(MODELS_VENV)/.ready: $(INPUTS)
	$(PYTHON) -m venv $(MODELS_VENV)
	$(MODELS_VENV)/bin/python -m pip install --quiet --upgrade pip
	$(MODELS_VENV)/bin/python -m pip install --quiet --constraint constraints.txt \
		--editable '.[test]' --editable 'plugins/soma-filters-sklearn[models]' $(foreach plugin,$(MODELS),--editable '$(plugin)[test]')
	touch $@

$(HTTP_VENV)/.ready: $(INPUTS)
	$(PYTHON) -m venv $(HTTP_VENV)
	$(HTTP_VENV)/bin/python -m pip install --quiet --upgrade pip
	$(HTTP_VENV)/bin/python -m pip install --quiet --constraint constraints.txt \
		--editable '.[test]' --editable plugins/soma-filters-sklearn --editable '$(HTTP)[clients]' \
		--editable '$(TELEMETRY)[test]'
	touch $@

clean:
	rm -rf $(VENV) .venv-light* $(LOWEST_VENV) $(RAY_VENV) $(MODELS_VENV) $(HTTP_VENV) .venv-litserve .venv-mlserver build dist site .coverage* .mypy_cache .pytest_cache .ruff_cache

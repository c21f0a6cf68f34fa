# Everything is set up inside the checkout: target/ for what is built, .venv/ for Python. Only the caches of cargo and
# pip are outside.

PYTHON ?= python3
CARGO ?= cargo

.PHONY: help demo test test-rust test-python test-pythons test-conformance test-versions chaos fuzz conformance
.PHONY: lint bench clean packages archives deb wheel formula test-packages

help:
	@echo "make demo         build ipcluster and show a cluster at work"
	@echo "make test         set everything up and run all tests"
	@echo "make conformance  run ipyparallel's tests with every combination of our programs and its own"
	@echo "make test-versions  older versions of ipyparallel with our programs"
	@echo "make chaos        faults on a real cluster under load, and a checker (SECONDS=3600 SEED=7)"
	@echo "make fuzz         bytes of others, under libFuzzer (SECONDS=600 for each target)"
	@echo "make bench        measure against ipyparallel and the limit of the sockets"
	@echo "make lint         what CI checks before the tests"
	@echo "make packages     Debian package, wheel, Homebrew formula and release archives, in target/packages/dist"
	@echo "make test-packages  the same; then each is installed, used and removed (as root)"

# Prints the interpreter of the private Python environment, which it makes if it has to.
ENVIRONMENT = $(PYTHON) tests/python_environment.py .venv tests/requirements.txt

# Runs a command on each of some folders, also after one that has failed, and says at the end which have.
EACH = failed=; for part in $(2); do $(1) "$$part" || failed="$$failed $$part"; done; \
	if [ -n "$$failed" ]; then echo "failed:$$failed" >&2; exit 1; fi

demo:
	$(CARGO) build --release --locked
	@python=$$($(ENVIRONMENT)) && mkdir -p target/demo && \
	IPYTHONDIR="$$PWD/target/demo/ipython" VIRTUAL_ENV="$$PWD/.venv" IPP_PROFILE_DIR= IPP_CLUSTER_ID= \
	"$$python" packaging/demo/stdlib_names.py "$$PWD/target/release/ipcluster"

test: test-rust test-python test-pythons test-conformance

test-rust:
	$(CARGO) test --locked

# Many of them start servers and programs of others, which have their own races: where nobody is there to look, what fails is
# tried once more, and named.
ONCE_MORE = $(if $(CI),--reruns 1 --max-suite-reruns 5 --rerun-show-tracebacks -r fER)

test-python:
	$(CARGO) build --locked
	@python=$$($(ENVIRONMENT)) && $(call EACH,"$$python" -m pytest -q $(ONCE_MORE),tests/worker tests/python tests/chaos)

# The kernel's own tests, under every Python that is there.
test-pythons:
	$(PYTHON) tests/worker/every_python.py target/pythons

test-conformance:
	$(CARGO) build --locked
	$(PYTHON) tests/conformance/run.py

conformance:
	$(CARGO) build --locked
	$(PYTHON) tests/conformance/run.py --ours both
	$(PYTHON) tests/conformance/run.py --ours controller
	$(PYTHON) tests/conformance/run.py --ours engine
	$(MAKE) test-versions

# Clients and engines of older versions of ipyparallel; see tests/versions/README.md.
test-versions:
	$(CARGO) build --locked
	@python=$$($(ENVIRONMENT)) && "$$python" -m pytest -q tests/versions

# make chaos SECONDS=3600 SEED=7; see tests/chaos/README.md.
SECONDS ?= 60
chaos:
	$(CARGO) build --locked
	@python=$$($(ENVIRONMENT)) && "$$python" tests/chaos/run.py --seconds $(SECONDS) $(if $(SEED),--seed $(SEED))

# make fuzz SECONDS=600 TARGET=query; each target in turn for so long. See fuzz/README.md.
fuzz:
	$(PYTHON) fuzz/run.py --seconds $(SECONDS) $(if $(TARGET),--only $(TARGET))

lint:
	$(CARGO) fmt --check
	$(CARGO) clippy --locked --all-targets -- -D warnings
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --locked --no-deps

bench:
	@python=$$($(ENVIRONMENT)) && STOCK_PYTHON="$$python" $(CARGO) bench --locked --bench taskdb && \
	$(CARGO) bench --locked --bench load -- --python "$$python"
	$(CARGO) build --release --locked
	@python=$$($(ENVIRONMENT)) && "$$python" benches/engines.py && \
	"$$python" benches/life_cycle.py && "$$python" benches/life_cycle.py --stock 3

# packaging/README.md says what each of them needs. All are made of one release build.
packages:
	$(PYTHON) packaging/build.py

archives deb wheel formula:
	$(PYTHON) packaging/build.py $@

# Installs, uses and removes each of them, in places of their own; takes root for the Debian package.
test-packages: packages
	@python=$$($(ENVIRONMENT)) && "$$python" -m pytest -q -rs tests/packages

clean:
	$(CARGO) clean
	rm -rf .venv

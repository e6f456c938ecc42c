# `make run` builds and starts the server, `make test` runs all tests. Both first
# install what is missing. What they compile is kept in $MYELIN_CACHE, by default
# ~/.cache/myelin, and used again by every clone.

.PHONY: run test test-long coverage mutants bench lint

# ARGS are given to the server: make run ARGS="--config myelin.toml"
run:
	@bash scripts/run.sh $(ARGS)

# ARGS are given to cargo test: make test ARGS="--test client_server login"
test:
	@bash scripts/test.sh $(ARGS)

# What takes longer: tests that are ignored otherwise, and measurements.
test-long:
	@bash scripts/test.sh -- --include-ignored
	@bash scripts/foreign.sh --all
	@bash scripts/mutants.sh
	@bash scripts/measure.sh

# All tests, and complement-tests/coverage/coverage.md written anew out of what they did.
coverage:
	@COVERAGE=write bash scripts/test.sh

# Do the tests notice defects? ARGS are parts of their names: make mutants ARGS="password"
mutants:
	@bash scripts/mutants.sh $(ARGS)

# Speed beside Synapse, and plots. ARGS are given to myelin-bench: make bench ARGS="--scale quick"
bench:
	@bash scripts/bench.sh $(ARGS)

# Format, lints, documentation, licences, spelling.
lint:
	@bash scripts/lint.sh

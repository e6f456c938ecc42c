# `make run` builds and starts the server, `make test` runs all tests. Both first
# install what is missing. What they compile is kept in $MYELIN_CACHE, by default
# ~/.cache/myelin, and used again by every clone.

.PHONY: run test test-long bench lint

# ARGS are given to the server: make run ARGS="--config myelin.toml"
run:
	@bash scripts/run.sh $(ARGS)

# ARGS are given to cargo test: make test ARGS="--test client_server login"
test:
	@bash scripts/test.sh $(ARGS)

# What takes longer: tests that are ignored otherwise, and measurements.
test-long:
	@bash scripts/test.sh -- --include-ignored
	@bash scripts/measure.sh

# Speed beside Synapse, and plots. ARGS are given to myelin-bench: make bench ARGS="--scale quick"
bench:
	@bash scripts/bench.sh $(ARGS)

# Format, lints, documentation, licences, spelling.
lint:
	@bash scripts/lint.sh

#!/usr/bin/env bash
# Runs all tests, those with other people's clients included; arguments are given to cargo test.
# Ends with a table: layer, number of tests, time. A run of everything also says what the tests
# cover (complement-tests/coverage/), and fails if that became less; COVERAGE=write writes it down.
set -euo pipefail
. "$(dirname "$0")/prepare.sh"
. scripts/clients.sh

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
log=$work/log
status=0
build_began=$SECONDS

# Clones may share the target directory, where the binaries have the same paths for
# all of them. So the build happens under a lock, and what it made is kept under
# names of its own. The black-box tests are told which binary to start.
mkdir -p "$CARGO_TARGET_DIR"
(
    flock 9
    cargo build --workspace --all-targets --locked
    cp --reflink=auto "$CARGO_TARGET_DIR/debug/myelin" "$CARGO_TARGET_DIR/debug/coverage" "$work"
) 9>"$CARGO_TARGET_DIR/complement-tests.lock"
export MYELIN_BIN=$work/myelin
# Pictures of clients in a browser stay there.
export SCREENSHOTS=${SCREENSHOTS:-$CARGO_TARGET_DIR/screenshots}
build_seconds=$((SECONDS - build_began))

everything=
case "$*" in
    "" | "-- --include-ignored") everything=yes ;;
esac
if [ "$everything" ]; then
    export COVERAGE_DIR=$work/records
    mkdir "$COVERAGE_DIR"
fi

cargo test --workspace --locked --no-fail-fast "$@" 2>&1 | tee "$log" || status=1

if [ "$everything" ]; then
    unset COVERAGE_DIR
    bash scripts/foreign.sh 2>&1 | tee -a "$log" || status=1
    if [ "$status" = 0 ]; then
        "$work/coverage" "$work/records" ${COVERAGE:+"--$COVERAGE"} 2>&1 || status=1
    fi
fi

bash scripts/summary.sh "$log" "$build_seconds"
exit "$status"

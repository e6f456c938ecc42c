#!/usr/bin/env bash
# Runs all tests, those with other people's clients included; arguments are given to cargo test.
set -euo pipefail
. "$(dirname "$0")/prepare.sh"
. scripts/clients.sh

# Clones may share the target directory, where the binary has the same path for
# all of them. So the build happens under a lock, and what it made is kept under
# a name of its own. The black-box tests are told which binary to start.
binary=$(mktemp -d)/myelin
trap 'rm -rf "$(dirname "$binary")"' EXIT
mkdir -p "$CARGO_TARGET_DIR"
(
    flock 9
    cargo build --workspace --all-targets --locked
    cp --reflink=auto "$CARGO_TARGET_DIR/debug/myelin" "$binary"
) 9>"$CARGO_TARGET_DIR/complement-tests.lock"
export MYELIN_BIN=$binary

# Not exec, which would leave the binary behind.
cargo test --workspace --locked --no-fail-fast "$@"

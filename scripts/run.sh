#!/usr/bin/env bash
# Builds the server in release and starts it; arguments are given to it.
set -euo pipefail
here=$PWD
. "$(dirname "$0")/prepare.sh"

echo "Building (the first time takes minutes, later ones seconds)" >&2
cargo build --release --locked --features jemalloc --bin myelin
binary=$CARGO_TARGET_DIR/release/myelin

# Relative paths, that of the data among them, are meant from where make was called.
cd "$here"
exec "$binary" "$@"

#!/usr/bin/env bash
# Measures the server as packages have it beside Synapse, and how its costs grow; docs/performance.md explains
# the tables. Arguments are given to myelin-bench compare.
set -euo pipefail
. "$(dirname "$0")/prepare.sh"
. scripts/clients.sh

cargo build --profile dist --locked --features jemalloc --bin myelin
cargo build --profile dist --locked -p myelin-bench
bin=$CARGO_TARGET_DIR/dist
out=$CARGO_TARGET_DIR/performance
mkdir -p "$out"

# Ten thousand long-polls are ten thousand connections, on either side.
ulimit -n 65536 2>/dev/null || ulimit -n "$(ulimit -Hn)"
"$bin/myelin-bench" compare --myelin "$bin/myelin" --synapse "$INTEROP_SYNAPSE_PYTHON" \
    --json "$out/figures.json" "$@"
"$bin/myelin-bench" growth --myelin "$bin/myelin" --plots "$out"
echo "Figures and plots are in $out"

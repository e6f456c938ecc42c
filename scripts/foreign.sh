#!/usr/bin/env bash
# Runs the tests of the client-server API against Synapse: what they demand of this server is what
# others do too. complement-tests/interop/synapse/differs.tsv lists those that Synapse fails, with
# the reason; the tests of special configurations are this server's own.
set -euo pipefail
[ -n "${INTEROP_SYNAPSE_PYTHON:-}" ] || { . "$(dirname "$0")/prepare.sh"; . scripts/clients.sh; }

# A file of its own for each run: the tests are started once, and share one server.
export HOMESERVER_COMMAND="$INTEROP_SYNAPSE_PYTHON interop/synapse/start.py"
skipped=(--skip configured::)
while IFS=$'\t' read -r name _; do
    case $name in "#"* | "") ;; *) skipped+=(--skip "$name") ;; esac
done <complement-tests/interop/synapse/differs.tsv
echo "layer: client-server on Synapse"
cargo test --workspace --locked --test client_server -- "${skipped[@]}" "$@"

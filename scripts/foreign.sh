#!/usr/bin/env bash
# Runs tests of the client-server API against Synapse, those in complement-tests/interop/synapse/
# agrees.txt: what they demand of this server is what others do too.
set -euo pipefail
[ -n "${INTEROP_SYNAPSE_PYTHON:-}" ] || { . "$(dirname "$0")/prepare.sh"; . scripts/clients.sh; }

export HOMESERVER_COMMAND="$INTEROP_SYNAPSE_PYTHON interop/synapse/start.py"
mapfile -t tests < <(grep -v '^#' complement-tests/interop/synapse/agrees.txt)
echo "layer: client-server on Synapse"
cargo test --workspace --locked --test client_server -- --exact "${tests[@]}"

#!/bin/sh
# Compares resolution in version 1 rooms with Synapse's, on STATE_RESOLUTION_ROOMS random rooms.
# Installs Synapse from PyPI into a virtual environment of its own, once.
set -eu
environment="${XDG_CACHE_HOME:-$HOME/.cache}/myelin/synapse-v1"
[ -x "$environment/bin/python" ] || python3 -m venv "$environment"
"$environment/bin/python" -c 'import synapse' 2>/dev/null ||
    "$environment/bin/pip" install --quiet matrix-synapse
cd "$(dirname "$0")/.."
STATE_RESOLUTION_SYNAPSE="$environment/bin/python" \
    cargo test --package state-resolution --test it -- --ignored synapse

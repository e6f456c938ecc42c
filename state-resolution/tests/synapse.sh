#!/bin/sh
# Says where a Python with Synapse is, for the comparison in tests/it/synapse.rs. Installs it from
# PyPI into a virtual environment of its own, once.
set -eu
environment="${MYELIN_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/myelin}/synapse-v1"
if ! "$environment/bin/python" -c 'import synapse' 2>/dev/null; then
    python3 -m venv "$environment"
    "$environment/bin/pip" install --quiet matrix-synapse >&2
fi
echo "$environment/bin/python"

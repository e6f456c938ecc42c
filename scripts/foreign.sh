#!/usr/bin/env bash
# Runs tests of the client-server API against Synapse, those in complement-tests/interop/synapse/
# agrees.txt, and with --all those in agrees-long.txt too: what they demand of this server is what
# others do too. Those in differs.tsv fail there, each for the reason it gives.
set -euo pipefail
[ -n "${INTEROP_SYNAPSE_PYTHON:-}" ] || { . "$(dirname "$0")/prepare.sh"; . scripts/clients.sh; }

lists=complement-tests/interop/synapse
run() { cargo test --workspace --locked --test client_server -- "$@"; }
entries() { sed '/^#/d' "$lists/$1" | cut -f1; }

# Each test is in one list, or the lists would rot.
all=$(run --list 2>/dev/null | sed -n 's/: test$//p')
listed=$(entries agrees.txt; entries agrees-long.txt; entries differs.tsv)
listed=$(
    grep -vF '::*' <<<"$listed" || true
    for group in $(grep -F '::*' <<<"$listed"); do grep "^${group%\*}" <<<"$all"; done
)
if wrong=$(diff <(sort <<<"$all") <(sort <<<"$listed") | grep '^[<>]'); then
    echo "in none of the lists in $lists (<), or in several or gone (>):" >&2
    echo "$wrong" >&2
    exit 1
fi

export HOMESERVER_COMMAND="$INTEROP_SYNAPSE_PYTHON interop/synapse/start.py"
mapfile -t tests < <(entries agrees.txt; [ "${1:-}" != --all ] || entries agrees-long.txt)
echo "layer: client-server on Synapse"
run --exact "${tests[@]}"

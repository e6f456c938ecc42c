#!/usr/bin/env bash
# Puts defects in, one at a time, and shows which tests notice; arguments are parts of their names.
set -euo pipefail
. "$(dirname "$0")/prepare.sh"
exec nice -n 10 python3 scripts/mutants.py "$@"

#!/usr/bin/env bash
# One line for each layer of tests, out of what cargo test printed: summary.sh LOG BUILD_SECONDS
set -euo pipefail

awk -v build="$2" '
    # Which layer a file of tests belongs to.
    function layer_of(target) {
        if (target ~ /^unittests/) return "unit and property"
        if (target ~ /simulation/) return "simulation"
        if (target ~ /interop/) return "interop"
        if (target ~ /(^|\/)it(\/|\.)/) return "unit and property"
        return "black box"
    }
    { gsub(/\033\[[0-9;]*m/, "") }
    /^layer: / { fixed = substr($0, 8); next }
    /^ *Running / { layer = fixed != "" ? fixed : layer_of($2 == "unittests" ? "unittests" : $2); next }
    /^ *Doc-tests / { layer = "examples in documentation"; next }
    /^test result: / {
        for (i = 1; i < NF; i++) {
            if ($(i + 1) == "passed;") passed[layer] += $i
            if ($(i + 1) == "failed;") failed[layer] += $i
            if ($(i + 1) == "ignored;") ignored[layer] += $i
            if ($i == "in") seconds[layer] += substr($(i + 1), 1, length($(i + 1)) - 1)
        }
        if (!(layer in known)) { known[layer] = 1; order[++layers] = layer }
    }
    function row(name, tests, bad, left, time) {
        printf "%-28s %7s %7s %8s %7d s\n", name, tests, bad, left, time
    }
    END {
        printf "\n%-28s %7s %7s %8s %9s\n", "layer", "passed", "failed", "ignored", "time"
        row("build", "", "", "", build)
        total = build
        for (i = 1; i <= layers; i++) {
            name = order[i]
            row(name, passed[name] + 0, failed[name] + 0, ignored[name] + 0, seconds[name])
            good += passed[name]; bad += failed[name]; left += ignored[name]; total += seconds[name]
        }
        row("all", good + 0, bad + 0, left + 0, total)
    }
' "$1"

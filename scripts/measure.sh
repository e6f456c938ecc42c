#!/usr/bin/env bash
# Start-up time, memory and size of the release build: the figures of an idle server.
#
#     scripts/measure.sh            builds it first
#     scripts/measure.sh BINARY     measures this one
set -euo pipefail

if [ $# -gt 0 ]; then
    binary=$(realpath "$1")
else
    . "$(dirname "$0")/prepare.sh"
    cargo build --release --locked --features jemalloc --bin myelin
    binary=$CARGO_TARGET_DIR/release/myelin
fi

work=$(mktemp -d)
server=
trap '[ -z "$server" ] || kill -9 "$server" 2>/dev/null; rm -rf "$work"' EXIT

cat >"$work/myelin.toml" <<TOML
server_name = "measure.test"
data_dir = "$work/data"
[[listener]]
address = "127.0.0.1:0"
[registration]
enabled = true
require_token = false
[rate_limits]
enabled = false
TOML

# start: runs the server until it listens; sets server, url and took (ms).
start() {
    local begun=${EPOCHREALTIME/./}
    # Made before the loop looks, so that what an earlier server said is not read.
    : >"$work/log"
    "$binary" --config "$work/myelin.toml" >"$work/log" 2>&1 &
    server=$!
    until url=$(grep -o 'listening on http://127.0.0.1:[0-9]*' "$work/log"); do
        kill -0 "$server" 2>/dev/null || { cat "$work/log" >&2; exit 1; }
        sleep 0.002
    done
    took=$(((${EPOCHREALTIME/./} - begun) / 1000))
    url=${url#listening on }
}

stop() {
    kill "$server"
    wait "$server"
    server=
}

resident_mib() {
    awk '/^VmRSS:/ { printf "%.1f", $2 / 1024 }' "/proc/$server/status"
}

start
first_start=$took
sleep 5
idle=$(resident_mib)
begun=${EPOCHREALTIME/./}
for number in $(seq 50); do
    status=$(curl -s -o "$work/answer" -w '%{http_code}' "$url/_matrix/client/v3/register" --json \
        "{\"username\":\"user$number\",\"password\":\"a good password\",\"auth\":{\"type\":\"m.login.dummy\"}}")
    [ "$status" = 200 ] || { cat "$work/answer" >&2; exit 1; }
done
registering=$(((${EPOCHREALTIME/./} - begun) / 50000))
sleep 5
registered=$(resident_mib)
stop

start
second_start=$took
sleep 5
again=$(resident_mib)
stop

row() { printf '%-44s %10s %s\n' "$@"; }
row "start with an empty data directory" "$first_start" ms
row "start with 50 users" "$second_start" ms
row "memory, idle after the first start" "$idle" MiB
row "memory, after registering 50 users" "$registered" MiB
row "memory, idle after the second start" "$again" MiB
row "one registration, password hash included" "$registering" ms
row "binary" "$(awk -v bytes="$(stat -c %s "$binary")" 'BEGIN { printf "%.1f", bytes / 1048576 }')" MiB
cp "$binary" "$work/stripped" && strip "$work/stripped" &&
    row "binary, stripped" "$(awk -v bytes="$(stat -c %s "$work/stripped")" 'BEGIN { printf "%.1f", bytes / 1048576 }')" MiB

#!/usr/bin/env bash
# Everything that is checked without running the code.
set -euo pipefail
. "$(dirname "$0")/prepare.sh"

cargo fmt --all --check
cargo fmt --manifest-path complement-tests/interop/rust/Cargo.toml --check
# With the benchmarks, so that they go on building.
cargo clippy --workspace --all-targets --features myelin/bench --locked -- -D warnings
RUSTDOCFLAGS='-D warnings' cargo doc --workspace --no-deps --locked --document-private-items

deny=$MYELIN_CACHE/tools/bin/cargo-deny
deny_version=0.20.2
if [ "$("$deny" --version 2>/dev/null)" != "cargo-deny $deny_version" ]; then
    echo "Building cargo-deny $deny_version once" >&2
    CARGO_TARGET_DIR=$MYELIN_CACHE/tools/target \
        cargo install --quiet --locked --root "$MYELIN_CACHE/tools" "cargo-deny@$deny_version"
    rm -rf "$MYELIN_CACHE/tools/target"
fi
"$deny" --offline --log-level warn check bans licenses sources

# One implementation of cryptography is enough: ring.
for unwanted in aws-lc-rs openssl-sys; do
    if cargo tree --workspace --locked --edges normal,build,dev --target all -i "$unwanted" 2>/dev/null; then
        fail "$unwanted has come in, by the way shown above."
    fi
done

. scripts/clients.sh
"$(dirname "$INTEROP_PYTHON")/typos"

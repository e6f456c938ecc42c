"""Starts Synapse for tests, as the environment says: HOMESERVER_NAME, HOMESERVER_PORT,
HOMESERVER_DIRECTORY for its data, HOMESERVER_SHARED_SECRET for registration; with
HOMESERVER_CERTIFICATE, HOMESERVER_KEY and HOMESERVER_AUTHORITY it speaks TLS and trusts that authority.
"""

import json
import os
import sys

setting = os.environ.get
directory = setting("HOMESERVER_DIRECTORY")
unlimited = {"per_second": 10_000, "burst_count": 10_000}
certificate = setting("HOMESERVER_CERTIFICATE")
config = {
    "server_name": setting("HOMESERVER_NAME"),
    "listeners": [
        {
            "port": int(setting("HOMESERVER_PORT")),
            "bind_addresses": ["127.0.0.1"],
            "type": "http",
            "tls": certificate is not None,
            "resources": [{"names": ["client", "federation"], "compress": False}],
        }
    ],
    "ip_range_blacklist": [],
    "federation": {"destination_min_retry_interval": "1s"},
    "database": {"name": "sqlite3", "args": {"database": f"{directory}/synapse.db"}},
    "media_store_path": f"{directory}/synapse-media",
    "pid_file": f"{directory}/synapse.pid",
    "signing_key": "ed25519 a_test " + "A" * 43,
    "macaroon_secret_key": "a secret",
    "form_secret": "a secret",
    "enable_registration": True,
    "enable_registration_without_verification": True,
    "registration_shared_secret": setting("HOMESERVER_SHARED_SECRET", "a secret"),
    "bcrypt_rounds": 4,
    "report_stats": False,
    "allow_public_rooms_over_federation": True,
    "room_list_publication_rules": [{"action": "allow"}],
    "trusted_key_servers": [],
    # A repeated first sync is answered as it is then, as if it were not.
    "caches": {"sync_response_cache_duration": "0s"},
    "max_event_delay_duration": "24h",
    "login_via_existing_session": {"enabled": True},
    "experimental_features": {"msc3391_enabled": True, "msc3814_enabled": True, "msc4155_enabled": True},
    "rc_joins": {"local": unlimited, "remote": unlimited},
    "rc_presence": {"per_user": unlimited},
    "rc_login": {"address": unlimited, "account": unlimited, "failed_attempts": unlimited},
    "rc_invites": {"per_room": unlimited, "per_user": unlimited, "per_issuer": unlimited},
    "rc_federation": {"sleep_limit": 10_000, "reject_limit": 10_000, "concurrent": 100},
}
for limit in ["rc_message", "rc_registration", "rc_joins_per_room", "rc_room_creation", "rc_admin_redaction",
              "rc_3pid_validation", "rc_media_create", "rc_reports", "rc_user_directory"]:
    config[limit] = unlimited
if certificate is not None:
    config["tls_certificate_path"] = certificate
    config["tls_private_key_path"] = setting("HOMESERVER_KEY")
    config["federation_custom_ca_list"] = [setting("HOMESERVER_AUTHORITY")]

file = f"{directory}/synapse.yaml"
# What is JSON is YAML too.
with open(file, "w") as out:
    json.dump(config, out)
os.environ["PYTHONUNBUFFERED"] = "1"
os.chdir(directory)
os.execv(sys.executable, [sys.executable, "-m", "synapse.app.homeserver", "--config-path", file])

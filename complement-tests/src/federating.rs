//! Servers that federate with each other.

use crate::Config;
use crate::foreign::free_port;
use crate::peer::{certificate_files, trusting};

/// The configuration of a server with a name and a certificate of its own: it federates with all
/// others that were configured so, and with peers.
///
/// Its name has the port on which it speaks TLS, so that others find it without further question.
pub fn federating(config: Config) -> Config {
    let port = free_port();
    let [certificate, key] = certificate_files();
    let (certificate, key) = (certificate.display(), key.display());
    trusting(config)
        .with("server_name", format!("localhost:{port}"))
        .with_listener(&format!("{{ address = \"127.0.0.1:{}\" }}", free_port()))
        .with_listener(&format!(
            "{{ address = \"127.0.0.1:{port}\", tls = {{ certificate = \"{certificate}\", \
             private_key = \"{key}\" }} }}"
        ))
}

//! Registration by a secret that the administrator shares with the server.

use hmac::{Hmac, KeyInit, Mac};
use sha1::Sha1;

/// The proof that whoever registers knows `secret`: HMAC-SHA1 in hexadecimal
/// over nonce, name, password and `admin` or `notadmin`, with NUL between them.
pub fn registration_mac(
    secret: &str,
    nonce: &str,
    username: &str,
    password: &str,
    admin: bool,
) -> String {
    let mut mac =
        Hmac::<Sha1>::new_from_slice(secret.as_bytes()).expect("HMAC takes a key of any length");
    let role = if admin { "admin" } else { "notadmin" };
    mac.update([nonce, username, password, role].join("\0").as_bytes());
    mac.finalize().into_bytes().iter().fold(String::new(), |hex, byte| hex + &format!("{byte:02x}"))
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_mac_is_that_of_other_tools() {
        // printf 'nonce\0alice\0secret password\0notadmin' | openssl sha1 -hmac shared
        let expected = "004b988bb046c2cd94946124dadc10fda3cdda38";
        let mac = super::registration_mac("shared", "nonce", "alice", "secret password", false);
        assert_eq!(mac, expected);
    }
}

//! The little of the identifier grammar that authorisation depends on.

use std::net::Ipv6Addr;

/// The longest identifier, in bytes.
/// Spec: <https://spec.matrix.org/v1.19/client-server-api/#size-limits>
pub(crate) const MAX_ID_BYTES: usize = 255;

/// Whether `id` may stand in `sender`.
///
/// Localparts are as lenient as servers must be: anything but `:` and NUL, and even empty.
/// Spec: <https://spec.matrix.org/v1.19/appendices/#historical-user-ids>
pub(crate) fn is_user_id(id: &str) -> bool {
    let Some((localpart, server)) = id.strip_prefix('@').and_then(|rest| rest.split_once(':'))
    else {
        return false;
    };
    id.len() <= MAX_ID_BYTES && !localpart.contains('\0') && is_server_name(server)
}

/// Whether `name` is a host with an optional port.
/// Spec: <https://spec.matrix.org/v1.19/appendices/#server-name>
pub(crate) fn is_server_name(name: &str) -> bool {
    let (host_is_good, port) = if let Some(rest) = name.strip_prefix('[') {
        let Some((address, port)) = rest.split_once(']') else { return false };
        (address.parse::<Ipv6Addr>().is_ok(), port)
    } else {
        let (host, port) = name.split_at(name.find(':').unwrap_or(name.len()));
        let is_dns = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'.';
        (!host.is_empty() && host.bytes().all(is_dns), port)
    };
    let port_is_good = port.is_empty()
        || port.strip_prefix(':').is_some_and(|digits| {
            (1..=5).contains(&digits.len()) && digits.bytes().all(|b| b.is_ascii_digit())
        });
    host_is_good && port_is_good
}

/// The part after the first colon: the server of a user, room or old event ID.
pub(crate) fn domain(id: &str) -> Option<&str> {
    id.split_once(':').map(|(_, domain)| domain)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn user_ids() {
        for good in ["@a:b", "@A B!:example.org:8448", "@:x.example", "@é:1.2.3.4", "@a:[::1]:80"]
        {
            assert!(is_user_id(good), "{good}");
        }
        let long = format!("@{}:example.org", "a".repeat(MAX_ID_BYTES));
        let bad =
            ["", "a:b", "@a", "@a:", "@a::80", "@a:b:", "@a:b:c", "@a:b:123456", "@a:é", &long];
        for bad in bad.into_iter().chain(["@\0:b", "@a:[::1", "@a:[x]", "@a:[::1]80", "@a:b c"]) {
            assert!(!is_user_id(bad), "{bad}");
        }
    }
}

//! `/.well-known/matrix/server`: who answers for a host name, and for how long that holds.

use futures::future::BoxFuture;
use http::StatusCode;
use ruma::OwnedServerName;
use serde::Deserialize;

/// The largest file that is read.
pub(crate) const MAX_BYTES: usize = 50 * 1024;
/// How long an answer holds that does not say so.
const DEFAULT_MS: u64 = 24 * HOUR_MS;
/// The longest an answer holds, whatever it says.
pub(crate) const MAX_MS: u64 = 48 * HOUR_MS;
/// The shortest, so that a file that forbids caching is not fetched for every request.
const MIN_MS: u64 = 5 * MINUTE_MS;
const HOUR_MS: u64 = 60 * MINUTE_MS;
const MINUTE_MS: u64 = 60_000;

/// Fetches `https://<host>/.well-known/matrix/server`, following redirects.
pub trait WellKnown: Send + Sync + 'static {
    /// None if nothing came: no such host, no connection, a file that is too large or too slow.
    fn fetch<'a>(&'a self, host: &'a str) -> BoxFuture<'a, Option<WellKnownAnswer>>;
}

/// What came.
#[derive(Clone, Debug)]
pub struct WellKnownAnswer {
    /// The final status.
    pub status: StatusCode,
    /// The `Cache-Control` header.
    pub cache_control: Option<String>,
    /// The file, at most 50 KiB.
    pub body: Vec<u8>,
}

/// Who is named, and for how many milliseconds.
///
/// `None` if the answer is no valid delegation.
///
/// Spec: <https://spec.matrix.org/v1.19/server-server-api/#getwell-knownmatrixserver>
pub fn parse_delegation(answer: &WellKnownAnswer) -> Option<(OwnedServerName, u64)> {
    #[derive(Deserialize)]
    struct File {
        #[serde(rename = "m.server")]
        server: OwnedServerName,
    }
    if answer.status != StatusCode::OK || answer.body.len() > MAX_BYTES {
        return None;
    }
    let file: File = serde_json::from_slice(&answer.body).ok()?;
    let lifetime = lifetime_ms(answer.cache_control.as_deref().unwrap_or_default());
    Some((file.server, lifetime))
}

/// How long what is not there is not asked for again, after so many failures in a row.
pub(crate) fn failure_ms(failures: u32) -> u64 {
    (MINUTE_MS << failures.min(6)).min(HOUR_MS)
}

fn lifetime_ms(cache_control: &str) -> u64 {
    let mut lifetime = DEFAULT_MS;
    for directive in cache_control.split(',') {
        let (name, value) = directive.split_once('=').unwrap_or((directive, ""));
        match name.trim().to_ascii_lowercase().as_str() {
            "no-store" | "no-cache" | "private" => return MIN_MS,
            "max-age" => {
                let seconds = value.trim().trim_matches('"').parse::<u64>();
                lifetime = seconds.map_or(lifetime, |seconds| seconds.saturating_mul(1_000));
            }
            _ => {}
        }
    }
    lifetime.clamp(MIN_MS, MAX_MS)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(status: u16, cache_control: &str, body: &str) -> WellKnownAnswer {
        WellKnownAnswer {
            status: StatusCode::from_u16(status).unwrap(),
            cache_control: Some(cache_control.to_owned()),
            body: body.as_bytes().to_vec(),
        }
    }

    /// Spec: <https://spec.matrix.org/v1.19/server-server-api/#resolving-server-names>
    #[test]
    fn an_answer_holds_as_long_as_it_says_within_bounds() {
        let lifetime = |header: &str| {
            parse_delegation(&answer(200, header, r#"{"m.server":"b.example:1"}"#)).unwrap().1
        };
        assert_eq!(lifetime(""), DEFAULT_MS);
        assert_eq!(lifetime("public, Max-Age=7200"), 2 * HOUR_MS);
        assert_eq!(lifetime("max-age=99999999999999999999"), DEFAULT_MS, "no number");
        assert_eq!(lifetime("max-age=18446744073709551615"), MAX_MS);
        assert_eq!(lifetime("max-age=0"), MIN_MS);
        assert_eq!(lifetime("no-store"), MIN_MS);
    }

    #[test]
    fn what_is_no_delegation_is_none() {
        let ok = r#"{"m.server":"b.example","more":1}"#;
        assert_eq!(parse_delegation(&answer(200, "", ok)).unwrap().0, "b.example");
        assert!(parse_delegation(&answer(404, "", ok)).is_none());
        let large = format!(r#"{{"m.server":"b.example","x":"{}"}}"#, "x".repeat(MAX_BYTES));
        for bad in ["", "[]", "{}", r#"{"m.server":7}"#, r#"{"m.server":"a b"}"#, &large] {
            assert!(parse_delegation(&answer(200, "", bad)).is_none(), "{bad:.40}");
        }
    }

    #[test]
    fn failures_are_remembered_longer_each_time_up_to_an_hour() {
        assert_eq!(failure_ms(0), MINUTE_MS);
        assert_eq!(failure_ms(1), 2 * MINUTE_MS);
        assert_eq!(failure_ms(60), HOUR_MS);
    }
}

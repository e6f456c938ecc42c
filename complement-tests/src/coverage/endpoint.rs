//! The endpoints of the specification.

/// An endpoint, as the specification lists it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// `client`, `media`, `server`, `appservice` or `push`.
    pub api: String,
    /// The method.
    pub method: String,
    /// The path, with placeholders in braces.
    pub path: String,
    /// What it takes: `none`, `access token`, `federation signature`, …
    pub auth: String,
    /// Whether it takes JSON.
    pub has_body: bool,
    /// The statuses it may answer with.
    pub statuses: Vec<u16>,
    /// The error codes named for it.
    pub errors: Vec<String>,
}

impl Endpoint {
    /// The list, from the specification's `OpenAPI` files.
    pub fn all() -> Vec<Self> {
        let list = include_str!("../../coverage/endpoints.tsv");
        let rows = list.lines().filter(|line| !line.starts_with('#')).skip(1);
        rows.map(|line| Self::parse(line).unwrap_or_else(|| panic!("no endpoint: {line}")))
            .collect()
    }

    fn parse(line: &str) -> Option<Self> {
        let fields: [&str; 7] = line.split('\t').collect::<Vec<_>>().try_into().ok()?;
        let [api, method, path, auth, body, statuses, errors] = fields;
        let list = |text: &str| -> Vec<String> {
            text.split(',').filter(|item| !item.is_empty()).map(str::to_owned).collect()
        };
        Some(Self {
            api: api.to_owned(),
            method: method.to_owned(),
            path: path.to_owned(),
            auth: auth.to_owned(),
            has_body: body == "json",
            statuses: list(statuses).iter().filter_map(|status| status.parse().ok()).collect(),
            errors: list(errors),
        })
    }

    /// Whether nobody gets in without credentials.
    pub fn is_guarded(&self) -> bool {
        !self.auth.contains("none")
    }

    /// Whether some who are known may not do it: the specification says so, or it concerns a room.
    pub fn has_permissions(&self) -> bool {
        self.statuses.contains(&403)
            || self.errors.iter().any(|code| code == "M_FORBIDDEN")
            || (self.is_guarded() && self.path.contains("{roomId}"))
    }

    /// How well `path` fits: the number of segments that are equal, if all others are
    /// placeholders; none if it is not of this endpoint.
    pub(crate) fn fits(&self, method: &str, path: &str) -> Option<usize> {
        if self.method != method {
            return None;
        }
        // Old clients say r0; a state key may be left out with its slash.
        let path = path.replacen("/_matrix/client/r0/", "/_matrix/client/v3/", 1);
        let path = path.replacen("/_matrix/media/r0/", "/_matrix/media/v3/", 1);
        let mut wanted: Vec<&str> = self.path.split('/').collect();
        let segments: Vec<&str> = path.split('/').collect();
        if wanted.last() == Some(&"{stateKey}") && segments.len() + 1 == wanted.len() {
            wanted.pop();
        }
        if wanted.len() != segments.len() {
            return None;
        }
        let mut equal = 0;
        for (wanted, segment) in wanted.iter().zip(segments) {
            if *wanted == segment {
                equal += 1;
            } else if !wanted.starts_with('{') {
                return None;
            }
        }
        Some(equal)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn best(method: &str, path: &str) -> Option<String> {
        let all = Endpoint::all();
        let fitting = all.iter().filter_map(|one| Some((one.fits(method, path)?, &one.path)));
        fitting.max().map(|(_, path)| path.clone())
    }

    #[test]
    fn a_path_belongs_to_the_endpoint_that_says_most_of_it() {
        let query = "/_matrix/federation/v1/query/";
        assert_eq!(best("GET", &format!("{query}profile")), Some(format!("{query}profile")));
        assert_eq!(best("GET", &format!("{query}other")), Some(format!("{query}{{queryType}}")));
        let state = "/_matrix/client/v3/rooms/{roomId}/state/{eventType}/{stateKey}";
        let asked = "/_matrix/client/r0/rooms/%21r/state/m.room.name";
        assert_eq!(best("PUT", asked).as_deref(), Some(state));
        assert_eq!(best("DELETE", asked), None);
    }

    #[test]
    fn the_list_is_whole() {
        let all = Endpoint::all();
        assert_eq!(all.len(), 210);
        for api in ["client", "media", "server", "appservice", "push"] {
            assert!(all.iter().any(|endpoint| endpoint.api == api), "{api}");
        }
    }
}

//! The table: what of each endpoint was tested.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use super::{Endpoint, Exchange, Way, Who};

/// What was seen of every endpoint.
pub struct Table {
    rows: Vec<Row>,
}

/// What is known not to be tested, and why.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Gap {
    /// Method and path as the specification has them; or the name of a rule.
    pub endpoint: String,
    /// `good`, `credentials`, `permission`, `error`, an error code; or a room version.
    pub what: String,
    /// The reason.
    pub reason: String,
}

struct Row {
    endpoint: Endpoint,
    /// Tests that got what they asked for.
    good: BTreeSet<String>,
    /// Error codes with their status, 401 apart from 403 apart from the others.
    credentials: BTreeSet<String>,
    permission: BTreeSet<String>,
    errors: BTreeSet<String>,
    /// Tests in which the server asked this of another one.
    asked: BTreeSet<String>,
}

impl Gap {
    /// What of `missing` (endpoint and what, or rule and room version) is not among the known gaps;
    /// and which of these are none any more.
    pub fn compare(
        gaps: &[Self],
        missing: impl IntoIterator<Item = (String, String)>,
    ) -> [Vec<String>; 2] {
        let missing: BTreeSet<(String, String)> = missing.into_iter().collect();
        let listed: BTreeSet<(String, String)> =
            gaps.iter().map(|gap| (gap.endpoint.clone(), gap.what.clone())).collect();
        let name = |(of, what): &(String, String)| format!("{of}: {what}");
        [
            missing.difference(&listed).map(name).collect(),
            listed.difference(&missing).map(name).collect(),
        ]
    }

    /// The list in a file of lines with endpoint, what and reason, tabs between them.
    ///
    /// # Errors
    /// The line that is none.
    pub fn parse(file: &str) -> Result<Vec<Self>, String> {
        let lines = file.lines().filter(|line| !line.starts_with('#') && !line.is_empty());
        let gap = |line: &str| {
            let fields: [&str; 3] = line.split('\t').collect::<Vec<_>>().try_into().ok()?;
            let [endpoint, what, reason] = fields.map(str::to_owned);
            (!reason.is_empty()).then_some(Self { endpoint, what, reason })
        };
        lines.map(|line| gap(line).ok_or_else(|| format!("no gap with a reason: {line}"))).collect()
    }
}

impl Table {
    /// Sorts what was recorded by endpoint.
    pub fn of(exchanges: &[Exchange]) -> Self {
        let endpoints = Endpoint::all();
        let mut rows: Vec<Row> = endpoints.iter().cloned().map(Row::new).collect();
        let mut known = BTreeMap::new();
        for exchange in exchanges {
            let request = (&exchange.method, &exchange.path);
            let row = *known.entry(request).or_insert_with(|| {
                let fitting = endpoints.iter().enumerate().filter_map(|(row, endpoint)| {
                    Some((endpoint.fits(&exchange.method, &exchange.path)?, row))
                });
                fitting.max().map(|(_, row)| row)
            });
            if let Some(row) = row {
                rows[row].add(exchange);
            }
        }
        Self { rows }
    }

    /// The endpoints and what of them no test shows.
    pub fn missing(&self) -> impl Iterator<Item = (String, String)> {
        self.rows
            .iter()
            .flat_map(|row| row.missing().into_iter().map(|what| (row.endpoint.name(), what)))
    }

    /// It in Markdown.
    pub fn markdown(&self, gaps: &[Gap]) -> String {
        let mut text = String::new();
        for (api, title) in [
            ("client", "Client-server API"),
            ("media", "Content repository"),
            ("server", "Server-server API"),
            ("appservice", "Application service API, which the server calls"),
            ("push", "Push gateway API, which the server calls"),
        ] {
            let rows: Vec<&Row> = self.rows.iter().filter(|row| row.endpoint.api == api).collect();
            let whole = rows.iter().filter(|row| row.missing().is_empty()).count();
            let total = rows.len();
            let _ = writeln!(text, "\n## {title}: {whole} of {total} whole\n");
            text.push_str("| endpoint | good | credentials | permission | errors | not yet |\n");
            text.push_str("|---|---|---|---|---|---|\n");
            for row in rows {
                row.write(&mut text, gaps);
            }
        }
        text
    }
}

impl Endpoint {
    /// Method and path.
    pub fn name(&self) -> String {
        format!("{} {}", self.method, self.path)
    }

    /// Whether the server under test calls it instead of serving it.
    fn is_called(&self) -> bool {
        matches!(self.api.as_str(), "appservice" | "push")
    }

    /// Whether there is something to be wrong beside who asks.
    fn can_fail(&self) -> bool {
        let named = |code: &String| !matches!(code.as_str(), "M_FORBIDDEN" | "M_LIMIT_EXCEEDED");
        let other = |status: &u16| *status >= 400 && ![401, 403, 429].contains(status);
        self.has_body || self.errors.iter().any(named) || self.statuses.iter().any(other)
    }
}

impl Row {
    fn new(endpoint: Endpoint) -> Self {
        Self {
            endpoint,
            good: BTreeSet::new(),
            credentials: BTreeSet::new(),
            permission: BTreeSet::new(),
            errors: BTreeSet::new(),
            asked: BTreeSet::new(),
        }
    }

    fn add(&mut self, exchange: &Exchange) {
        let Exchange { status, test, errcode, .. } = exchange;
        let is_called = self.endpoint.is_called();
        if (exchange.way == Way::FromServer) != is_called {
            if exchange.way == Way::FromServer {
                self.asked.insert(test.clone());
            }
            return;
        }
        if is_called && exchange.who == Who::Token {
            self.credentials.insert("token sent".to_owned());
        }
        let code = format!("{status} {errcode}").trim_end().to_owned();
        match status {
            200..=399 => self.good.insert(test.clone()),
            401 if !is_called => self.credentials.insert(code),
            403 if !is_called => self.permission.insert(code),
            _ => self.errors.insert(code),
        };
    }

    fn missing(&self) -> Vec<String> {
        let endpoint = &self.endpoint;
        let mut missing = Vec::new();
        let mut want = |what: &str, is_wanted: bool, is_there: bool| {
            if is_wanted && !is_there {
                missing.push(what.to_owned());
            }
        };
        want("good", true, !self.good.is_empty());
        want("credentials", endpoint.is_guarded(), !self.credentials.is_empty());
        if endpoint.is_called() {
            want("error", true, !self.errors.is_empty());
            return missing;
        }
        want("permission", endpoint.has_permissions(), !self.permission.is_empty());
        want("error", endpoint.can_fail(), !self.errors.is_empty());
        for code in &endpoint.errors {
            let seen = |codes: &BTreeSet<String>| codes.iter().any(|seen| seen.ends_with(&**code));
            let is_there = [&self.credentials, &self.permission, &self.errors].map(seen);
            // How often may be asked is the configuration's matter, for all endpoints alike.
            want(code, code != "M_LIMIT_EXCEEDED", is_there.contains(&true));
        }
        missing
    }

    fn write(&self, text: &mut String, gaps: &[Gap]) {
        let endpoint = self.endpoint.name();
        let list = |codes: &BTreeSet<String>, applies: bool| {
            if codes.is_empty() && !applies {
                return "–".to_owned();
            }
            codes.iter().cloned().collect::<Vec<_>>().join(", ")
        };
        let mut good = match self.good.len() {
            0 => String::new(),
            1 => "1 test".to_owned(),
            tests => format!("{tests} tests"),
        };
        if !self.asked.is_empty() {
            let _ = write!(good, "; asked of others in {}", self.asked.len());
        }
        let reason = |what: &String| {
            let mut known = gaps.iter().filter(|gap| gap.endpoint == endpoint && gap.what == *what);
            known.next().map_or_else(|| what.clone(), |gap| format!("{what}: {}", gap.reason))
        };
        let missing = self.missing().iter().map(reason).collect::<Vec<_>>().join("; ");
        let _ = writeln!(
            text,
            "| `{endpoint}` | {good} | {} | {} | {} | {missing} |",
            list(&self.credentials, self.endpoint.is_guarded()),
            list(&self.permission, self.endpoint.has_permissions()),
            list(&self.errors, self.endpoint.can_fail()),
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn exchange(who: Who, path: &str, status: u16, errcode: &str) -> Exchange {
        Exchange {
            way: Way::ToServer,
            who,
            method: "GET".to_owned(),
            path: path.to_owned(),
            status,
            errcode: errcode.to_owned(),
            test: "a_test".to_owned(),
        }
    }

    #[test]
    fn an_endpoint_is_whole_when_each_of_its_cells_was_seen() {
        const NAME: &str = "GET /_matrix/client/v3/rooms/{roomId}/event/{eventId}";
        let path = "/_matrix/client/v3/rooms/%21r/event/%24e";
        let missing = |seen: &[Exchange]| -> Vec<String> {
            let table = Table::of(seen);
            let missing = table.missing().filter(|(endpoint, _)| endpoint == NAME);
            missing.map(|(_, what)| what).collect()
        };
        assert_eq!(missing(&[]), ["good", "credentials", "permission", "error", "M_NOT_FOUND"]);
        let mut seen = vec![exchange(Who::Token, path, 200, "")];
        seen.push(exchange(Who::Nobody, path, 401, "M_MISSING_TOKEN"));
        seen.push(exchange(Who::Token, path, 400, "M_INVALID_PARAM"));
        assert_eq!(missing(&seen), ["permission", "M_NOT_FOUND"]);
        seen.push(exchange(Who::Token, path, 403, "M_FORBIDDEN"));
        seen.push(exchange(Who::Token, path, 404, "M_NOT_FOUND"));
        assert_eq!(missing(&seen), [""; 0]);
    }

    #[test]
    fn a_gap_needs_a_reason_and_to_be_one() {
        assert!(Gap::parse("GET /x\tgood\t").is_err());
        let mut all = String::new();
        for (endpoint, what) in Table::of(&[]).missing() {
            all.extend([endpoint, "\t".to_owned(), what, "\tnot yet\n".to_owned()]);
        }
        let mut gaps = Gap::parse(&all).expect("a list");
        let compare = |gaps: &[Gap]| {
            Gap::compare(gaps, Table::of(&[]).missing().collect::<Vec<_>>()).map(|it| it.len())
        };
        assert_eq!(compare(&gaps), [0, 0]);
        let first = gaps.remove(0);
        assert_eq!(compare(&gaps), [1, 0]);
        gaps.push(Gap { what: "nothing".to_owned(), ..first });
        assert_eq!(compare(&gaps), [1, 1]);
    }
}

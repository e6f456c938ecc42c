//! Writing requests down, and reading them again.

use std::fs::{self, File, OpenOptions};
use std::io::Write as _;
use std::path::Path;
use std::sync::{Mutex, OnceLock, PoisonError};

use serde_json::Value;

/// The variable that names the directory for records. Without it nothing is recorded.
pub const DIRECTORY: &str = "COVERAGE_DIR";

/// Which way a request went.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Way {
    /// A test asked the server.
    ToServer,
    /// The server asked a peer, an application service or a push gateway of a test.
    FromServer,
}

/// As whom a request was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Who {
    /// Without credentials.
    Nobody,
    /// With a token.
    Token,
    /// With a server's signature.
    Server,
}

/// A request and how it was answered.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Exchange {
    /// Which way it went.
    pub way: Way,
    /// As whom it was made.
    pub who: Who,
    /// Its method.
    pub method: String,
    /// Its path as it was sent, without the query.
    pub path: String,
    /// The status of the answer.
    pub status: u16,
    /// The error code of the answer; empty if it has none.
    pub errcode: String,
    /// The test that it was a part of.
    pub test: String,
}

impl Who {
    /// By the `Authorization` header, or the query of older clients.
    pub(crate) fn by(authorization: &str, query: &str) -> Self {
        if authorization.starts_with("X-Matrix") {
            Self::Server
        } else if !authorization.is_empty() || query.contains("access_token=") {
            Self::Token
        } else {
            Self::Nobody
        }
    }
}

/// Writes a request down, if records are wanted. `target` may have a query, and a server before it.
pub fn record(
    way: Way,
    authorization: &str,
    method: &str,
    target: &str,
    status: u16,
    answer: &Value,
) {
    static FILE: OnceLock<Option<Mutex<File>>> = OnceLock::new();
    let file = FILE.get_or_init(|| {
        let directory = std::env::var_os(DIRECTORY)?;
        let name = format!("requests-{}.tsv", std::process::id());
        let path = Path::new(&directory).join(name);
        fs::create_dir_all(&directory).expect("the directory for records can be made");
        let file = OpenOptions::new().create(true).append(true).open(path);
        Some(Mutex::new(file.expect("records can be written")))
    });
    let Some(file) = file else { return };
    let (target, query) = target.split_once('?').unwrap_or((target, ""));
    let path = match target.split_once("://") {
        Some((_, rest)) => rest.find('/').map_or("/", |at| &rest[at..]),
        None => target,
    };
    // Tests run on a thread of their name.
    let thread = std::thread::current();
    let line = [
        way.name(),
        Who::by(authorization, query).name(),
        method,
        path,
        &status.to_string(),
        answer["errcode"].as_str().unwrap_or_default(),
        thread.name().unwrap_or_default(),
    ]
    .map(|field| field.replace(['\t', '\n'], " "))
    .join("\t");
    let mut file = file.lock().unwrap_or_else(PoisonError::into_inner);
    writeln!(file, "{line}").expect("records can be written");
}

/// All records in a directory, each kind of exchange of a test once.
///
/// # Errors
/// If they cannot be read, or are none.
pub fn read(directory: &Path) -> std::io::Result<Vec<Exchange>> {
    let mut all = Vec::new();
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if name.starts_with("requests-") {
            for line in fs::read_to_string(&path)?.lines() {
                let exchange = Exchange::parse(line)
                    .ok_or_else(|| std::io::Error::other(format!("{name}: no record: {line}")))?;
                all.push(exchange);
            }
        }
    }
    all.sort();
    all.dedup();
    Ok(all)
}

impl Exchange {
    fn parse(line: &str) -> Option<Self> {
        let fields: [&str; 7] = line.split('\t').collect::<Vec<_>>().try_into().ok()?;
        let [way, who, method, path, status, errcode, test] = fields;
        Some(Self {
            way: [Way::ToServer, Way::FromServer].into_iter().find(|known| known.name() == way)?,
            who: [Who::Nobody, Who::Token, Who::Server]
                .into_iter()
                .find(|known| known.name() == who)?,
            method: method.to_owned(),
            path: path.to_owned(),
            status: status.parse().ok()?,
            errcode: errcode.to_owned(),
            test: test.to_owned(),
        })
    }
}

impl Way {
    fn name(self) -> &'static str {
        match self {
            Self::ToServer => "to",
            Self::FromServer => "from",
        }
    }
}

impl Who {
    fn name(self) -> &'static str {
        match self {
            Self::Nobody => "nobody",
            Self::Token => "token",
            Self::Server => "server",
        }
    }
}

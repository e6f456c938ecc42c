//! A file is looked at by a scanner before anybody gets it.

use std::time::Duration;

use futures::TryStreamExt as _;
use media::{
    blob::BlobStream,
    scan::{Clamd, Verdict},
};
use serde::Deserialize;

use super::{
    Content, ContentError,
    rows::{FileRecord, VerdictRecord},
};
use crate::{
    config,
    outgoing::{Outgoing, OutgoingError},
    storage::{Batch, Json, schema::BLOB_VERDICTS},
};

/// The largest answer of a scanner.
const MAX_ANSWER_BYTES: usize = 64 * 1024;

/// Who is asked. With two both must find nothing.
pub(super) struct Scanner {
    clamd: Option<Clamd>,
    http: Option<(reqwest::Client, String)>,
    time: Duration,
}

/// What a scanner that is asked by HTTP answers.
#[derive(Deserialize)]
struct HttpVerdict {
    clean: bool,
    #[serde(default)]
    info: Option<String>,
}

impl Scanner {
    /// As configured; `None` if nobody is to be asked.
    ///
    /// # Errors
    /// [`OutgoingError`] if no requests can be made.
    pub(super) fn new(
        scan: &config::Scan,
        outgoing: &config::Outgoing,
    ) -> Result<Option<Self>, OutgoingError> {
        let clamd = scan.clamd.as_deref().map(|address| match address.strip_prefix("unix:") {
            Some(path) => Clamd::Unix(path.into()),
            None => Clamd::Tcp(address.to_owned()),
        });
        let http = match scan.http_url.clone() {
            None => None,
            Some(url) => {
                // The operator chose the address; it is seldom a public one.
                let outgoing =
                    config::Outgoing { allow_private_addresses: true, ..outgoing.clone() };
                let client = Outgoing::new(&outgoing)?.client().build();
                Some((client.map_err(OutgoingError::Client)?, url))
            }
        };
        let time = Duration::from_secs(scan.timeout_seconds);
        let any = clamd.is_some() || http.is_some();
        Ok(any.then_some(Self { clamd, http, time }))
    }

    async fn ask(&self, content: &Content, file: &FileRecord) -> Result<Verdict, ContentError> {
        let open = async || content.shared.store.read(file.hash, 0..file.bytes).await;
        if let Some(clamd) = &self.clamd {
            let verdict = clamd.scan(open().await?, self.time).await;
            match verdict.map_err(|error| ContentError::Scan(error.into()))? {
                Verdict::Clean => {}
                infected @ Verdict::Infected { .. } => return Ok(infected),
            }
        }
        if let Some((client, url)) = &self.http {
            let asked = tokio::time::timeout(self.time, ask_http(client, url, open().await?));
            return match asked.await {
                Ok(verdict) => verdict,
                Err(elapsed) => Err(ContentError::Scan(elapsed.into())),
            };
        }
        Ok(Verdict::Clean)
    }
}

/// `POST` with the file as it is; the answer is JSON with `clean` and perhaps `info`.
async fn ask_http(
    client: &reqwest::Client,
    url: &str,
    file: BlobStream,
) -> Result<Verdict, ContentError> {
    let failed = |error: reqwest::Error| ContentError::Scan(error.into());
    let body = reqwest::Body::wrap_stream(file.map_err(std::io::Error::other));
    let sent = client.post(url).body(body).send().await;
    let answer = sent.and_then(reqwest::Response::error_for_status);
    let mut answer = answer.map_err(failed)?;
    let mut told = Vec::new();
    while let Some(piece) = answer.chunk().await.map_err(failed)? {
        told.extend_from_slice(&piece);
        if told.len() > MAX_ANSWER_BYTES {
            return Err(ContentError::Scan("the scanner's answer is too large".into()));
        }
    }
    let verdict: HttpVerdict =
        serde_json::from_slice(&told).map_err(|error| ContentError::Scan(error.into()))?;
    Ok(if verdict.clean {
        Verdict::Clean
    } else {
        Verdict::Infected { what: verdict.info.unwrap_or_default() }
    })
}

impl Content {
    /// Has a file scanned, unless it was before. Without a verdict nobody gets it.
    pub(super) async fn check_scanned(&self, file: &FileRecord) -> Result<(), ContentError> {
        let shared = &*self.shared;
        let Some(scanner) = &shared.scanner else { return Ok(()) };
        if let Some(Json(verdict)) = BLOB_VERDICTS.get(&shared.db, &file.hash.0).await? {
            return said(&verdict);
        }
        let _scanning = shared.scanning.lock(&file.hash).await;
        if let Some(Json(verdict)) = BLOB_VERDICTS.get(&shared.db, &file.hash.0).await? {
            return said(&verdict);
        }
        let found = match scanner.ask(self, file).await? {
            Verdict::Clean => None,
            Verdict::Infected { what } => {
                tracing::warn!(hash = %file.hash, what, "the scanner found something in a file");
                Some(what.chars().take(500).collect())
            }
        };
        let verdict = VerdictRecord { found, at_ms: shared.clock.now_ms() };
        let mut batch = Batch::new();
        BLOB_VERDICTS.put(&mut batch, &file.hash.0, &Json(verdict.clone()));
        shared.db.commit(batch).await?;
        said(&verdict)
    }
}

fn said(verdict: &VerdictRecord) -> Result<(), ContentError> {
    if verdict.found.is_some() { Err(ContentError::Infected) } else { Ok(()) }
}

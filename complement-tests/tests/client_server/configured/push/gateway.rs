//! A push gateway of the test's own, which takes nothing but what the push gateway API allows.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use complement_tests::coverage::{self, Way};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;

/// How long a notification may take on a busy machine.
const PATIENCE: Duration = Duration::from_mins(1);

/// What becomes of requests.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Mood {
    /// They are taken.
    Fine,
    /// They are taken, and these pushkeys said to be none.
    Rejecting(&'static str),
    /// They are answered with this status.
    Failing(u16),
    /// The connection ends without an answer, after the request was read.
    Silent,
}

#[derive(Debug)]
struct State {
    mood: Mood,
    taken: VecDeque<Value>,
    attempts: u64,
    /// What was wrong with a request.
    wrong: Option<String>,
}

#[derive(Clone, Debug)]
pub(crate) struct Gateway {
    port: u16,
    state: Arc<Mutex<State>>,
    changed: Arc<Notify>,
}

impl Gateway {
    pub(crate) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let state = State { mood: Mood::Fine, taken: VecDeque::new(), attempts: 0, wrong: None };
        let gateway = Self {
            port: listener.local_addr().unwrap().port(),
            state: Arc::new(Mutex::new(state)),
            changed: Arc::default(),
        };
        let serving = gateway.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let serving = serving.clone();
                tokio::spawn(async move { serving.serve(stream).await.ok() });
            }
        });
        gateway
    }

    pub(crate) fn url(&self) -> String {
        format!("http://127.0.0.1:{}/_matrix/push/v1/notify", self.port)
    }

    pub(crate) fn set(&self, mood: Mood) {
        self.lock().mood = mood;
    }

    /// The next notification that was taken.
    pub(crate) async fn next(&self) -> Value {
        let next = async {
            loop {
                let changed = self.changed.notified();
                {
                    let mut state = self.lock();
                    assert_eq!(state.wrong, None, "a request is not as the API wants it");
                    if let Some(taken) = state.taken.pop_front() {
                        return taken;
                    }
                }
                changed.await;
            }
        };
        tokio::time::timeout(PATIENCE, next).await.expect("no notification came")
    }

    /// Waits until this many more requests came than now, taken or not.
    pub(crate) fn attempted(&self, more: u64) -> impl Future<Output = ()> {
        let wanted = self.lock().attempts + more;
        let attempted = async move {
            loop {
                let changed = self.changed.notified();
                if self.lock().attempts >= wanted {
                    return;
                }
                changed.await;
            }
        };
        async { tokio::time::timeout(PATIENCE, attempted).await.expect("the gateway was asked") }
    }

    /// Nothing was taken that nobody has looked at.
    pub(crate) fn is_empty(&self) -> bool {
        self.lock().taken.is_empty()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn serve(&self, stream: TcpStream) -> std::io::Result<()> {
        let mut stream = BufReader::new(stream);
        loop {
            let Some(request) = read_request(&mut stream).await? else { return Ok(()) };
            let body: Value = serde_json::from_slice(&request.body).unwrap_or_default();
            let mut wrong = None;
            if request.line != "POST /_matrix/push/v1/notify HTTP/1.1" {
                wrong = Some(request.line.clone());
            } else if request.header("content-type").as_deref() != Some("application/json") {
                wrong = Some("the content type is another one".to_owned());
            } else if let Err(why) = check(&body) {
                wrong = Some(format!("{why}: {body}"));
            }
            let answer = {
                let mut state = self.lock();
                state.attempts += 1;
                state.wrong = state.wrong.take().or(wrong);
                match state.mood.clone() {
                    Mood::Fine => {
                        state.taken.push_back(body["notification"].clone());
                        Some((200, json!({ "rejected": [] })))
                    }
                    Mood::Rejecting(pushkey) => {
                        Some((200, json!({ "rejected": ["another", pushkey] })))
                    }
                    Mood::Failing(status) => Some((status, json!({ "error": "not now" }))),
                    Mood::Silent => None,
                }
            };
            self.changed.notify_waiters();
            let Some((status, body)) = answer else { return Ok(()) };
            let mut line = request.line.split(' ');
            let [method, path] = [(); 2].map(|()| line.next().unwrap_or_default());
            coverage::record(Way::FromServer, "", method, path, status, &body);
            let body = body.to_string();
            let head = format!(
                "HTTP/1.1 {status} Whatever\r\ncontent-type: application/json\r\n\
                 content-length: {}\r\n\r\n",
                body.len()
            );
            stream.write_all(head.as_bytes()).await?;
            stream.write_all(body.as_bytes()).await?;
        }
    }
}

/// A request as it came.
pub(super) struct Request {
    pub(super) line: String,
    headers: Vec<(String, String)>,
    pub(super) body: Vec<u8>,
}

impl Request {
    pub(super) fn header(&self, name: &str) -> Option<String> {
        let found = self.headers.iter().find(|(known, _)| known.eq_ignore_ascii_case(name));
        found.map(|(_, value)| value.clone())
    }
}

/// The next request of a connection; none at its end.
pub(super) async fn read_request(
    stream: &mut BufReader<TcpStream>,
) -> std::io::Result<Option<Request>> {
    let mut request = Request { line: String::new(), headers: Vec::new(), body: Vec::new() };
    loop {
        let mut line = String::new();
        if stream.read_line(&mut line).await? == 0 {
            return Ok(None);
        }
        let line = line.trim_end();
        if request.line.is_empty() {
            line.clone_into(&mut request.line);
        } else if let Some((name, value)) = line.split_once(':') {
            request.headers.push((name.to_owned(), value.trim().to_owned()));
        } else {
            break;
        }
    }
    let length = request.header("content-length").and_then(|length| length.parse().ok());
    request.body = vec![0; length.unwrap_or(0)];
    stream.read_exact(&mut request.body).await?;
    Ok(Some(request))
}

/// Whether a body is what the API allows, and no more than it names.
///
/// Spec: <https://spec.matrix.org/v1.19/push-gateway-api/#post_matrixpushv1notify>
fn check(body: &Value) -> Result<(), String> {
    let notification =
        object(body, &[("notification", Value::is_object, true)])?["notification"].clone();
    let about_event = notification.get("event_id").is_some();
    let found = object(
        &notification,
        &[
            ("event_id", Value::is_string, false),
            // "Required if the notification relates to a specific Matrix event."
            ("room_id", Value::is_string, about_event),
            ("type", Value::is_string, false),
            ("sender", Value::is_string, false),
            ("sender_display_name", Value::is_string, false),
            ("room_name", Value::is_string, false),
            ("room_alias", Value::is_string, false),
            ("user_is_target", Value::is_boolean, false),
            ("prio", |prio| *prio == "high" || *prio == "low", false),
            ("content", Value::is_object, false),
            ("counts", Value::is_object, false),
            ("devices", Value::is_array, true),
        ],
    )?;
    let counts = [("unread", Value::is_u64 as Is, false), ("missed_calls", Value::is_u64, false)];
    object(&found["counts"], &counts)?;
    for device in found["devices"].as_array().into_iter().flatten() {
        let device = object(
            device,
            &[
                ("app_id", Value::is_string, true),
                ("pushkey", Value::is_string, true),
                ("pushkey_ts", Value::is_u64, false),
                ("data", Value::is_object, false),
                ("tweaks", Value::is_object, false),
            ],
        )?;
        // "minus the `url` key"
        if device["data"].get("url").is_some() {
            return Err("the URL is told".to_owned());
        }
    }
    Ok(())
}

type Is = fn(&Value) -> bool;

fn object<'a>(value: &'a Value, fields: &[(&str, Is, bool)]) -> Result<&'a Value, String> {
    let object = value.as_object().ok_or("no object")?;
    for (name, value) in object {
        let known = fields.iter().find(|(known, ..)| known == name);
        let (_, is, _) = known.ok_or_else(|| format!("{name} is unknown"))?;
        if !is(value) {
            return Err(format!("{name} is of another type"));
        }
    }
    match fields.iter().find(|(name, _, needed)| *needed && !object.contains_key(*name)) {
        Some((name, ..)) => Err(format!("{name} is missing")),
        None => Ok(value),
    }
}

//! An identity server in the test's own process: it knows addresses, keeps invitations, and signs
//! what it says with real keys.
//!
//! Spec: <https://spec.matrix.org/v1.19/identity-service-api/>

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use axum::body::{Body, to_bytes};
use axum::http::{self, StatusCode};
use axum::response::{IntoResponse, Response};
use base64::Engine as _;
use base64::prelude::{BASE64_STANDARD_NO_PAD, BASE64_URL_SAFE_NO_PAD};
use ed25519_dalek::{Signature, VerifyingKey};
use reqwest::Method;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::peer::tls;
use crate::{Answer, Client, Config, Server, Signer, text};

/// The access token that everybody has for it.
const TOKEN: &str = "token-of-the-identity-server";
/// The largest request that is read.
const MAX_BYTES: usize = 1 << 20;

/// What an identity server was asked.
#[derive(Clone, Debug)]
pub struct Asked {
    /// Method and path with query, without `/_matrix/identity/v2`.
    pub line: String,
    /// The `Authorization` header.
    pub authorization: String,
    /// The body; null if it is no JSON.
    pub body: Value,
}

/// An answer that a test wants: status, headers, body.
type Told = (u16, Vec<(&'static str, String)>, String);

#[derive(Default)]
struct Shared {
    name: String,
    asked: Vec<Asked>,
    /// Answers by the beginning of the line.
    told: BTreeMap<String, Told>,
    pepper: u32,
    /// Users by their address.
    bound: BTreeMap<String, String>,
    /// Addresses by the session that proved them.
    proved: BTreeMap<String, String>,
    /// Invitations that wait: the address and what was asked for.
    waiting: Vec<(String, Value)>,
    revoked: bool,
}

/// An identity server for e-mail addresses.
#[derive(Clone)]
pub struct IdentityServer {
    shared: Arc<Mutex<Shared>>,
}

impl IdentityServer {
    /// Starts one, on a free port of this machine.
    pub async fn start() -> Self {
        rustls::crypto::ring::default_provider().install_default().ok();
        let (listener, address) = tls::listen().await;
        let shared = Shared { name: address.to_string(), ..Shared::default() };
        let this = Self { shared: Arc::new(Mutex::new(shared)) };
        let answering = this.clone();
        let router = axum::Router::new().fallback(move |request: http::Request<Body>| {
            let identity = answering.clone();
            async move { identity.take(request).await }
        });
        tokio::spawn(async move { axum::serve(listener, router).await });
        this
    }

    fn lock(&self) -> MutexGuard<'_, Shared> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A configuration by which a server talks to it, and to no other private address.
    pub fn trusted_by(&self, config: Config) -> Config {
        config
            .with("outgoing.ca_certificates", vec![tls::authority_file()])
            .with("identity.trusted_servers", vec![self.name()])
    }

    /// Its name.
    pub fn name(&self) -> String {
        self.lock().name.clone()
    }

    /// An invitation of an address, as clients write it.
    pub fn invitation(&self, address: &str) -> Value {
        json!({
            "id_server": self.name(), "id_access_token": TOKEN, "medium": "email",
            "address": address,
        })
    }

    /// The session in which somebody proved an address, as clients bind it.
    pub fn proof(&self, address: &str) -> Value {
        let sid = format!("session{}", address.len());
        self.lock().proved.insert(sid.clone(), address.to_owned());
        json!({
            "id_server": self.name(), "id_access_token": TOKEN, "sid": sid,
            "client_secret": "s3cret",
        })
    }

    /// Whose an address is.
    pub fn owner(&self, address: &str) -> Option<String> {
        self.lock().bound.get(address).cloned()
    }

    /// From now on an address is a user's.
    pub fn knows(&self, address: &str, user_id: &str) {
        self.lock().bound.insert(address.to_owned(), user_id.to_owned());
    }

    /// From now on says that its keys are not to be trusted.
    pub fn revokes_keys(&self) {
        self.lock().revoked = true;
    }

    /// From now on hashes addresses otherwise.
    pub fn changes_pepper(&self) {
        self.lock().pepper += 1;
    }

    /// From now on answers this to requests whose line begins so.
    pub fn answers(&self, beginning: &str, status: u16, body: &str) {
        self.answers_with(beginning, status, Vec::new(), body);
    }

    /// The same with headers.
    pub fn answers_with(
        &self,
        beginning: &str,
        status: u16,
        headers: Vec<(&'static str, String)>,
        body: &str,
    ) {
        let told = (status, headers, body.to_owned());
        self.lock().told.insert(beginning.to_owned(), told);
    }

    /// What it was asked in lines that begin so.
    pub fn asked(&self, beginning: &str) -> Vec<Asked> {
        let shared = self.lock();
        shared.asked.iter().filter(|asked| asked.line.starts_with(beginning)).cloned().collect()
    }

    /// The key with which it signs.
    fn signer(&self) -> Signer {
        Signer::named(&self.name())
    }

    /// The first invitation of an address, signed for the user: `mxid`, `sender`, `token`.
    pub fn signed(&self, address: &str, user_id: &str) -> Value {
        let waiting = self.lock().waiting.clone();
        let (_, asked) = waiting.iter().find(|(to, _)| to == address).expect("an invitation");
        let signed = json!({
            "mxid": user_id, "sender": asked["sender"], "token": token_for(address),
        });
        self.signer().sign(&self.name(), "0", signed)
    }

    /// Tells a server that an address has become its user's, with what waited for that.
    ///
    /// Spec: <https://spec.matrix.org/v1.19/server-server-api/#put_matrixfederationv13pidonbind>
    pub async fn tells(&self, server: &Server, address: &str, client: &Client) -> Answer {
        let signed = self.signed(address, &client.user_id);
        self.tells_signed(server, address, client, signed).await
    }

    /// The same with whatever is said to be signed.
    pub async fn tells_signed(
        &self,
        server: &Server,
        address: &str,
        client: &Client,
        signed: Value,
    ) -> Answer {
        let waiting = self.lock().waiting.clone();
        let invites = waiting.iter().filter(|(to, _)| to == address).map(|(_, asked)| {
            json!({
                "medium": "email", "address": address, "mxid": client.user_id,
                "room_id": asked["room_id"], "sender": asked["sender"], "signed": signed,
            })
        });
        let body = json!({
            "medium": "email", "address": address, "mxid": client.user_id,
            "invites": invites.collect::<Vec<_>>(),
        });
        let path = "/_matrix/federation/v1/3pid/onbind";
        server.anonymous().request(Method::PUT, path).json(&body).await
    }

    /// Whether a server has signed what it asked.
    ///
    /// Spec: <https://spec.matrix.org/v1.19/server-server-api/#request-authentication>
    pub async fn is_signed(&self, asked: &Asked, server: &Server) -> bool {
        let published = server.anonymous().get("/_matrix/key/v2/server").await.ok();
        let part = |name: &str| -> String {
            let begin = format!("{name}=\"");
            let (_, rest) = asked.authorization.split_once(&begin).expect("a parameter");
            rest.split('"').next().unwrap_or_default().to_owned()
        };
        assert_eq!(part("origin"), server.name());
        assert_eq!(part("destination"), self.name());
        let key = text(&published, &format!("/verify_keys/{}/key", part("key")));
        let decode = |text: &str| BASE64_STANDARD_NO_PAD.decode(text).expect("base64");
        let key: [u8; 32] = decode(&key).try_into().expect("a key");
        let key = VerifyingKey::from_bytes(&key).expect("a key");
        let signature = Signature::from_slice(&decode(&part("sig"))).expect("a signature");
        let (method, path) = asked.line.split_once(' ').expect("method and path");
        let signed = json!({
            "method": method, "uri": format!("/_matrix/identity/v2{path}"),
            "origin": server.name(), "destination": self.name(), "content": asked.body,
        });
        key.verify_strict(signed.to_string().as_bytes(), &signature).is_ok()
    }

    async fn take(&self, request: http::Request<Body>) -> Response {
        let (head, body) = request.into_parts();
        let path = head.uri.path_and_query().map_or("/", |path| path.as_str());
        let path = path.strip_prefix("/_matrix/identity/v2").unwrap_or(path);
        let authorization = head.headers.get("authorization");
        let authorization = authorization.and_then(|value| value.to_str().ok());
        let body = to_bytes(body, MAX_BYTES).await.unwrap_or_default();
        let asked = Asked {
            line: format!("{} {path}", head.method),
            authorization: authorization.unwrap_or_default().to_owned(),
            body: serde_json::from_slice(&body).unwrap_or_default(),
        };
        let mut shared = self.lock();
        shared.asked.push(asked.clone());
        let told = shared.told.iter().find(|(beginning, _)| asked.line.starts_with(*beginning));
        if let Some((_, (status, headers, body))) = told {
            let mut answer = (status_of(*status), body.clone()).into_response();
            for (name, value) in headers {
                answer.headers_mut().insert(*name, value.parse().expect("a header"));
            }
            return answer;
        }
        let (status, body) = shared.usual(&asked);
        (status_of(status), axum::Json(body)).into_response()
    }
}

fn status_of(status: u16) -> StatusCode {
    StatusCode::from_u16(status).expect("a status")
}

/// The token of invitations of an address.
fn token_for(address: &str) -> String {
    address.replace('@', "_at_")
}

fn refused(status: u16, errcode: &str) -> (u16, Value) {
    (status, json!({ "errcode": errcode, "error": "refused" }))
}

impl Shared {
    fn pepper(&self) -> String {
        format!("matrixrocks{}", self.pepper)
    }

    fn hash(&self, address: &str) -> String {
        let text = format!("{address} email {}", self.pepper());
        BASE64_URL_SAFE_NO_PAD.encode(Sha256::digest(text))
    }

    /// What it answers if the test says nothing else.
    fn usual(&mut self, asked: &Asked) -> (u16, Value) {
        let body = &asked.body;
        let path = asked.line.split(['?', ' ']).nth(1).unwrap_or_default();
        if path.starts_with("/pubkey/") {
            let public = format!("public_key={}", percent(&Signer::named(&self.name).public_key()));
            let valid = asked.line.ends_with(&public) && !self.revoked;
            return (200, json!({ "valid": valid }));
        }
        if path == "/3pid/unbind" {
            let address = text(body, "/threepid/address");
            if self.bound.get(&address).map(String::as_str) != body["mxid"].as_str() {
                return refused(404, "M_NOT_FOUND");
            }
            self.bound.remove(&address);
            return (200, json!({}));
        }
        if asked.authorization != format!("Bearer {TOKEN}") {
            return refused(401, "M_UNKNOWN_TOKEN");
        }
        match path {
            "/hash_details" => {
                let details = json!({ "lookup_pepper": self.pepper(), "algorithms": ["sha256"] });
                (200, details)
            }
            "/lookup" if body["pepper"] != self.pepper() => refused(400, "M_INVALID_PEPPER"),
            "/lookup" => {
                let found = self.bound.iter().map(|(address, user)| (self.hash(address), user));
                let found = found.filter(|(hash, _)| body["addresses"] == json!([hash]));
                (200, json!({ "mappings": found.collect::<BTreeMap<_, _>>() }))
            }
            "/store-invite" => {
                let address = text(body, "/address");
                self.waiting.push((address.clone(), body.clone()));
                let key = Signer::named(&self.name).public_key();
                let url = format!("https://{}/_matrix/identity/v2/pubkey/isvalid", self.name);
                let key = json!({ "public_key": key, "key_validity_url": url });
                let answer = json!({
                    "token": token_for(&address), "public_keys": [key], "display_name": "b...@...",
                });
                (200, answer)
            }
            "/3pid/bind" => {
                let Some(address) = self.proved.get(&text(body, "/sid")).cloned() else {
                    return refused(404, "M_NO_VALID_SESSION");
                };
                self.bound.insert(address.clone(), text(body, "/mxid"));
                let bound = json!({
                    "medium": "email", "address": address, "mxid": body["mxid"], "ts": 1,
                    "not_before": 0, "not_after": 4_000_000_000_000_u64,
                });
                (200, Signer::named(&self.name).sign(&self.name, "0", bound))
            }
            _ => refused(404, "M_UNRECOGNIZED"),
        }
    }
}

/// A key as it stands in a query.
fn percent(key: &str) -> String {
    key.replace('+', "%2B").replace('/', "%2F")
}

//! The `Authorization` header of requests between servers, and what it signs.
//!
//! Spec: <https://spec.matrix.org/v1.19/server-server-api/#request-authentication>

use base64::{
    Engine as _, alphabet,
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig},
};
use ed25519_dalek::{Signature, VerifyingKey};
use ruma::{CanonicalJsonObject, CanonicalJsonValue, OwnedServerName, ServerName};
use serde_json::value::RawValue;

/// The longest header that is read.
const MAX_BYTES: usize = 2_048;
/// The most parameters, unknown ones included.
const MAX_PARAMETERS: usize = 16;

/// Base64 with or without padding.
pub(crate) const BASE64: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new()
        .with_encode_padding(false)
        .with_decode_allow_trailing_bits(true)
        .with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// Who says to have sent a request, and the signature that proves it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct XMatrix {
    /// The sending server.
    pub origin: OwnedServerName,
    /// The server that it was sent to; old servers do not say.
    pub destination: Option<OwnedServerName>,
    /// The key: `ed25519:` and its version.
    pub key: String,
    /// The signature.
    pub signature: [u8; 64],
}

/// Why a request is not who it says it is from.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum BadRequestSignature {
    /// The header is missing or not X-Matrix.
    #[error("the request is not signed")]
    Missing,
    /// The header is malformed.
    #[error("the request's signature is malformed: {0}")]
    Malformed(&'static str),
    /// It was meant for another server.
    #[error("the request was signed for another server")]
    Destination,
    /// The signature is not that of the key.
    #[error("the request's signature is wrong")]
    Wrong,
}

impl XMatrix {
    /// Reads the value of an `Authorization` header.
    ///
    /// # Errors
    /// [`BadRequestSignature::Missing`] for other schemes, [`BadRequestSignature::Malformed`] for
    /// anything that does not keep to the grammar, a parameter that comes twice included.
    pub fn parse(header: &str) -> Result<Self, BadRequestSignature> {
        use BadRequestSignature::{Malformed, Missing};
        if header.len() > MAX_BYTES {
            return Err(Malformed("too long"));
        }
        let (scheme, rest) = header.split_once(' ').ok_or(Missing)?;
        if !scheme.eq_ignore_ascii_case("X-Matrix") {
            return Err(Missing);
        }
        let mut origin = None;
        let mut destination = None;
        let mut key = None;
        let mut signature = None;
        for (name, value) in parameters(rest)? {
            let place = match name.to_ascii_lowercase().as_str() {
                "origin" => &mut origin,
                "destination" => &mut destination,
                "key" => &mut key,
                "sig" => &mut signature,
                _ => continue,
            };
            if place.replace(value).is_some() {
                return Err(Malformed("a parameter comes twice"));
            }
        }
        let server = |name: String| {
            ServerName::parse(name).map_err(|_| Malformed("not the name of a server"))
        };
        let key = key.ok_or(Malformed("no key"))?;
        if !key.starts_with("ed25519:") {
            return Err(Malformed("not an ed25519 key"));
        }
        let signature = signature.ok_or(Malformed("no signature"))?;
        let signature = BASE64.decode(signature).map_err(|_| Malformed("not base64"))?;
        Ok(Self {
            origin: server(origin.ok_or(Malformed("no origin"))?)?,
            destination: destination.map(server).transpose()?,
            key,
            signature: signature.try_into().map_err(|_| Malformed("not 64 bytes"))?,
        })
    }

    /// Checks that the request was meant for `us` and signed with `public_key`.
    ///
    /// `uri` is path and query just as they came, `body` the bytes of the body.
    ///
    /// # Errors
    /// [`BadRequestSignature`].
    pub fn verify(
        &self,
        method: &str,
        uri: &str,
        body: &[u8],
        us: &ServerName,
        public_key: &VerifyingKey,
    ) -> Result<(), BadRequestSignature> {
        if self.destination.as_deref().is_some_and(|destination| destination != us) {
            return Err(BadRequestSignature::Destination);
        }
        let signed = match request_object(method, uri, body, &self.origin, us) {
            Ok(object) => text_of(&object)?,
            Err(_) => text_with_body(method, uri, body, &self.origin, us)?,
        };
        let signature = Signature::from_bytes(&self.signature);
        public_key
            .verify_strict(signed.as_bytes(), &signature)
            .map_err(|_| BadRequestSignature::Wrong)
    }
}

/// What is signed of a request.
///
/// # Errors
/// [`BadRequestSignature::Malformed`] if the body is not JSON that can be signed.
pub fn request_object(
    method: &str,
    uri: &str,
    body: &[u8],
    origin: &ServerName,
    destination: &ServerName,
) -> Result<CanonicalJsonObject, BadRequestSignature> {
    let text = |text: &str| CanonicalJsonValue::String(text.to_owned());
    let mut object = CanonicalJsonObject::from([
        ("destination".to_owned(), text(destination.as_str())),
        ("method".to_owned(), text(method)),
        ("origin".to_owned(), text(origin.as_str())),
        ("uri".to_owned(), text(uri)),
    ]);
    if !body.is_empty() {
        let content = serde_json::from_slice(body)
            .map_err(|_| BadRequestSignature::Malformed("the body is not canonical JSON"))?;
        object.insert("content".to_owned(), content);
    }
    Ok(object)
}

fn text_of(object: &CanonicalJsonObject) -> Result<String, BadRequestSignature> {
    serde_json::to_string(object)
        .map_err(|_| BadRequestSignature::Malformed("the body is not canonical JSON"))
}

/// What is signed of a request whose body has numbers that canonical JSON has no place for: old room
/// versions allow them in events, and whoever sends one must not spoil what comes along with it. Such
/// a body counts as it came, since whoever signs canonical JSON sends it.
fn text_with_body(
    method: &str,
    uri: &str,
    body: &[u8],
    origin: &ServerName,
    destination: &ServerName,
) -> Result<String, BadRequestSignature> {
    let content: &RawValue = serde_json::from_slice(body)
        .map_err(|_| BadRequestSignature::Malformed("the body is not JSON"))?;
    // "content" comes before the other keys.
    let rest = text_of(&request_object(method, uri, b"", origin, destination)?)?;
    let rest = rest.trim_start_matches('{');
    Ok(format!("{{\"content\":{},{rest}", content.get()))
}

/// `name=value` pairs with commas between them; values are tokens, in which colons and more may
/// stand for old servers' sake, or quoted.
fn parameters(mut rest: &str) -> Result<Vec<(String, String)>, BadRequestSignature> {
    use BadRequestSignature::Malformed;
    let blank = [' ', '\t'];
    let mut found = Vec::new();
    loop {
        rest = rest.trim_start_matches(blank);
        if rest.is_empty() {
            return Ok(found);
        }
        let (name, after) = rest.split_once('=').ok_or(Malformed("a parameter without a value"))?;
        let name = name.trim_end_matches(blank);
        if name.is_empty() || !name.bytes().all(is_token) {
            return Err(Malformed("not the name of a parameter"));
        }
        let after = after.trim_start_matches(blank);
        let (value, after) = if let Some(quoted) = after.strip_prefix('"') {
            unquoted(quoted)?
        } else {
            let end = after.find([',', ' ', '\t']).unwrap_or(after.len());
            let (value, after) = after.split_at(end);
            // Base64 has `+` and `/`, and `=` at the end; keys and servers have colons.
            let fits = |byte| is_token(byte) || b":/=[]".contains(&byte);
            if value.is_empty() || !value.bytes().all(fits) {
                return Err(Malformed("not a value"));
            }
            (value.to_owned(), after)
        };
        found.push((name.to_owned(), value));
        if found.len() > MAX_PARAMETERS {
            return Err(Malformed("too many parameters"));
        }
        rest = after.trim_start_matches(blank);
        match rest.strip_prefix(',') {
            Some(more) => rest = more,
            None if rest.is_empty() => return Ok(found),
            None => return Err(Malformed("no comma between parameters")),
        }
    }
}

/// The text up to the closing quote, and what comes after it.
fn unquoted(quoted: &str) -> Result<(String, &str), BadRequestSignature> {
    let mut value = String::new();
    let mut characters = quoted.char_indices();
    while let Some((at, character)) = characters.next() {
        match character {
            '"' => return Ok((value, quoted.get(at + 1..).unwrap_or_default())),
            '\\' => {
                let (_, escaped) =
                    characters.next().ok_or(BadRequestSignature::Malformed("an open quote"))?;
                value.push(escaped);
            }
            character => value.push(character),
        }
    }
    Err(BadRequestSignature::Malformed("an open quote"))
}

/// RFC 9110, section 5.6.2.
fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

#[cfg(test)]
mod tests {
    use ed25519_dalek::{Signer as _, SigningKey};
    use proptest::prelude::*;
    use ruma::server_name;

    use super::*;

    fn signed(method: &str, uri: &str, body: &[u8], to: &ServerName) -> (XMatrix, VerifyingKey) {
        let key = SigningKey::from_bytes(&[7; 32]);
        let object = request_object(method, uri, body, server_name!("a.example"), to).unwrap();
        let signature = key.sign(&serde_json::to_vec(&object).unwrap()).to_bytes();
        let x_matrix = XMatrix {
            origin: server_name!("a.example").to_owned(),
            destination: Some(to.to_owned()),
            key: "ed25519:1".to_owned(),
            signature,
        };
        (x_matrix, key.verifying_key())
    }

    /// Spec: <https://spec.matrix.org/v1.19/appendices/#canonical-json>
    #[test]
    fn a_number_out_of_bounds_does_not_spoil_what_comes_with_it() {
        let (uri, us) = ("/_matrix/federation/v1/send/1", server_name!("b.example"));
        let key = SigningKey::from_bytes(&[7; 32]);
        let verify = |body: &str, sent: &str| {
            let text = format!(
                r#"{{"content":{body},"destination":"b.example","method":"PUT","origin":"a.example","uri":"{uri}"}}"#
            );
            let x_matrix = XMatrix {
                origin: server_name!("a.example").to_owned(),
                destination: Some(us.to_owned()),
                key: "ed25519:1".to_owned(),
                signature: key.sign(text.as_bytes()).to_bytes(),
            };
            x_matrix.verify("PUT", uri, sent.as_bytes(), us, &key.verifying_key())
        };
        for number in ["9007199254740993", "1e400", "0.5"] {
            let body = format!(r#"{{"edus":[],"pdus":[{{"depth":{number}}}]}}"#);
            verify(&body, &body).unwrap();
            let other = body.replace("edus", "pdus");
            assert!(matches!(verify(&body, &other), Err(BadRequestSignature::Wrong)), "{number}");
        }
        for rubbish in ["{\"depth\":0.5", "{\"depth\":0.5},\"x\":{}"] {
            let refused = verify(rubbish, rubbish);
            assert!(matches!(refused, Err(BadRequestSignature::Malformed(_))), "{rubbish}");
        }
    }

    const SIG: &str =
        "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";

    /// Spec: <https://spec.matrix.org/v1.19/server-server-api/#request-authentication>
    #[test]
    fn all_forms_of_the_grammar_are_read() {
        for header in [
            format!(
                r#"X-Matrix origin="a.example:1",destination="b.example",key="ed25519:1",sig="{SIG}""#
            ),
            format!(
                r"x-matrix   ORIGIN=a.example:1 ,	destination=b.example, key=ed25519:1,sig={SIG}"
            ),
            format!(
                r#"X-Matrix sig="{SIG}==",key="ed25519\:1",x="a,b",origin="a.\example:1",destination=b.example"#
            ),
        ] {
            let read = XMatrix::parse(&header).unwrap();
            assert_eq!(read.origin, "a.example:1", "{header}");
            assert_eq!(read.destination.unwrap(), "b.example");
            assert_eq!(read.key, "ed25519:1");
        }
        let old = format!(r#"X-Matrix origin=a.example,key="ed25519:1",sig="{SIG}""#);
        assert_eq!(XMatrix::parse(&old).unwrap().destination, None);
    }

    #[test]
    fn what_breaks_the_grammar_is_refused() {
        for (header, why) in [
            ("Bearer x".to_owned(), BadRequestSignature::Missing),
            ("X-Matrix".to_owned(), BadRequestSignature::Missing),
            (
                format!("X-Matrix origin=a.b,origin=c.d,key=ed25519:1,sig={SIG}"),
                BadRequestSignature::Malformed("a parameter comes twice"),
            ),
            (
                format!("X-Matrix origin=a.b,key=ed25519:1,sig=\"{SIG}"),
                BadRequestSignature::Malformed("an open quote"),
            ),
            (
                format!("X-Matrix origin=a.b key=ed25519:1,sig={SIG}"),
                BadRequestSignature::Malformed("no comma between parameters"),
            ),
            (
                format!("X-Matrix origin=\"a b\",key=ed25519:1,sig={SIG}"),
                BadRequestSignature::Malformed("not the name of a server"),
            ),
            (
                format!("X-Matrix origin=a.b,key=rsa:1,sig={SIG}"),
                BadRequestSignature::Malformed("not an ed25519 key"),
            ),
            (
                "X-Matrix origin=a.b,key=ed25519:1,sig=AAAA".to_owned(),
                BadRequestSignature::Malformed("not 64 bytes"),
            ),
            (
                format!("X-Matrix key=ed25519:1,sig={SIG}"),
                BadRequestSignature::Malformed("no origin"),
            ),
        ] {
            assert_eq!(XMatrix::parse(&header), Err(why), "{header}");
        }
    }

    #[test]
    fn a_signature_covers_method_uri_body_and_both_servers() {
        let us = server_name!("b.example");
        let (x_matrix, key) = signed("PUT", "/_matrix/x?a=%2F", br#"{"b":1,"a":[]}"#, us);
        let check =
            |method, uri, body: &str| x_matrix.verify(method, uri, body.as_bytes(), us, &key);
        assert_eq!(check("PUT", "/_matrix/x?a=%2F", r#"{ "a":[], "b":1 }"#), Ok(()));
        let wrong = Err(BadRequestSignature::Wrong);
        assert_eq!(check("POST", "/_matrix/x?a=%2F", r#"{"b":1,"a":[]}"#), wrong);
        assert_eq!(check("PUT", "/_matrix/x?a=/", r#"{"b":1,"a":[]}"#), wrong);
        assert_eq!(check("PUT", "/_matrix/x?a=%2F", r#"{"b":2,"a":[]}"#), wrong);
        assert_eq!(check("PUT", "/_matrix/x?a=%2F", ""), wrong);
        let forged = XMatrix { origin: server_name!("c.example").to_owned(), ..x_matrix.clone() };
        let again = forged.verify("PUT", "/_matrix/x?a=%2F", br#"{"b":1,"a":[]}"#, us, &key);
        assert_eq!(again, wrong);
    }

    /// A server to which a request was sent cannot send it on to another one.
    #[test]
    fn a_request_for_another_server_is_refused() {
        let (x_matrix, key) = signed("GET", "/x", b"", server_name!("c.example"));
        let us = server_name!("b.example");
        let refused = x_matrix.verify("GET", "/x", b"", us, &key);
        assert_eq!(refused, Err(BadRequestSignature::Destination));
        let silent = XMatrix { destination: None, ..x_matrix };
        assert_eq!(silent.verify("GET", "/x", b"", us, &key), Err(BadRequestSignature::Wrong));
    }

    proptest! {
        #[test]
        fn no_header_makes_it_panic(text in ".{0,200}") {
            let _ = XMatrix::parse(&text);
            let _ = XMatrix::parse(&format!("X-Matrix {text}"));
        }
    }
}

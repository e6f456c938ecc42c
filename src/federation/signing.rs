//! This server's signature on requests that are none of the server-server API.

use ruma::{CanonicalJsonValue, ServerName};
use serde_json::Value;

use super::Federation;

impl Federation {
    /// The `Authorization` header of a request to `destination`.
    ///
    /// Spec: <https://spec.matrix.org/v1.19/server-server-api/#request-authentication>
    pub(crate) fn authorization(
        &self,
        destination: &ServerName,
        method: &str,
        uri: &str,
        body: &Value,
    ) -> String {
        let origin = self.server_name();
        let body = body.to_string();
        let object = federation::request_object(method, uri, body.as_bytes(), origin, destination);
        let object = object.expect("what this server writes is canonical JSON");
        let key = &self.shared.key;
        let signed = CanonicalJsonValue::Object(object).to_string();
        format!(
            "X-Matrix origin=\"{origin}\",destination=\"{destination}\",key=\"{}\",sig=\"{}\"",
            key.key_id(),
            key.sign(signed.as_bytes()),
        )
    }
}

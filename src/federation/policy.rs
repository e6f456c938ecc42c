//! Asking policy servers.
//!
//! Spec: <https://spec.matrix.org/v1.19/server-server-api/#asking-for-a-policy-server-signature-on-an-event>

use std::time::Duration;

use federation::Limits;
use ruma::{ServerName, api::federation::policy::sign_event};
use serde_json::value::RawValue;

use super::{Federation, PeerError};
use crate::rooms::policy::{AskPolicyServer, PolicyError};

/// What asking may take: whoever sends something waits for it.
const QUESTION: Limits = Limits { timeout: Duration::from_secs(10), max_bytes: 64 * 1024 };

impl Federation {
    /// Asks the policy servers of rooms.
    pub(crate) fn policy_servers(&self) -> AskPolicyServer {
        let federation = self.clone();
        Box::new(move |server, event| {
            let federation = federation.clone();
            Box::pin(async move { federation.ask_policy_server(&server, event).await })
        })
    }

    async fn ask_policy_server(
        &self,
        server: &ServerName,
        event: Box<str>,
    ) -> Result<String, PolicyError> {
        let no_answer =
            |why: &str| PolicyError::NoAnswer { server: server.to_owned(), why: why.to_owned() };
        let event =
            RawValue::from_string(event.into()).map_err(|error| no_answer(&error.to_string()))?;
        match self.ask(server, sign_event::v1::Request::new(event), QUESTION).await {
            Ok(answer) => answer
                .ed25519_signature(server)
                .map(ToOwned::to_owned)
                .ok_or_else(|| no_answer("it answers without a signature")),
            Err(PeerError::Refused { status, kind, message, .. }) if status.is_client_error() => {
                Err(PolicyError::Refused { status, kind, message })
            }
            Err(error) => Err(no_answer(&error.to_string())),
        }
    }
}

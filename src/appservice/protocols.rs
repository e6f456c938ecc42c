//! What application services say of other networks, kept for a while.
//!
//! Clients ask for it whenever they show where there are rooms, and it hardly ever changes.
//!
//! Spec: <https://spec.matrix.org/v1.19/client-server-api/#third-party-lookups>

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use futures::future::join_all;
use parking_lot::Mutex;
use serde_json::{Map, Value, json};
use tokio::time::Instant;

use super::{
    networks::instance_id,
    query::AppserviceError,
    registry::{Appservices, Service},
    transport::encoded,
};

/// How long a service is not asked again.
const FRESH: Duration = Duration::from_hours(1);

/// What a service said of its networks, by their names; no more than its registration lists. It is
/// forgotten when the registrations are read again.
#[derive(Debug, Default)]
pub(super) struct Described(Mutex<BTreeMap<String, (Instant, Value)>>);

impl Appservices {
    /// What is known of one network, all of its services together.
    ///
    /// # Errors
    /// [`AppserviceError::NotFound`] if no service knows it.
    pub(crate) async fn protocol(
        &self,
        protocol: &str,
    ) -> Result<Map<String, Value>, AppserviceError> {
        let knows =
            |service: &Service| service.registration.protocols.iter().any(|one| one == protocol);
        let services = self.listening(knows);
        let answers = join_all(services.iter().map(|service| self.described(service, protocol)));
        let answers = answers.await;
        let mut found: Option<Map<String, Value>> = None;
        for (service, answer) in services.iter().zip(answers) {
            let Some(Value::Object(mut answer)) = answer else { continue };
            let mut instances = Vec::new();
            if let Some(Value::Array(given)) = answer.remove("instances") {
                for instance in given {
                    let Value::Object(mut instance) = instance else { continue };
                    if let Some(network) = instance.get("network_id").and_then(Value::as_str) {
                        let id = instance_id(service, network);
                        instance.insert("instance_id".to_owned(), id.into());
                    }
                    instances.push(Value::Object(instance));
                }
            }
            // The first one says what a network is like; each has instances of its own.
            let found = found.get_or_insert(answer);
            match found.entry("instances").or_insert_with(|| json!([])) {
                Value::Array(all) => all.extend(instances),
                other => *other = Value::Array(instances),
            }
        }
        found.ok_or(AppserviceError::NotFound { what: "this network" })
    }

    /// All networks that any service knows.
    pub(crate) async fn protocols(&self) -> BTreeMap<String, Map<String, Value>> {
        let mut names: Vec<String> = self
            .listening(|_| true)
            .iter()
            .flat_map(|service| service.registration.protocols.clone())
            .collect();
        names.sort_unstable();
        names.dedup();
        let found = join_all(names.iter().map(|name| self.protocol(name))).await;
        let known = |(name, found): (String, Result<_, _>)| Some((name, found.ok()?));
        names.into_iter().zip(found).filter_map(known).collect()
    }

    /// What a service says of a network. One that does not answer has still said what it said last.
    async fn described(&self, service: &Arc<Service>, protocol: &str) -> Option<Value> {
        let known = service.described.0.lock().get(protocol).cloned();
        if let Some((at, description)) = &known
            && at.elapsed() < FRESH
        {
            return Some(description.clone());
        }
        let path = format!("/thirdparty/protocol/{}", encoded(protocol));
        let asked = std::slice::from_ref(service);
        let answer = self.ask_all(asked, &path).await.into_iter().flatten().next();
        let Some(description) = answer.filter(Value::is_object) else {
            return known.map(|(_, description)| description);
        };
        let row = (Instant::now(), description.clone());
        service.described.0.lock().insert(protocol.to_owned(), row);
        Some(description)
    }
}

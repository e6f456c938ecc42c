//! Which versions of the specification are served.

use std::sync::Arc;

use axum::{
    extract::State,
    response::{IntoResponse, Response as HttpResponse},
};
use http::header;
use ruma::api::client::discovery::get_supported_versions::{Request, Response, Server};

use crate::{
    api::{
        error::ApiError,
        extract::{MaybeClient, Ruma},
    },
    config::Config,
};

/// Those whose additions are all there. Clients hide what they would do without a feature as soon
/// as it is named here, so a wrong one is worse than a missing one.
const VERSIONS: [&str; 13] = [
    "r0.6.1", "v1.1", "v1.2", "v1.3", "v1.4", "v1.5", "v1.6", "v1.7", "v1.8", "v1.9", "v1.10",
    "v1.11", "v1.12",
];

/// Names under which clients look for features, in the spec by now or never to be.
const FEATURES: [(&str, bool); 35] = [
    ("org.matrix.msc3916.stable", true),
    ("fi.mau.msc2659", true),
    ("fi.mau.msc2659.stable", true),
    ("fi.mau.msc2246", true),
    ("fi.mau.msc2246.stable", true),
    ("org.matrix.msc2285.stable", true),
    ("org.matrix.msc3030", true),
    ("org.matrix.msc3266", true),
    ("org.matrix.msc3440.stable", true),
    ("org.matrix.msc3715.stable", true),
    ("org.matrix.msc3771", true),
    ("org.matrix.msc3773", true),
    ("org.matrix.msc3827.stable", true),
    ("org.matrix.msc3856.stable", true),
    ("org.matrix.msc3952_intentional_mentions", true),
    ("org.matrix.msc3981", true),
    ("org.matrix.msc4155", true),
    ("org.matrix.msc4174", true),
    ("org.matrix.msc4306", true),
    ("org.matrix.msc4508", true),
    ("org.matrix.msc4538", true),
    ("org.matrix.msc4543", true),
    ("org.matrix.msc4380.stable", true),
    ("uk.half-shot.msc2666.query_mutual_rooms", true),
    ("uk.half-shot.msc2666.query_mutual_rooms.stable", true),
    ("org.matrix.msc3814", true),
    ("org.matrix.msc3881", true),
    ("org.matrix.msc3882", true),
    ("org.matrix.simplified_msc3575", true),
    ("uk.tcpip.msc4133", true),
    ("uk.tcpip.msc4133.stable", true),
    ("us.cloke.msc4175.stable", true),
    ("io.element.e2ee_forced.public", false),
    ("io.element.e2ee_forced.private", false),
    ("io.element.e2ee_forced.trusted_private", false),
];

/// `GET /_matrix/client/versions`
///
/// Spec: <https://spec.matrix.org/v1.19/client-server-api/#get_matrixclientversions>
pub(crate) async fn get_versions(
    State(config): State<Arc<Config>>,
    MaybeClient { .. }: MaybeClient<Request>,
) -> Result<HttpResponse, ApiError> {
    let mut response = Response::new(VERSIONS.map(str::to_owned).to_vec());
    response.unstable_features =
        FEATURES.into_iter().map(|(name, on)| (name.to_owned(), on)).collect();
    let delayed_events = config.delayed_events.max_delay_ms > 0;
    response.unstable_features.insert("org.matrix.msc4140".to_owned(), delayed_events);
    let streams = config.sync.streams;
    response.unstable_features.insert("dev.myelin.sync_stream".to_owned(), streams);
    let version = env!("CARGO_PKG_VERSION").to_owned();
    response.server = Some(Server::new("myelin".to_owned(), version));
    // The answer may depend on who asks, some day: caches must not mix them up.
    let headers = [(header::VARY, "Authorization"), (header::CACHE_CONTROL, "max-age=600")];
    Ok((headers, Ruma(response)).into_response())
}

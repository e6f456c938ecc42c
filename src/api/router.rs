//! Every route, in one list.

use std::collections::BTreeSet;

use axum::{
    Router,
    handler::Handler,
    routing::{MethodFilter, on},
};
use ruma::api::{IncomingRequest, path_builder::PathBuilder};

use super::client::versions;
use crate::server::Areas;

/// All endpoints of the server, without what every request passes through.
pub(crate) fn routes(areas: Areas) -> Router {
    let routes = Routes::default()
        .add::<ruma::api::client::discovery::get_supported_versions::Request, _, _>(
            versions::get_versions,
        );
    routes.router.with_state(areas)
}

/// Routes by ruma's request types: method and paths come from the type.
#[derive(Default)]
struct Routes {
    router: Router<Areas>,
}

impl Routes {
    /// Serves `R` with `handler` on all paths it ever had.
    fn add<R, H, T>(mut self, handler: H) -> Self
    where
        R: IncomingRequest,
        H: Handler<T, Areas>,
        T: 'static,
    {
        let method = MethodFilter::try_from(R::METHOD)
            .expect("ruma's endpoints use methods that every router knows");
        for path in paths::<R>() {
            self.router = self.router.route(&path, on(method, handler.clone()));
        }
        self
    }
}

/// The paths of an endpoint, with the forms that clients use besides.
fn paths<R: IncomingRequest>() -> BTreeSet<String> {
    let mut paths = BTreeSet::new();
    for path in R::PATH_BUILDER.all_paths() {
        paths.insert(path.to_owned());
        // Old clients know the endpoints of v3 by the name of the releases before 1.1.
        if let Some(rest) = path.strip_prefix("/_matrix/client/v3/") {
            paths.insert(format!("/_matrix/client/r0/{rest}"));
        }
    }
    // An empty state key may be left out, with or without the slash before it.
    let short: Vec<String> = paths
        .iter()
        .filter_map(|path| path.strip_suffix("/{state_key}"))
        .flat_map(|path| [path.to_owned(), format!("{path}/")])
        .collect();
    paths.extend(short);
    paths
}

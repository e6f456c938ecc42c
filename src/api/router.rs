//! Every route, in one list.

use std::collections::BTreeSet;

use axum::{
    Router,
    handler::Handler,
    routing::{MethodFilter, on},
};
use ruma::api::{IncomingRequest, path_builder::PathBuilder};

use super::client::{
    create_room, room_aliases, room_events, room_history, room_membership, versions,
};
use crate::server::Areas;

/// All endpoints of the server, without what every request passes through.
pub(crate) fn routes(areas: Areas) -> Router {
    let routes = Routes::default()
        .add::<ruma::api::client::discovery::get_supported_versions::Request, _, _>(
            versions::get_versions,
        );
    let routes = rooms(routes);
    routes.router.with_state(areas)
}

/// Rooms: creating, being in them, sending, reading.
fn rooms(routes: Routes) -> Routes {
    use ruma::api::client::{
        alias, context, directory, knock, membership, message, redact, room, state,
    };
    routes
        .add::<room::create_room::v3::Request, _, _>(create_room::create_room)
        .add::<membership::joined_rooms::v3::Request, _, _>(room_membership::get_joined_rooms)
        .add::<membership::join_room_by_id::v3::Request, _, _>(room_membership::join_by_id)
        .add::<membership::join_room_by_id_or_alias::v3::Request, _, _>(
            room_membership::join_by_id_or_alias,
        )
        .add::<knock::knock_room::v3::Request, _, _>(room_membership::knock)
        .add::<membership::leave_room::v3::Request, _, _>(room_membership::leave)
        .add::<membership::invite_user::v3::Request, _, _>(room_membership::invite)
        .add::<membership::kick_user::v3::Request, _, _>(room_membership::kick)
        .add::<membership::ban_user::v3::Request, _, _>(room_membership::ban)
        .add::<membership::unban_user::v3::Request, _, _>(room_membership::unban)
        .add::<membership::forget_room::v3::Request, _, _>(room_membership::forget)
        .add::<message::send_message_event::v3::Request, _, _>(room_events::send_message)
        .add::<redact::redact_event::v3::Request, _, _>(room_events::redact)
        .add::<state::send_state_event::v3::Request, _, _>(room_events::send_state)
        .add::<state::get_state_events::v3::Request, _, _>(room_events::get_state)
        .add::<state::get_state_event_for_key::v3::Request, _, _>(room_events::get_state_event)
        .add::<room::get_room_event::v3::Request, _, _>(room_events::get_event)
        .add::<context::get_context::v3::Request, _, _>(room_events::get_event_context)
        .add::<message::get_message_events::v3::Request, _, _>(room_history::get_messages)
        .add::<membership::get_member_events::v3::Request, _, _>(room_history::get_members)
        .add::<membership::joined_members::v3::Request, _, _>(room_history::get_joined_members)
        .add::<alias::create_alias::v3::Request, _, _>(room_aliases::put_alias)
        .add::<alias::get_alias::v3::Request, _, _>(room_aliases::resolve_alias)
        .add::<alias::delete_alias::v3::Request, _, _>(room_aliases::remove_alias)
        .add::<room::aliases::v3::Request, _, _>(room_aliases::list_aliases)
        .add::<directory::get_room_visibility::v3::Request, _, _>(room_aliases::get_visibility)
        .add::<directory::set_room_visibility::v3::Request, _, _>(room_aliases::set_visibility)
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

//! The routes of the administration API.

use axum::routing::MethodFilter;

use super::{media, rooms, users};
use crate::api::router::Routes;

const OVERRIDE: &str = "/_synapse/admin/v1/users/{user_id}/override_ratelimit";

/// Adds the routes of the administration API.
pub(in crate::api) fn add(routes: Routes) -> Routes {
    const DELETE: MethodFilter = MethodFilter::DELETE;
    const GET: MethodFilter = MethodFilter::GET;
    const POST: MethodFilter = MethodFilter::POST;
    const PUT: MethodFilter = MethodFilter::PUT;
    routes
        .path(DELETE, "/_synapse/admin/v1/rooms/{room_id}", rooms::delete_room_and_wait)
        .path(DELETE, "/_synapse/admin/v2/rooms/{room_id}", rooms::delete_room)
        .path(GET, "/_synapse/admin/v2/rooms/delete_status/{delete_id}", rooms::get_delete_status)
        .path(
            GET,
            "/_synapse/admin/v2/rooms/{room_id}/delete_status",
            rooms::get_room_delete_status,
        )
        .path(GET, "/_synapse/admin/v1/rooms/{room_id}/block", rooms::get_block)
        .path(PUT, "/_synapse/admin/v1/rooms/{room_id}/block", rooms::set_block)
        .path(POST, "/_synapse/admin/v1/purge_history/{room_id}", rooms::purge_history)
        .path(POST, "/_synapse/admin/v1/purge_history/{room_id}/{event_id}", rooms::purge_history)
        .path(GET, "/_synapse/admin/v1/purge_history_status/{purge_id}", rooms::get_purge_status)
        .path(POST, "/_myelin/admin/v1/rooms/{room_id}/check", rooms::check_room)
        .path(
            POST,
            "/_synapse/admin/v1/media/quarantine/{server_name}/{media_id}",
            media::quarantine,
        )
        .path(
            POST,
            "/_synapse/admin/v1/media/unquarantine/{server_name}/{media_id}",
            media::release,
        )
        .path(POST, "/_synapse/admin/v1/room/{room_id}/media/quarantine", media::quarantine_room)
        .path(GET, "/_synapse/admin/v1/room/{room_id}/media", media::get_room_media)
        .path(POST, "/_synapse/admin/v1/user/{user_id}/media/quarantine", media::quarantine_user)
        .path(DELETE, "/_synapse/admin/v1/media/{server_name}/{media_id}", media::delete)
        .path(POST, "/_synapse/admin/v1/media/delete", media::delete_before)
        .path(POST, "/_synapse/admin/v1/purge_media_cache", media::purge_cache)
        .path(POST, "/_myelin/admin/v1/quarantine", media::quarantine_wide)
        .path(DELETE, "/_myelin/admin/v1/quarantine", media::release_wide)
        .path(GET, "/_myelin/admin/v1/quarantine", media::get_quarantine)
        .path(GET, OVERRIDE, users::get_rate_override)
        .path(POST, OVERRIDE, users::set_rate_override)
        .path(DELETE, OVERRIDE, users::delete_rate_override)
}

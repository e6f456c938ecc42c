//! Every route, in one list.

use std::collections::BTreeSet;

use axum::{
    Router,
    handler::Handler,
    routing::{MethodFilter, on},
};
use ruma::api::{IncomingRequest, path_builder::PathBuilder};

use super::{
    client::{
        self, account, account_data, admin, backup, capabilities, create_room, dehydrated_device,
        delayed_events as delayed, device, directory as rooms_directory, filter, keys, login,
        media, media_download, notifications, people, profile, push_rules, pushers, receipts,
        register, relations, reporting, room_aliases, room_events, room_history, room_membership,
        room_upgrade, sync_stream, third_party, thread_subscriptions, threepid, to_device, typing,
        versions,
    },
    server,
};
use crate::{push::mails::UNSUBSCRIBE_PATH, server::Areas, users::mail::VALIDATION_PATH};

/// All endpoints of the server, without what every request passes through.
pub(crate) fn routes(areas: Areas) -> Router {
    let routes = Routes::default();
    let routes = content(encryption(delayed_events(threads(rooms(notifying(stored_data(
        accounts(routes),
    )))))));
    let routes = super::admin::routes::add(routes);
    let routes = if areas.has_streams() { streams(routes) } else { routes };
    let routes = if areas.is_federating() { servers(routes) } else { routes };
    routes.router.with_state(areas)
}

/// Accounts, devices, profiles, account data.
fn accounts(routes: Routes) -> Routes {
    use ruma::api::client::{
        account as a, admin as ad, appservice as b, device as d, discovery, filter as f,
        profile as p, session as s, thirdparty as tp, voip as v,
    };
    const POST: MethodFilter = MethodFilter::POST;
    routes
        .add::<discovery::get_supported_versions::Request, _, _>(versions::get_versions)
        .add::<a::register::v3::Request, _, _>(register::register)
        .add::<a::get_username_availability::v3::Request, _, _>(register::get_username_availability)
        .add::<a::check_registration_token_validity::v1::Request, _, _>(
            register::check_registration_token_validity,
        )
        .path(MethodFilter::GET, "/_synapse/admin/v1/register", register::get_registration_nonce)
        .path(POST, "/_synapse/admin/v1/register", register::register_by_shared_secret)
        .add::<s::get_login_types::v3::Request, _, _>(login::get_login_types)
        .add::<s::login::v3::Request, _, _>(login::login)
        .add::<s::get_login_token::v1::Request, _, _>(login::get_login_token)
        .add::<s::refresh_token::v3::Request, _, _>(login::refresh_token)
        .add::<s::logout::v3::Request, _, _>(login::logout)
        .add::<s::logout_all::v3::Request, _, _>(login::logout_all)
        .add::<a::whoami::v3::Request, _, _>(login::whoami)
        .add::<d::get_devices::v3::Request, _, _>(device::get_devices)
        .add::<d::get_device::v3::Request, _, _>(device::get_device)
        .add::<d::update_device::v3::Request, _, _>(device::update_device)
        .add::<d::delete_device::v3::Request, _, _>(device::delete_device)
        .add::<d::delete_devices::v3::Request, _, _>(device::delete_devices)
        .add::<a::change_password::v3::Request, _, _>(account::change_password)
        .add::<a::deactivate::v3::Request, _, _>(account::deactivate)
        .add::<a::get_3pids::v3::Request, _, _>(account::get_3pids)
        .path(POST, "/_matrix/client/v3/account/3pid", account::post_3pids)
        .path(POST, "/_matrix/client/r0/account/3pid", account::post_3pids)
        .add::<a::add_3pid::v3::Request, _, _>(account::add_3pid)
        .add::<a::bind_3pid::v3::Request, _, _>(account::bind_3pid)
        .add::<a::unbind_3pid::v3::Request, _, _>(account::unbind_3pid)
        .add::<a::delete_3pid::v3::Request, _, _>(account::delete_3pid)
        .add::<a::request_openid_token::v3::Request, _, _>(account::request_openid_token)
        .add::<ruma::api::federation::openid::get_openid_userinfo::v1::Request, _, _>(
            server::openid::get_openid_userinfo,
        )
        .add::<a::request_registration_token_via_email::v3::Request, _, _>(
            threepid::request_registration_token,
        )
        .add::<a::request_registration_token_via_msisdn::v3::Request, _, _>(
            threepid::request_registration_token_via_msisdn,
        )
        .add::<a::request_password_change_token_via_email::v3::Request, _, _>(
            threepid::request_password_change_token,
        )
        .add::<a::request_password_change_token_via_msisdn::v3::Request, _, _>(
            threepid::request_password_change_token_via_msisdn,
        )
        .add::<a::request_3pid_management_token_via_email::v3::Request, _, _>(
            threepid::request_3pid_management_token,
        )
        .add::<a::request_3pid_management_token_via_msisdn::v3::Request, _, _>(
            threepid::request_3pid_management_token_via_msisdn,
        )
        .path(MethodFilter::GET, VALIDATION_PATH, threepid::get_validation_page)
        .path(POST, VALIDATION_PATH, threepid::validate_email)
        .add::<b::request_ping::v1::Request, _, _>(client::appservice::request_ping)
        .add::<b::set_room_visibility::v3::Request, _, _>(client::appservice::set_room_visibility)
        .add::<tp::get_protocols::v3::Request, _, _>(third_party::get_protocols)
        .add::<tp::get_protocol::v3::Request, _, _>(third_party::get_protocol)
        .add::<tp::get_location_for_protocol::v3::Request, _, _>(
            third_party::get_location_for_protocol,
        )
        .add::<tp::get_user_for_protocol::v3::Request, _, _>(third_party::get_user_for_protocol)
        .add::<tp::get_location_for_room_alias::v3::Request, _, _>(
            third_party::get_location_for_room_alias,
        )
        .add::<tp::get_user_for_user_id::v3::Request, _, _>(third_party::get_user_for_user_id)
        .add::<discovery::get_capabilities::v3::Request, _, _>(capabilities::get_capabilities)
        .add::<v::get_turn_server_info::v3::Request, _, _>(capabilities::get_turn_server_info)
        .add::<ad::get_user_info::v3::Request, _, _>(admin::get_user_info)
        .add::<ad::is_user_locked::v1::Request, _, _>(admin::is_user_locked)
        .add::<ad::lock_user::v1::Request, _, _>(admin::lock_user)
        .add::<ad::is_user_suspended::v1::Request, _, _>(admin::is_user_suspended)
        .add::<ad::suspend_user::v1::Request, _, _>(admin::suspend_user)
        .add::<p::get_profile::v3::Request, _, _>(profile::get_profile)
        .add::<p::get_profile_field::v3::Request, _, _>(profile::get_profile_field)
        .add::<p::set_profile_field::v3::Request, _, _>(profile::set_profile_field)
        .add::<p::delete_profile_field::v3::Request, _, _>(profile::delete_profile_field)
        .add::<f::create_filter::v3::Request, _, _>(filter::create_filter)
        .add::<f::get_filter::v3::Request, _, _>(filter::get_filter)
}

/// Push rules, pushers, notifications.
fn notifying(routes: Routes) -> Routes {
    use ruma::api::client::push;
    const POST: MethodFilter = MethodFilter::POST;
    routes
        .add::<push::get_notifications::v3::Request, _, _>(notifications::get_notifications)
        .add::<push::get_pushers::v3::Request, _, _>(pushers::get_pushers)
        .add::<push::set_pusher::v3::Request, _, _>(pushers::set_pusher)
        .path(POST, "/_matrix/client/unstable/org.matrix.msc4174/pushers/ack", pushers::ack_pusher)
        .path(MethodFilter::GET, UNSUBSCRIBE_PATH, pushers::get_unsubscribe_page)
        .path(POST, UNSUBSCRIBE_PATH, pushers::unsubscribe)
        .add::<push::get_pushrules_all::v3::Request, _, _>(push_rules::get_pushrules_all)
        .add::<push::get_pushrules_global_scope::v3::Request, _, _>(
            push_rules::get_pushrules_global,
        )
        .add::<push::get_pushrule::v3::Request, _, _>(push_rules::get_pushrule)
        .add::<push::set_pushrule::v3::Request, _, _>(push_rules::set_pushrule)
        .add::<push::delete_pushrule::v3::Request, _, _>(push_rules::delete_pushrule)
        .add::<push::get_pushrule_actions::v3::Request, _, _>(push_rules::get_pushrule_actions)
        .add::<push::set_pushrule_actions::v3::Request, _, _>(push_rules::set_pushrule_actions)
        .add::<push::get_pushrule_enabled::v3::Request, _, _>(push_rules::get_pushrule_enabled)
        .add::<push::set_pushrule_enabled::v3::Request, _, _>(push_rules::set_pushrule_enabled)
}

/// Other servers.
fn servers(routes: Routes) -> Routes {
    use ruma::api::federation::{
        authenticated_media as am, authorization as au, backfill as b, device, directory as dir,
        discovery as d, event as e, keys as k, membership as m, query as q, space as s,
        thirdparty as tp, transactions as t,
    };
    const PUT: MethodFilter = MethodFilter::PUT;
    routes
        .add::<t::send_transaction_message::v1::Request, _, _>(
            server::transactions::send_transaction,
        )
        .add::<m::prepare_join_event::v1::Request, _, _>(server::membership::make_join)
        .add::<m::create_join_event::v2::Request, _, _>(server::membership::send_join)
        .add::<m::prepare_leave_event::v1::Request, _, _>(server::membership::make_leave)
        .add::<m::create_leave_event::v2::Request, _, _>(server::membership::send_leave)
        .add::<m::prepare_knock_event::v1::Request, _, _>(server::membership::make_knock)
        .add::<m::create_knock_event::v1::Request, _, _>(server::membership::send_knock)
        .add::<m::create_invite::v2::Request, _, _>(server::membership::invite)
        .path(
            PUT,
            "/_matrix/federation/v1/send_join/{room_id}/{event_id}",
            server::membership::send_join_v1,
        )
        .path(
            PUT,
            "/_matrix/federation/v1/send_leave/{room_id}/{event_id}",
            server::membership::send_leave_v1,
        )
        .path(
            PUT,
            "/_matrix/federation/v1/invite/{room_id}/{event_id}",
            server::membership::invite_v1,
        )
        .add::<tp::bind_callback::v1::Request, _, _>(server::third_party::on_bind)
        .add::<tp::exchange_invite::v1::Request, _, _>(
            server::third_party::exchange_third_party_invite,
        )
        .add::<dir::get_public_rooms::v1::Request, _, _>(server::directory::get_public_rooms)
        .add::<dir::get_public_rooms_filtered::v1::Request, _, _>(
            server::directory::get_public_rooms_filtered,
        )
        .add::<s::get_hierarchy::v1::Request, _, _>(server::directory::get_hierarchy)
        .add::<e::get_event_by_timestamp::v1::Request, _, _>(server::events::get_event_by_timestamp)
        .add::<e::get_event::v1::Request, _, _>(server::events::get_event)
        .add::<e::get_room_state::v1::Request, _, _>(server::events::get_state)
        .add::<e::get_room_state_ids::v1::Request, _, _>(server::events::get_state_ids)
        .add::<e::get_missing_events::v1::Request, _, _>(server::events::get_missing_events)
        .add::<au::get_event_authorization::v1::Request, _, _>(server::events::get_event_auth)
        .add::<b::get_backfill::v1::Request, _, _>(server::events::get_backfill)
        .add::<d::get_server_keys::v2::Request, _, _>(server::keys::get_server_keys)
        .add::<d::get_remote_server_keys::v2::Request, _, _>(server::keys::get_remote_server_keys)
        .add::<d::get_remote_server_keys_batch::v2::Request, _, _>(
            server::keys::get_remote_server_keys_batch,
        )
        .add::<d::get_server_version::v1::Request, _, _>(server::version::get_server_version)
        .add::<q::get_profile_information::v1::Request, _, _>(
            server::query::get_profile_information,
        )
        .add::<q::get_room_information::v1::Request, _, _>(server::query::get_room_information)
        .add::<q::get_custom_information::v1::Request, _, _>(server::query::get_custom_information)
        .add::<device::get_devices::v1::Request, _, _>(server::keys_of_users::get_devices)
        .add::<k::get_keys::v1::Request, _, _>(server::keys_of_users::get_keys)
        .add::<k::claim_keys::v1::Request, _, _>(server::keys_of_users::claim_keys)
        .add::<am::get_content::v1::Request, _, _>(server::media::get_content)
        .add::<am::get_content_thumbnail::v1::Request, _, _>(server::media::get_content_thumbnail)
}

/// Rooms: creating, being in them, sending, reading.
fn rooms(routes: Routes) -> Routes {
    use ruma::api::client::{
        alias, context, directory, knock, membership, message, peeking, read_marker, receipt,
        redact, relations as rel, reporting as rep, room, search, space, state, sync, threads,
        typing as ty, user_directory,
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
        .add::<room::upgrade_room::v3::Request, _, _>(room_upgrade::upgrade)
        .add::<membership::get_member_events::v3::Request, _, _>(room_history::get_members)
        .add::<membership::joined_members::v3::Request, _, _>(room_history::get_joined_members)
        .add::<room::get_event_by_timestamp::v1::Request, _, _>(
            room_history::get_event_by_timestamp,
        )
        .add::<directory::get_public_rooms::v3::Request, _, _>(rooms_directory::get_public_rooms)
        .add::<directory::get_public_rooms_filtered::v3::Request, _, _>(
            rooms_directory::get_public_rooms_filtered,
        )
        .add::<room::get_summary::v1::Request, _, _>(rooms_directory::get_summary)
        .add::<room::report_content::v3::Request, _, _>(reporting::report_content)
        .add::<room::report_room::v3::Request, _, _>(reporting::report_room)
        .add::<rep::report_user::v3::Request, _, _>(reporting::report_user)
        .add::<space::get_hierarchy::v1::Request, _, _>(rooms_directory::get_hierarchy)
        .add::<user_directory::search_users::v3::Request, _, _>(people::search_users)
        .add::<membership::get_mutual_rooms::v1::Request, _, _>(people::get_mutual_rooms)
        .path(
            MethodFilter::GET,
            "/_matrix/client/unstable/uk.half-shot.msc2666/user/mutual_rooms",
            people::get_mutual_rooms_unstable,
        )
        .add::<rel::get_relating_events::v1::Request, _, _>(relations::get_relating_events)
        .add::<rel::get_relating_events_with_rel_type::v1::Request, _, _>(
            relations::get_relating_events_with_rel_type,
        )
        .add::<rel::get_relating_events_with_rel_type_and_event_type::v1::Request, _, _>(
            relations::get_relating_events_with_rel_type_and_event_type,
        )
        .add::<threads::get_threads::v1::Request, _, _>(relations::get_threads)
        .add::<search::search_events::v3::Request, _, _>(client::search::search_events)
        .add::<alias::create_alias::v3::Request, _, _>(room_aliases::put_alias)
        .add::<alias::get_alias::v3::Request, _, _>(room_aliases::resolve_alias)
        .add::<alias::delete_alias::v3::Request, _, _>(room_aliases::remove_alias)
        .add::<room::aliases::v3::Request, _, _>(room_aliases::list_aliases)
        .add::<directory::get_room_visibility::v3::Request, _, _>(room_aliases::get_visibility)
        .add::<directory::set_room_visibility::v3::Request, _, _>(room_aliases::set_visibility)
        .add::<ty::create_typing_event::v3::Request, _, _>(typing::set_typing)
        .add::<receipt::create_receipt::v3::Request, _, _>(receipts::create_receipt)
        .add::<read_marker::set_read_marker::v3::Request, _, _>(receipts::set_read_markers)
        .add::<sync::sync_events::v3::Request, _, _>(client::sync::sync_events)
        .add::<peeking::get_current_state::v3::Request, _, _>(client::old_sync::get_room)
        .add::<peeking::listen_to_new_events::v3::Request, _, _>(client::old_sync::get_events)
        .path(
            MethodFilter::GET,
            "/_matrix/client/v3/events/{event_id}",
            client::old_sync::get_event,
        )
        .path(
            MethodFilter::GET,
            "/_matrix/client/r0/events/{event_id}",
            client::old_sync::get_event,
        )
        .path(
            MethodFilter::GET,
            "/_matrix/client/v3/initialSync",
            client::old_sync::get_initial_sync,
        )
        .path(
            MethodFilter::GET,
            "/_matrix/client/r0/initialSync",
            client::old_sync::get_initial_sync,
        )
        .path(
            MethodFilter::POST,
            "/_matrix/client/unstable/org.matrix.simplified_msc3575/sync",
            client::sliding_sync::sync,
        )
        .path(MethodFilter::POST, "/_matrix/client/v4/sync", client::sliding_sync::sync_v4)
}

/// What clients store with an account, and tags.
fn stored_data(routes: Routes) -> Routes {
    use ruma::api::client::{config as c, tag as t};
    routes
        .add::<c::get_global_account_data::v3::Request, _, _>(account_data::get_global_account_data)
        .add::<c::set_global_account_data::v3::Request, _, _>(account_data::set_global_account_data)
        .add::<c::get_room_account_data::v3::Request, _, _>(account_data::get_room_account_data)
        .add::<c::set_room_account_data::v3::Request, _, _>(account_data::set_room_account_data)
        .path(
            MethodFilter::DELETE,
            "/_matrix/client/unstable/org.matrix.msc3391/user/{user_id}/account_data/{type}",
            account_data::delete_global_account_data,
        )
        .path(
            MethodFilter::DELETE,
            "/_matrix/client/unstable/org.matrix.msc3391/user/{user_id}/rooms/{room_id}/account_data/{type}",
            account_data::delete_room_account_data,
        )
        .add::<t::get_tags::v3::Request, _, _>(account_data::get_tags)
        .add::<t::create_tag::v3::Request, _, _>(account_data::create_tag)
        .add::<t::delete_tag::v3::Request, _, _>(account_data::delete_tag)
}

/// What is synced, pushed.
fn streams(routes: Routes) -> Routes {
    const BASE: &str = "/_matrix/client/unstable/dev.myelin.sync_stream";
    routes
        .path(MethodFilter::GET, &format!("{BASE}/events"), sync_stream::events)
        .path(MethodFilter::GET, &format!("{BASE}/websocket"), sync_stream::websocket)
        .path(MethodFilter::POST, &format!("{BASE}/acknowledge"), sync_stream::acknowledge)
}

/// Threads that users follow.
fn threads(routes: Routes) -> Routes {
    const SUBSCRIPTION: &str = "/_matrix/client/unstable/io.element.msc4306/rooms/{room_id}/thread/{thread_root}/subscription";
    routes
        .path(MethodFilter::GET, SUBSCRIPTION, thread_subscriptions::get)
        .path(MethodFilter::PUT, SUBSCRIPTION, thread_subscriptions::subscribe)
        .path(MethodFilter::DELETE, SUBSCRIPTION, thread_subscriptions::unsubscribe)
        .path(
            MethodFilter::GET,
            "/_matrix/client/unstable/io.element.msc4308/thread_subscriptions",
            thread_subscriptions::list,
        )
}

/// Events that are sent later.
fn delayed_events(routes: Routes) -> Routes {
    use ruma::api::client::delayed_events as d;
    const BASE: &str = "/_matrix/client/unstable/org.matrix.msc4140";
    routes
        .add::<d::get_all_delayed_events::unstable::Request, _, _>(delayed::list)
        .add::<d::get_delayed_event::unstable::Request, _, _>(delayed::get)
        .path(
            MethodFilter::PUT,
            &format!("{BASE}/rooms/{{room_id}}/delayed_event/{{event_type}}/{{txn_id}}"),
            delayed::schedule,
        )
        .path(MethodFilter::POST, &format!("{BASE}/delayed_events/{{delay_id}}"), delayed::act)
        .path(
            MethodFilter::POST,
            &format!("{BASE}/delayed_events/{{delay_id}}/{{action}}"),
            delayed::act_by_path,
        )
}

/// End-to-end encryption, and presence.
fn encryption(routes: Routes) -> Routes {
    use ruma::api::client::{dehydrated_device as d, keys as k, presence as p, to_device as t};
    let routes = backups(routes)
        .add::<p::set_presence::v3::Request, _, _>(client::presence::set_presence)
        .add::<p::get_presence::v3::Request, _, _>(client::presence::get_presence)
        .add::<d::put_dehydrated_device::unstable::Request, _, _>(
            dehydrated_device::put_dehydrated_device,
        )
        .add::<d::get_dehydrated_device::unstable::Request, _, _>(
            dehydrated_device::get_dehydrated_device,
        )
        .add::<d::delete_dehydrated_device::unstable::Request, _, _>(
            dehydrated_device::delete_dehydrated_device,
        )
        .add::<d::get_events::unstable::Request, _, _>(dehydrated_device::get_events)
        .path(
            MethodFilter::GET,
            "/_matrix/client/unstable/org.matrix.msc3814.v1/dehydrated_device/{device_id}/events",
            dehydrated_device::page_of_events,
        );
    routes
        .add::<k::upload_keys::v3::Request, _, _>(keys::upload_keys)
        .add::<k::get_keys::v3::Request, _, _>(keys::get_keys)
        .add::<k::claim_keys::v3::Request, _, _>(keys::claim_keys)
        .add::<k::get_key_changes::v3::Request, _, _>(keys::get_key_changes)
        .add::<k::upload_signing_keys::v3::Request, _, _>(keys::upload_signing_keys)
        .add::<k::upload_signatures::v3::Request, _, _>(keys::upload_signatures)
        .add::<t::send_event_to_device::v3::Request, _, _>(to_device::send_event_to_device)
}

/// Key backup.
fn backups(routes: Routes) -> Routes {
    use ruma::api::client::backup as b;
    routes
        .add::<b::create_backup_version::v3::Request, _, _>(backup::create_backup_version)
        .add::<b::get_latest_backup_info::v3::Request, _, _>(backup::get_latest_backup_info)
        .add::<b::get_backup_info::v3::Request, _, _>(backup::get_backup_info)
        .add::<b::update_backup_version::v3::Request, _, _>(backup::update_backup_version)
        .add::<b::delete_backup_version::v3::Request, _, _>(backup::delete_backup_version)
        .add::<b::add_backup_keys::v3::Request, _, _>(backup::add_backup_keys)
        .add::<b::add_backup_keys_for_room::v3::Request, _, _>(backup::add_backup_keys_for_room)
        .add::<b::add_backup_keys_for_session::v3::Request, _, _>(
            backup::add_backup_keys_for_session,
        )
        .add::<b::get_backup_keys::v3::Request, _, _>(backup::get_backup_keys)
        .add::<b::get_backup_keys_for_room::v3::Request, _, _>(backup::get_backup_keys_for_room)
        .add::<b::get_backup_keys_for_session::v3::Request, _, _>(
            backup::get_backup_keys_for_session,
        )
        .add::<b::delete_backup_keys::v3::Request, _, _>(backup::delete_backup_keys)
        .add::<b::delete_backup_keys_for_room::v3::Request, _, _>(
            backup::delete_backup_keys_for_room,
        )
        .add::<b::delete_backup_keys_for_session::v3::Request, _, _>(
            backup::delete_backup_keys_for_session,
        )
}

/// The content repository.
fn content(routes: Routes) -> Routes {
    use ruma::api::client::{authenticated_media as am, media as m};
    let routes = routes
        .add::<m::create_content::v3::Request, _, _>(media::upload)
        .add::<m::create_mxc_uri::v1::Request, _, _>(media::create)
        .add::<m::create_content_async::v3::Request, _, _>(media::upload_created)
        .add::<am::get_media_config::v1::Request, _, _>(media::get_config)
        .add::<am::get_media_preview::v1::Request, _, _>(media::get_preview)
        .add::<am::get_content::v1::Request, _, _>(media_download::get_content)
        .add::<am::get_content_as_filename::v1::Request, _, _>(
            media_download::get_content_as_filename,
        )
        .add::<am::get_content_thumbnail::v1::Request, _, _>(media_download::get_content_thumbnail);
    #[expect(deprecated, reason = "old clients still ask for them")]
    routes
        .add::<m::get_media_config::v3::Request, _, _>(media::get_config_legacy)
        .add::<m::get_media_preview::v3::Request, _, _>(media::get_preview_legacy)
        .add::<m::get_content::v3::Request, _, _>(media_download::get_content_legacy)
        .add::<m::get_content_as_filename::v3::Request, _, _>(
            media_download::get_content_as_filename_legacy,
        )
        .add::<m::get_content_thumbnail::v3::Request, _, _>(
            media_download::get_content_thumbnail_legacy,
        )
}

/// Routes by ruma's request types: method and paths come from the type.
#[derive(Default)]
pub(super) struct Routes {
    router: Router<Areas>,
}

impl Routes {
    /// Serves a path that no type of ruma has.
    pub(super) fn path<H, T>(mut self, method: MethodFilter, path: &str, handler: H) -> Self
    where
        H: Handler<T, Areas>,
        T: 'static,
    {
        self.router = self.router.route(path, on(method, handler));
        self
    }

    /// Serves `R` with `handler` on all paths it ever had.
    #[expect(
        clippy::needless_pass_by_value,
        reason = "handlers are functions; `&` before each would say nothing"
    )]
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
        if let Some(rest) = path.strip_prefix("/_matrix/media/v3/") {
            paths.insert(format!("/_matrix/media/r0/{rest}"));
            paths.insert(format!("/_matrix/media/v1/{rest}"));
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

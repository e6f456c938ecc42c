//! Closing and deleting rooms, and removing their history.

use axum::{Json, extract::State};
use ruma::{OwnedEventId, OwnedRoomId, OwnedUserId};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::Admin;
use crate::{
    api::error::ApiError,
    rooms::{Deletion, HistoryEnd, Job, JobId, Outcome, Rooms, Status, Work},
    users::Accounts,
};

/// How a room is to be deleted.
#[derive(Deserialize)]
pub(crate) struct DeleteBody {
    new_room_user_id: Option<OwnedUserId>,
    room_name: Option<String>,
    message: Option<String>,
    #[serde(default)]
    block: bool,
    #[serde(default = "yes")]
    purge: bool,
}

fn yes() -> bool {
    true
}

async fn order(
    rooms: &Rooms,
    accounts: &Accounts,
    admin: &Admin<DeleteBody>,
) -> Result<JobId, ApiError> {
    let room_id: OwnedRoomId = admin.argument(0)?;
    let body = &admin.value;
    let new_room = match &body.new_room_user_id {
        None => None,
        Some(user) => {
            let account = accounts.find(user).await?.map(|(_, account)| account);
            if account.is_none_or(|account| account.deactivated) {
                return Err(ApiError::invalid_param("new_room_user_id has no account here"));
            }
            let name = body.room_name.as_deref().unwrap_or("Content Violation Notification");
            let message = body.message.as_deref().unwrap_or(
                "Sharing illegal content on this server is not permitted and rooms in violation \
                 will be blocked.",
            );
            Some((user.clone(), name.to_owned(), message.to_owned()))
        }
    };
    let deletion = Deletion {
        by: admin.session.user_id.clone(),
        block: body.block,
        purge: body.purge,
        new_room,
    };
    // A room that is not here can be blocked, and that is all.
    if !body.block {
        rooms.room(&room_id).await?;
    }
    Ok(rooms.order_deletion(&room_id, deletion).await?)
}

/// `DELETE /_synapse/admin/v2/rooms/{room_id}`
pub(crate) async fn delete_room(
    State(rooms): State<Rooms>,
    State(accounts): State<Accounts>,
    admin: Admin<DeleteBody>,
) -> Result<Json<Value>, ApiError> {
    let id = order(&rooms, &accounts, &admin).await?;
    Ok(Json(json!({ "delete_id": id })))
}

/// `DELETE /_synapse/admin/v1/rooms/{room_id}`: the same, answered when it is done.
pub(crate) async fn delete_room_and_wait(
    State(rooms): State<Rooms>,
    State(accounts): State<Accounts>,
    admin: Admin<DeleteBody>,
) -> Result<Json<Value>, ApiError> {
    let id = order(&rooms, &accounts, &admin).await?;
    let job = rooms.wait_for_job(&id).await?;
    match job.status {
        Status::Complete | Status::Active => Ok(Json(shut_down(&job.outcome))),
        Status::Failed => {
            let why = job.outcome.error.unwrap_or_default();
            Err(ApiError::with_status(
                http::StatusCode::INTERNAL_SERVER_ERROR,
                ruma::api::error::ErrorKind::Unknown,
                why,
            ))
        }
    }
}

fn shut_down(outcome: &Outcome) -> Value {
    json!({
        "kicked_users": outcome.left,
        "failed_to_kick_users": outcome.stayed,
        "local_aliases": outcome.aliases,
        "new_room_id": outcome.new_room,
    })
}

/// How far a job is, as it is written to the wire.
#[derive(Serialize)]
pub(crate) struct Progress {
    #[serde(skip_serializing_if = "Option::is_none")]
    delete_id: Option<String>,
    status: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    shutdown_room: Option<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

fn deletion_status(delete_id: Option<String>, job: &Job) -> Progress {
    Progress {
        delete_id,
        status: status(job.status, "purging"),
        shutdown_room: Some(shut_down(&job.outcome)),
        error: job.outcome.error.clone(),
    }
}

fn status(status: Status, active: &'static str) -> &'static str {
    match status {
        Status::Active => active,
        Status::Complete => "complete",
        Status::Failed => "failed",
    }
}

/// `GET /_synapse/admin/v2/rooms/delete_status/{delete_id}`
pub(crate) async fn get_delete_status(
    State(rooms): State<Rooms>,
    admin: Admin,
) -> Result<Json<Progress>, ApiError> {
    let id: String = admin.argument(0)?;
    let job = rooms.job(&id).await?.filter(|job| matches!(job.work, Work::Deletion(_)));
    let job = job.ok_or_else(|| ApiError::not_found("delete id not found"))?;
    Ok(Json(deletion_status(None, &job)))
}

/// `GET /_synapse/admin/v2/rooms/{room_id}/delete_status`
pub(crate) async fn get_room_delete_status(
    State(rooms): State<Rooms>,
    admin: Admin,
) -> Result<Json<Value>, ApiError> {
    let room_id: OwnedRoomId = admin.argument(0)?;
    let jobs = rooms.jobs_of(&room_id).await?.into_iter();
    let found: Vec<Progress> = jobs
        .filter(|(_, job)| matches!(job.work, Work::Deletion(_)))
        .map(|(id, job)| deletion_status(Some(id), &job))
        .collect();
    if found.is_empty() {
        return Err(ApiError::not_found("No delete task for this room found"));
    }
    Ok(Json(json!({ "results": found })))
}

/// `GET /_synapse/admin/v1/rooms/{room_id}/block`
pub(crate) async fn get_block(
    State(rooms): State<Rooms>,
    admin: Admin,
) -> Result<Json<Value>, ApiError> {
    let room_id: OwnedRoomId = admin.argument(0)?;
    Ok(Json(match rooms.block_of(&room_id).await? {
        Some(block) => json!({ "block": true, "user_id": block.by }),
        None => json!({ "block": false }),
    }))
}

/// Whether a room is to be blocked.
#[derive(Deserialize)]
pub(crate) struct BlockBody {
    block: bool,
}

/// `PUT /_synapse/admin/v1/rooms/{room_id}/block`
pub(crate) async fn set_block(
    State(rooms): State<Rooms>,
    admin: Admin<BlockBody>,
) -> Result<Json<Value>, ApiError> {
    let room_id: OwnedRoomId = admin.argument(0)?;
    rooms.set_blocked(&room_id, &admin.session.user_id, admin.value.block).await?;
    Ok(Json(json!({ "block": admin.value.block })))
}

/// Which history goes.
#[derive(Deserialize)]
pub(crate) struct PurgeBody {
    #[serde(default)]
    delete_local_events: bool,
    purge_up_to_event_id: Option<OwnedEventId>,
    purge_up_to_ts: Option<u64>,
}

/// `POST /_synapse/admin/v1/purge_history/{room_id}`, with or without `/{event_id}`
pub(crate) async fn purge_history(
    State(rooms): State<Rooms>,
    admin: Admin<PurgeBody>,
) -> Result<Json<Value>, ApiError> {
    let room_id: OwnedRoomId = admin.argument(0)?;
    let named = match admin.arguments.len() {
        0 | 1 => None,
        _ => Some(admin.argument(1)?),
    };
    let body = admin.value;
    let end = match (named.or(body.purge_up_to_event_id), body.purge_up_to_ts) {
        (Some(event_id), None) => HistoryEnd::Event(event_id),
        (None, Some(ts_ms)) => HistoryEnd::Time(ts_ms),
        _ => return Err(ApiError::invalid_param("name either an event or a time")),
    };
    let before_key = rooms.key_of_end(&room_id, &end).await?;
    let id = rooms.order_history_purge(&room_id, before_key, body.delete_local_events).await?;
    Ok(Json(json!({ "purge_id": id })))
}

/// `GET /_synapse/admin/v1/purge_history_status/{purge_id}`
pub(crate) async fn get_purge_status(
    State(rooms): State<Rooms>,
    admin: Admin,
) -> Result<Json<Progress>, ApiError> {
    let id: String = admin.argument(0)?;
    let job = rooms.job(&id).await?.filter(|job| matches!(job.work, Work::History { .. }));
    let job = job.ok_or_else(|| ApiError::not_found("purge id not found"))?;
    Ok(Json(Progress {
        delete_id: None,
        status: status(job.status, "active"),
        shutdown_room: None,
        error: job.outcome.error,
    }))
}

/// `POST /_myelin/admin/v1/rooms/{room_id}/check`: computes the room's states again, as
/// `myelin check --rooms` does, and tells what differs.
pub(crate) async fn check_room(
    State(rooms): State<Rooms>,
    admin: Admin,
) -> Result<Json<Value>, ApiError> {
    let room_id: OwnedRoomId = admin.argument(0)?;
    let room = rooms.room(&room_id).await?;
    let findings = rooms.check_room(&room).await?;
    Ok(Json(json!({ "events": findings.events, "problems": findings.problems })))
}

//! How far a user has read.

use axum::extract::State;
use ruma::{
    EventId, OwnedEventId,
    api::client::{
        read_marker::set_read_marker,
        receipt::create_receipt::{self, v3::ReceiptType as Wanted},
    },
    events::receipt::{ReceiptThread, ReceiptType},
};

use crate::{
    api::{
        error::ApiError,
        extract::{Client, Ruma},
    },
    federation::exchange::Exchange,
    rooms::{
        Room, Rooms,
        receipts::{ReadUpTo, Receipts},
    },
    users::{AccountData, session::Session},
};

/// `POST /_matrix/client/v3/rooms/{roomId}/receipt/{receiptType}/{eventId}`
pub(crate) async fn create_receipt(
    State(rooms): State<Rooms>,
    State(store): State<Receipts>,
    State(exchange): State<Exchange>,
    State(account_data): State<AccountData>,
    Client { session, request, .. }: Client<create_receipt::v3::Request>,
) -> Result<Ruma<create_receipt::v3::Response>, ApiError> {
    let room = rooms.joined(&session, &request.room_id).await?;
    let kind = match request.receipt_type {
        Wanted::Read => ReceiptType::Read,
        Wanted::ReadPrivate => ReceiptType::ReadPrivate,
        Wanted::FullyRead => {
            if request.thread != ReceiptThread::Unthreaded {
                return Err(ApiError::invalid_param("the fully read marker knows no threads"));
            }
            mark_fully_read(&account_data, &session, &room, &request.event_id).await?;
            return Ok(Ruma(create_receipt::v3::Response::new()));
        }
        _ => return Err(ApiError::invalid_param("there are no receipts of this type")),
    };
    let event_id = request.event_id;
    let (thread, first) = match &request.thread {
        ReceiptThread::Unthreaded => ("", None),
        ReceiptThread::Main => ("main", None),
        ReceiptThread::Thread(thread) => (thread.as_str(), Some(&**thread)),
        _ => return Err(ApiError::invalid_param("this is no thread ID")),
    };
    let position = if thread.is_empty() {
        rooms.position_of(&session, &room, &event_id).await?
    } else {
        rooms.position_in_thread(&session, &room, &event_id, first).await?
    };
    let up_to = ReadUpTo { event_id, position };
    set((&store, &exchange), &session, &room, &kind, thread, &up_to).await?;
    Ok(Ruma(create_receipt::v3::Response::new()))
}

/// `POST /_matrix/client/v3/rooms/{roomId}/read_markers`
pub(crate) async fn set_read_markers(
    State(rooms): State<Rooms>,
    State(store): State<Receipts>,
    State(exchange): State<Exchange>,
    State(account_data): State<AccountData>,
    Client { session, request, .. }: Client<set_read_marker::v3::Request>,
) -> Result<Ruma<set_read_marker::v3::Response>, ApiError> {
    let room = rooms.joined(&session, &request.room_id).await?;
    // All events first: a request with an unknown one changes nothing.
    let mut markers = Vec::new();
    for (kind, event_id) in [
        (ReceiptType::Read, request.read_receipt),
        (ReceiptType::ReadPrivate, request.private_read_receipt),
    ] {
        if let Some(event_id) = event_id {
            markers.push((kind, read_up_to(&rooms, &session, &room, event_id).await?));
        }
    }
    if let Some(event_id) = &request.fully_read {
        mark_fully_read(&account_data, &session, &room, event_id).await?;
    }
    for (kind, up_to) in &markers {
        set((&store, &exchange), &session, &room, kind, "", up_to).await?;
    }
    Ok(Ruma(set_read_marker::v3::Response::new()))
}

async fn read_up_to(
    rooms: &Rooms,
    session: &Session,
    room: &Room,
    event_id: OwnedEventId,
) -> Result<ReadUpTo, ApiError> {
    let position = rooms.position_of(session, room, &event_id).await?;
    Ok(ReadUpTo { event_id, position })
}

async fn set(
    (receipts, exchange): (&Receipts, &Exchange),
    session: &Session,
    room: &Room,
    kind: &ReceiptType,
    thread: &str,
    up_to: &ReadUpTo,
) -> Result<(), ApiError> {
    let members = room.local_members();
    let own = [session.user];
    // A private receipt concerns the user's own devices only.
    let wake = if *kind == ReceiptType::Read { &*members } else { &own };
    receipts.set(room.number, session.user, kind, thread, up_to, wake).await?;
    if *kind == ReceiptType::Read {
        exchange.send_receipt(room, &session.user_id, &up_to.event_id, thread);
    }
    Ok(())
}

async fn mark_fully_read(
    account_data: &AccountData,
    session: &Session,
    room: &Room,
    event_id: &EventId,
) -> Result<(), ApiError> {
    let content = serde_json::json!({ "event_id": event_id }).to_string();
    Ok(account_data.put(session.user, room.number, "m.fully_read", &content).await?)
}

//! Invitations of people of whom only an address was known.
//!
//! Spec: <https://spec.matrix.org/v1.19/server-server-api/#third-party-invites>

use axum::extract::State;
use ruma::api::federation::thirdparty::{bind_callback, exchange_invite};

use crate::{
    api::{
        error::ApiError,
        extract::{Public, Ruma, Server},
    },
    federation::exchange::{Exchange, ThirdPartyInvite},
    users::Accounts,
};

/// The most invitations that wait for one address.
const MAX_INVITES: usize = 20;

/// `PUT /_matrix/federation/v1/3pid/onbind`
///
/// Identity servers sign nothing here: what they say is signed in the invitations themselves, and
/// the server of the room checks that.
pub(crate) async fn on_bind(
    State(accounts): State<Accounts>,
    State(exchange): State<Exchange>,
    Public { request, .. }: Public<bind_callback::v1::Request>,
) -> Result<Ruma<bind_callback::v1::Response>, ApiError> {
    let found = accounts.find(&request.mxid).await?;
    if found.is_none_or(|(_, account)| account.deactivated) {
        return Err(ApiError::forbidden("There is no such user here"));
    }
    if request.invites.len() > MAX_INVITES {
        return Err(ApiError::invalid_param(format!("At most {MAX_INVITES} invitations")));
    }
    for invite in request.invites {
        if invite.mxid != request.mxid {
            return Err(ApiError::invalid_param("An invitation is somebody else's"));
        }
        let (room_id, sender) = (invite.room_id, invite.sender);
        let signed = invite.signed.into_json();
        let invite = ThirdPartyInvite { room_id, sender, target: invite.mxid, signed };
        exchange.redeem(invite).await?;
    }
    Ok(Ruma(bind_callback::v1::Response::new()))
}

/// `PUT /_matrix/federation/v1/exchange_third_party_invite/{roomId}`
pub(crate) async fn exchange_third_party_invite(
    State(exchange): State<Exchange>,
    Server { origin, request }: Server<exchange_invite::v1::Request>,
) -> Result<Ruma<exchange_invite::v1::Response>, ApiError> {
    let exchange_invite::v1::Request { room_id, kind, sender, state_key, content, .. } = request;
    if kind.to_string() != "m.room.member" {
        return Err(ApiError::invalid_param("The event is no member event"));
    }
    if state_key.server_name() != origin {
        return Err(ApiError::forbidden("The user is on another server"));
    }
    let invite = ThirdPartyInvite::of_content(room_id, sender, state_key, content.json())?;
    exchange.exchange_invite(&origin, &invite).await?;
    Ok(Ruma(exchange_invite::v1::Response::new()))
}

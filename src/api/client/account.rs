//! Changing one's password, closing one's account, addresses.

use axum::extract::State;
use ruma::{
    MilliSecondsSinceUnixEpoch,
    api::{
        client::{
            account::{
                ThirdPartyIdRemovalStatus, add_3pid, bind_3pid, change_password, deactivate,
                delete_3pid, get_3pids, request_openid_token, unbind_3pid,
            },
            uiaa::AuthType,
        },
        error::ErrorKind,
    },
    authentication::TokenType,
    thirdparty::{Medium, ThirdPartyIdentifierInit},
};
use serde::Deserialize;

use crate::{
    api::{
        error::ApiError,
        extract::{Client, MaybeClient, Ruma},
        json::ClientJson,
    },
    identity::{Address, IdentityServers, Unbound},
    rooms::Rooms,
    users::{
        Accounts,
        closing::OwnRequest,
        login::OPENID_TOKEN_LIFETIME,
        uia::{Demand, body_hash},
    },
};

/// `POST /_matrix/client/v3/account/password`
pub(crate) async fn change_password(
    State(accounts): State<Accounts>,
    MaybeClient { session, request, caller, body }: MaybeClient<change_password::v3::Request>,
) -> Result<Ruma<change_password::v3::Response>, ApiError> {
    let own = OwnRequest {
        session: session.as_ref(),
        auth: request.auth.as_ref(),
        body: body_hash(&body),
        caller: &caller,
    };
    accounts.change_password(own, &request.new_password, request.logout_devices).await?;
    Ok(Ruma(change_password::v3::Response::new()))
}

/// `POST /_matrix/client/v3/account/deactivate`
pub(crate) async fn deactivate(
    State(accounts): State<Accounts>,
    State(rooms): State<Rooms>,
    State(identity): State<IdentityServers>,
    MaybeClient { session, request, caller, body }: MaybeClient<deactivate::v3::Request>,
) -> Result<Ruma<deactivate::v3::Response>, ApiError> {
    let id_server = request.id_server.as_deref().map(|name| identity.named(name)).transpose()?;
    // In a task of its own: what was begun is finished even if nobody waits for the answer.
    let closing = tokio::spawn(async move {
        let own = OwnRequest {
            session: session.as_ref(),
            auth: request.auth.as_ref(),
            body: body_hash(&body),
            caller: &caller,
        };
        let outcome = accounts.deactivate(own, request.erase, id_server.as_deref()).await;
        // Also if it failed half-way: looking in vain costs little.
        rooms.account_closed();
        outcome
    });
    let closed = closing.await.map_err(|error| ApiError::internal(&error))??;
    let outcome = identity.settle(closed.user).await?;
    Ok(Ruma(deactivate::v3::Response::new(status(outcome, closed.are_bound_known))))
}

/// `GET /_matrix/client/v3/account/3pid`
pub(crate) async fn get_3pids(
    State(accounts): State<Accounts>,
    Client { session, .. }: Client<get_3pids::v3::Request>,
) -> Result<Ruma<get_3pids::v3::Response>, ApiError> {
    let time = |ms: u64| MilliSecondsSinceUnixEpoch(ms.try_into().unwrap_or(ruma::UInt::MAX));
    let threepids = accounts.threepids(session.user).await?;
    let threepids = threepids.into_iter().map(|(address, row)| {
        ThirdPartyIdentifierInit {
            address,
            medium: Medium::Email,
            validated_at: time(row.validated_ms),
            added_at: time(row.added_ms),
        }
        .into()
    });
    Ok(Ruma(get_3pids::v3::Response::new(threepids.collect())))
}

/// `POST /_matrix/client/v3/account/3pid/add`
pub(crate) async fn add_3pid(
    State(accounts): State<Accounts>,
    Client { session, request, caller, body }: Client<add_3pid::v3::Request>,
) -> Result<Ruma<add_3pid::v3::Response>, ApiError> {
    let proof = accounts
        .authenticate(Demand {
            endpoint: "POST /account/3pid/add",
            body: Some(body_hash(&body)),
            user: Some(session.user),
            flows: vec![vec![AuthType::Password]],
            auth: request.auth.as_ref(),
            caller: &caller,
        })
        .await?;
    let (sid, secret) = (request.sid.as_str(), request.client_secret.as_str());
    accounts.add_threepid(session.user, sid, secret, Some(&proof)).await?;
    Ok(Ruma(add_3pid::v3::Response::new()))
}

/// The body of the deprecated `POST /account/3pid`.
#[derive(Deserialize)]
pub(crate) struct ThreepidBody {
    three_pid_creds: ThreepidCredentials,
    #[serde(default)]
    bind: bool,
}

/// Which validation proved the address.
#[derive(Deserialize)]
struct ThreepidCredentials {
    sid: String,
    client_secret: String,
}

/// `POST /_matrix/client/v3/account/3pid`
pub(crate) async fn post_3pids(
    State(accounts): State<Accounts>,
    ClientJson { session, value, .. }: ClientJson<ThreepidBody>,
) -> Result<axum::Json<serde_json::Value>, ApiError> {
    if session.guest {
        let message = "Guests may not use this endpoint";
        return Err(ApiError::new(ErrorKind::GuestAccessForbidden, message));
    }
    if value.bind {
        let message = "Addresses are bound by /account/3pid/bind";
        return Err(ApiError::new(ErrorKind::ServerNotTrusted, message));
    }
    let ThreepidCredentials { sid, client_secret } = value.three_pid_creds;
    accounts.add_threepid(session.user, &sid, &client_secret, None).await?;
    Ok(axum::Json(serde_json::json!({})))
}

/// `POST /_matrix/client/v3/account/3pid/bind`
pub(crate) async fn bind_3pid(
    State(identity): State<IdentityServers>,
    Client { session, request, .. }: Client<bind_3pid::v3::Request>,
) -> Result<Ruma<bind_3pid::v3::Response>, ApiError> {
    identity.allow(session.user)?;
    let server = &request.identity_server_info;
    let access = identity.access(&server.id_server, &server.id_access_token)?;
    let (sid, secret) = (request.sid.as_str(), request.client_secret.as_str());
    identity.bind(&access, (session.user, &session.user_id), sid, secret).await?;
    Ok(Ruma(bind_3pid::v3::Response::new()))
}

/// What clients are told of bindings that were to end.
fn status(outcome: Unbound, are_all_known: bool) -> ThirdPartyIdRemovalStatus {
    match outcome {
        Unbound::All if are_all_known => ThirdPartyIdRemovalStatus::Success,
        Unbound::All | Unbound::NotAll => ThirdPartyIdRemovalStatus::NoSupport,
    }
}

/// `POST /_matrix/client/v3/account/3pid/unbind`
pub(crate) async fn unbind_3pid(
    State(identity): State<IdentityServers>,
    Client { session, request, .. }: Client<unbind_3pid::v3::Request>,
) -> Result<Ruma<unbind_3pid::v3::Response>, ApiError> {
    identity.allow(session.user)?;
    let address = Address::new(request.medium.as_str(), &request.address)?;
    let server = request.id_server.as_deref().map(|name| identity.named(name)).transpose()?;
    let me = (session.user, &*session.user_id);
    let outcome = identity.unbind(me, &address, server).await?;
    Ok(Ruma(unbind_3pid::v3::Response::new(status(outcome, true))))
}

/// `POST /_matrix/client/v3/account/3pid/delete`
pub(crate) async fn delete_3pid(
    State(accounts): State<Accounts>,
    State(identity): State<IdentityServers>,
    Client { session, request, .. }: Client<delete_3pid::v3::Request>,
) -> Result<Ruma<delete_3pid::v3::Response>, ApiError> {
    identity.allow(session.user)?;
    let address = Address::new(request.medium.as_str(), &request.address)?;
    let server = request.id_server.as_deref().map(|name| identity.named(name)).transpose()?;
    let is_bound_known =
        accounts.remove_threepid(session.user, &address, server.as_deref()).await?;
    let outcome = identity.settle(session.user).await?;
    Ok(Ruma(delete_3pid::v3::Response::new(status(outcome, is_bound_known))))
}

/// `POST /_matrix/client/v3/user/{userId}/openid/request_token`
pub(crate) async fn request_openid_token(
    State(accounts): State<Accounts>,
    Client { session, request, .. }: Client<request_openid_token::v3::Request>,
) -> Result<Ruma<request_openid_token::v3::Response>, ApiError> {
    if request.user_id != session.user_id {
        return Err(ApiError::forbidden("Tokens are given for oneself only"));
    }
    let token = accounts.openid_token(&session).await?;
    Ok(Ruma(request_openid_token::v3::Response::new(
        token,
        TokenType::Bearer,
        accounts.server_name().to_owned(),
        OPENID_TOKEN_LIFETIME,
    )))
}

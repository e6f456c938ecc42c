//! Making accounts.

use std::sync::Arc;

use axum::extract::State;
use ruma::{
    OwnedUserId,
    api::client::account::{
        check_registration_token_validity, get_username_availability,
        register::{
            LoginType, RegistrationKind,
            v3::{Request, Response},
        },
    },
};
use serde::{Deserialize, Serialize};

use crate::{
    api::{
        error::ApiError,
        extract::{MaybeBridge, Public, Ruma},
        json::PublicJson,
    },
    appservice::Service,
    users::{
        Accounts,
        login::LoginDevice,
        registration::{NewAccount, SharedSecretRegistration},
        session::{AuthError, Tokens},
    },
};

/// `POST /_matrix/client/v3/register`
pub(crate) async fn register(
    State(accounts): State<Accounts>,
    MaybeBridge { token, request, caller }: MaybeBridge<Request>,
) -> Result<Ruma<Response>, ApiError> {
    let service = match request.login_type {
        Some(LoginType::ApplicationService) => Some(service_of(&accounts, token.as_deref())?),
        _ => None,
    };
    let display_name = request.initial_device_display_name;
    let (user_id, tokens) = match request.kind {
        RegistrationKind::Guest => accounts.register_guest(display_name, &caller).await?,
        RegistrationKind::User => {
            let device = (!request.inhibit_login).then_some(LoginDevice {
                device_id: request.device_id,
                display_name,
                refresh: request.refresh_token,
            });
            let new = NewAccount { username: request.username, password: request.password, device };
            match service {
                Some(service) => accounts.register_for_appservice(&service, new).await?,
                None => accounts.register(new, request.auth.as_ref(), &caller).await?,
            }
        }
        _ => return Err(ApiError::invalid_param("kind must be user or guest")),
    };
    let mut response = Response::new(user_id);
    if let Some(tokens) = tokens {
        response.access_token = Some(tokens.access_token);
        response.refresh_token = tokens.refresh_token;
        response.expires_in = tokens.expires_in;
        response.device_id = Some(tokens.device_id);
    }
    Ok(Ruma(response))
}

/// The application service whose token this is.
pub(super) fn service_of(
    accounts: &Accounts,
    token: Option<&str>,
) -> Result<Arc<Service>, AuthError> {
    let service = accounts.sessions().appservice(token.ok_or(AuthError::Missing)?);
    service.ok_or(AuthError::Unknown { soft_logout: false })
}

/// `GET /_matrix/client/v3/register/available`
pub(crate) async fn get_username_availability(
    State(accounts): State<Accounts>,
    Public { request, caller, .. }: Public<get_username_availability::v3::Request>,
) -> Result<Ruma<get_username_availability::v3::Response>, ApiError> {
    accounts.is_available(&request.username, &caller).await?;
    Ok(Ruma(get_username_availability::v3::Response::new(true)))
}

/// `GET /_matrix/client/v1/register/m.login.registration_token/validity`
pub(crate) async fn check_registration_token_validity(
    State(accounts): State<Accounts>,
    Public { request, caller, .. }: Public<check_registration_token_validity::v1::Request>,
) -> Result<Ruma<check_registration_token_validity::v1::Response>, ApiError> {
    let valid = accounts.registration_token_validity(&request.token, &caller).await?;
    Ok(Ruma(check_registration_token_validity::v1::Response::new(valid)))
}

/// A nonce.
#[derive(Serialize)]
pub(crate) struct Nonce {
    nonce: String,
}

/// `GET /_synapse/admin/v1/register`
pub(crate) async fn get_registration_nonce(
    State(accounts): State<Accounts>,
    PublicJson { caller, .. }: PublicJson<serde::de::IgnoredAny>,
) -> Result<axum::Json<Nonce>, ApiError> {
    Ok(axum::Json(Nonce { nonce: accounts.registration_nonce(&caller).await? }))
}

/// The body of a registration by shared secret.
#[derive(Deserialize)]
pub(crate) struct SharedSecretBody {
    nonce: String,
    username: String,
    password: String,
    displayname: Option<String>,
    #[serde(default)]
    admin: bool,
    user_type: Option<String>,
    mac: String,
}

/// The account that was made.
#[derive(Serialize)]
pub(crate) struct SharedSecretAnswer {
    user_id: OwnedUserId,
    home_server: String,
    access_token: String,
    device_id: String,
}

/// `POST /_synapse/admin/v1/register`
pub(crate) async fn register_by_shared_secret(
    State(accounts): State<Accounts>,
    PublicJson { value, .. }: PublicJson<SharedSecretBody>,
) -> Result<axum::Json<SharedSecretAnswer>, ApiError> {
    let SharedSecretBody { nonce, username, password, displayname, admin, user_type, mac } = value;
    let (user_id, Tokens { access_token, device_id, .. }) = accounts
        .register_by_shared_secret(SharedSecretRegistration {
            nonce,
            username,
            password,
            displayname,
            admin,
            user_type,
            mac,
        })
        .await?;
    Ok(axum::Json(SharedSecretAnswer {
        user_id,
        home_server: accounts.server_name().to_string(),
        access_token,
        device_id: device_id.to_string(),
    }))
}

//! Logging in and out.

use std::sync::Arc;

use axum::extract::State;
use ruma::{
    OwnedDeviceId,
    api::client::{
        account::whoami,
        session::{
            get_login_token, get_login_types,
            login::v3::{DiscoveryInfo, HomeserverInfo, IdentityServerInfo, Response},
            logout, logout_all, refresh_token,
        },
        uiaa::{AuthType, EmailUserIdentifier, MatrixUserIdentifier, UserIdentifier},
    },
};
use serde::Deserialize;

use super::register::service_of;
use crate::{
    api::{
        error::ApiError,
        extract::{Client, Public, Ruma},
        json::PublicJson,
    },
    config::Config,
    users::{
        AccountError, Accounts,
        login::{LOGIN_TOKEN_LIFETIME, LoginDevice},
        session::{AuthError, Sessions},
        uia::{Demand, body_hash},
    },
};

/// `GET /_matrix/client/v3/login`
pub(crate) async fn get_login_types(
    Public { .. }: Public<get_login_types::v3::Request>,
) -> Result<Ruma<get_login_types::v3::Response>, ApiError> {
    use get_login_types::v3::{
        ApplicationServiceLoginType, LoginType, PasswordLoginType, Response, TokenLoginType,
    };
    let mut token = TokenLoginType::new();
    token.get_login_token = true;
    Ok(Ruma(Response::new(vec![
        LoginType::Password(PasswordLoginType::new()),
        LoginType::Token(token),
        LoginType::ApplicationService(ApplicationServiceLoginType::new()),
    ])))
}

/// The body of `POST /login`. ruma's type can't tell a body without `type`.
#[derive(Deserialize)]
pub(crate) struct LoginBody {
    r#type: Option<String>,
    identifier: Option<UserIdentifier>,
    /// What clients sent before there were identifiers.
    user: Option<String>,
    medium: Option<String>,
    address: Option<String>,
    password: Option<String>,
    token: Option<String>,
    device_id: Option<OwnedDeviceId>,
    initial_device_display_name: Option<String>,
    #[serde(default)]
    refresh_token: bool,
}

impl LoginBody {
    fn identifier(&mut self) -> Result<UserIdentifier, AccountError> {
        match (self.identifier.take(), self.user.take(), self.medium.as_deref()) {
            (Some(identifier), _, _) => Ok(identifier),
            (None, Some(user), _) => Ok(UserIdentifier::Matrix(MatrixUserIdentifier::new(user))),
            (None, None, Some("email")) => {
                let address = self.address.take();
                let address = address.ok_or(AccountError::MissingParam { name: "address" })?;
                Ok(UserIdentifier::Email(EmailUserIdentifier::new(address)))
            }
            _ => Err(AccountError::MissingParam { name: "identifier" }),
        }
    }
}

/// `POST /_matrix/client/v3/login`
pub(crate) async fn login(
    State(accounts): State<Accounts>,
    State(config): State<Arc<Config>>,
    PublicJson { mut value, caller, token }: PublicJson<LoginBody>,
) -> Result<Ruma<Response>, ApiError> {
    let device = LoginDevice {
        device_id: value.device_id.take(),
        display_name: value.initial_device_display_name.take(),
        refresh: value.refresh_token,
    };
    let kind = value.r#type.take().ok_or(AccountError::MissingParam { name: "type" })?;
    let (user_id, tokens) = match kind.as_str() {
        "m.login.password" => {
            let identifier = value.identifier()?;
            let password = value.password.ok_or(AccountError::MissingParam { name: "password" })?;
            accounts.login_with_password(&identifier, &password, device, &caller).await?
        }
        "m.login.token" => {
            let token = value.token.ok_or(AccountError::MissingParam { name: "token" })?;
            accounts.login_with_token(&token, device, &caller).await?
        }
        "m.login.application_service" => {
            let service = service_of(&accounts, token.as_deref())?;
            accounts.login_for_appservice(&service, &value.identifier()?, device).await?
        }
        _ => return Err(AccountError::UnknownLoginType.into()),
    };
    let mut response = Response::new(user_id, tokens.access_token, tokens.device_id);
    response.refresh_token = tokens.refresh_token;
    response.expires_in = tokens.expires_in;
    response.well_known = config.well_known.client.clone().map(|base_url| {
        let mut discovery = DiscoveryInfo::new(HomeserverInfo::new(base_url));
        discovery.identity_server =
            config.well_known.identity_server.clone().map(IdentityServerInfo::new);
        discovery
    });
    Ok(Ruma(response))
}

/// `POST /_matrix/client/v1/login/get_token`
pub(crate) async fn get_login_token(
    State(accounts): State<Accounts>,
    Client { session, request, caller, body }: Client<get_login_token::v1::Request>,
) -> Result<Ruma<get_login_token::v1::Response>, ApiError> {
    let proof = accounts
        .authenticate(Demand {
            endpoint: "POST /login/get_token",
            body: Some(body_hash(&body)),
            user: Some(session.user),
            flows: vec![vec![AuthType::Password]],
            auth: request.auth.as_ref(),
            caller: &caller,
        })
        .await?;
    let token = accounts.login_token(&session, &proof).await?;
    Ok(Ruma(get_login_token::v1::Response::new(LOGIN_TOKEN_LIFETIME, token)))
}

/// `POST /_matrix/client/v3/refresh`
pub(crate) async fn refresh_token(
    State(accounts): State<Accounts>,
    Public { request, caller }: Public<refresh_token::v3::Request>,
) -> Result<Ruma<refresh_token::v3::Response>, ApiError> {
    let tokens = accounts.refresh(&request.refresh_token, &caller).await?;
    let mut response = refresh_token::v3::Response::new(tokens.access_token);
    response.refresh_token = tokens.refresh_token;
    response.expires_in_ms = tokens.expires_in;
    Ok(Ruma(response))
}

/// `POST /_matrix/client/v3/logout`
pub(crate) async fn logout(
    State(sessions): State<Sessions>,
    Client { session, .. }: Client<logout::v3::Request>,
) -> Result<Ruma<logout::v3::Response>, ApiError> {
    let device = session.device().ok_or(AuthError::NotToBeLoggedOut)?;
    sessions.remove_device(session.user, device).await?;
    Ok(Ruma(logout::v3::Response::new()))
}

/// `POST /_matrix/client/v3/logout/all`
pub(crate) async fn logout_all(
    State(sessions): State<Sessions>,
    Client { session, .. }: Client<logout_all::v3::Request>,
) -> Result<Ruma<logout_all::v3::Response>, ApiError> {
    sessions.remove_all(session.user, None).await?;
    Ok(Ruma(logout_all::v3::Response::new()))
}

/// `GET /_matrix/client/v3/account/whoami`
pub(crate) async fn whoami(
    Client { session, .. }: Client<whoami::v3::Request>,
) -> Result<Ruma<whoami::v3::Response>, ApiError> {
    let mut response = whoami::v3::Response::new(session.user_id.clone(), session.guest);
    response.device_id = session.device().map(ToOwned::to_owned);
    Ok(Ruma(response))
}

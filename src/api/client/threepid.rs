//! Proving e-mail addresses: asking for the mail, and the page behind its link.

use axum::{
    extract::{Query, State},
    response::{IntoResponse, Redirect, Response as HttpResponse},
};
use http::StatusCode;
use ruma::{
    OwnedClientSecret, OwnedSessionId, SessionId, UInt,
    api::{
        client::account::{
            request_3pid_management_token_via_email as add_email,
            request_3pid_management_token_via_msisdn as add_msisdn,
            request_password_change_token_via_email as reset_email,
            request_password_change_token_via_msisdn as reset_msisdn,
            request_registration_token_via_email as register_email,
            request_registration_token_via_msisdn as register_msisdn,
        },
        error::ErrorKind,
    },
};
use serde::Deserialize;

use super::page::page;
use crate::{
    api::{
        error::ApiError,
        extract::{Caller, Public, Ruma},
    },
    users::{
        AccountError, Accounts,
        threepid::{Purpose, TokenRequest},
    },
};

async fn send(
    accounts: &Accounts,
    purpose: Purpose,
    (client_secret, email, send_attempt, next_link): (
        OwnedClientSecret,
        String,
        UInt,
        Option<String>,
    ),
    caller: &Caller,
) -> Result<OwnedSessionId, ApiError> {
    let request = TokenRequest {
        email,
        client_secret: client_secret.to_string(),
        send_attempt: send_attempt.into(),
        next_link,
    };
    let sid = accounts.request_email_token(purpose, request, caller).await?;
    SessionId::parse(sid).map_err(|error| ApiError::internal(&error))
}

/// `POST /_matrix/client/v3/register/email/requestToken`
pub(crate) async fn request_registration_token(
    State(accounts): State<Accounts>,
    Public { request: r, caller, .. }: Public<register_email::v3::Request>,
) -> Result<Ruma<register_email::v3::Response>, ApiError> {
    let what = (r.client_secret, r.email, r.send_attempt, r.next_link);
    let sid = send(&accounts, Purpose::Register, what, &caller).await?;
    Ok(Ruma(register_email::v3::Response::new(sid)))
}

/// `POST /_matrix/client/v3/account/password/email/requestToken`
pub(crate) async fn request_password_change_token(
    State(accounts): State<Accounts>,
    Public { request: r, caller, .. }: Public<reset_email::v3::Request>,
) -> Result<Ruma<reset_email::v3::Response>, ApiError> {
    let what = (r.client_secret, r.email, r.send_attempt, r.next_link);
    let sid = send(&accounts, Purpose::ResetPassword, what, &caller).await?;
    Ok(Ruma(reset_email::v3::Response::new(sid)))
}

/// `POST /_matrix/client/v3/account/3pid/email/requestToken`
pub(crate) async fn request_3pid_management_token(
    State(accounts): State<Accounts>,
    Public { request: r, caller, .. }: Public<add_email::v3::Request>,
) -> Result<Ruma<add_email::v3::Response>, ApiError> {
    let what = (r.client_secret, r.email, r.send_attempt, r.next_link);
    let sid = send(&accounts, Purpose::Add, what, &caller).await?;
    Ok(Ruma(add_email::v3::Response::new(sid)))
}

fn no_telephone() -> ApiError {
    let message = "This server can't validate telephone numbers";
    ApiError::new(ErrorKind::ThreepidMediumNotSupported, message)
}

/// `POST /_matrix/client/v3/register/msisdn/requestToken`
pub(crate) async fn request_registration_token_via_msisdn(
    Public { .. }: Public<register_msisdn::v3::Request>,
) -> Result<Ruma<register_msisdn::v3::Response>, ApiError> {
    Err(no_telephone())
}

/// `POST /_matrix/client/v3/account/password/msisdn/requestToken`
pub(crate) async fn request_password_change_token_via_msisdn(
    Public { .. }: Public<reset_msisdn::v3::Request>,
) -> Result<Ruma<reset_msisdn::v3::Response>, ApiError> {
    Err(no_telephone())
}

/// `POST /_matrix/client/v3/account/3pid/msisdn/requestToken`
pub(crate) async fn request_3pid_management_token_via_msisdn(
    Public { .. }: Public<add_msisdn::v3::Request>,
) -> Result<Ruma<add_msisdn::v3::Response>, ApiError> {
    Err(no_telephone())
}

/// What a link in a mail carries.
#[derive(Deserialize)]
pub(crate) struct Link {
    #[serde(default)]
    sid: String,
    #[serde(default)]
    token: String,
}

/// `GET` of the link in a mail: a page with a button.
///
/// Programs that look for viruses follow every link of a mail, so following it must not be enough.
pub(crate) async fn get_validation_page(Query(link): Query<Link>) -> HttpResponse {
    let base64url = |text: &str| {
        text.len() <= 64 && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_".contains(&b))
    };
    if !base64url(&link.sid) || !base64url(&link.token) {
        return page(StatusCode::BAD_REQUEST, "<p>This link is broken.</p>");
    }
    let form = format!(
        "<p>Confirm that this e-mail address is yours?</p>\
         <form method=\"post\" action=\"?sid={}&amp;token={}\"><button>Confirm</button></form>",
        link.sid, link.token
    );
    page(StatusCode::OK, &form)
}

/// `POST` of the button on that page.
pub(crate) async fn validate_email(
    State(accounts): State<Accounts>,
    Query(link): Query<Link>,
) -> Result<HttpResponse, ApiError> {
    match accounts.validate_email(&link.sid, &link.token).await {
        Ok(Some(next_link)) => Ok(Redirect::to(&next_link).into_response()),
        Ok(None) => {
            let done = "<p>Your e-mail address is confirmed. You can go back to your client.</p>";
            Ok(page(StatusCode::OK, done))
        }
        Err(AccountError::NotFound { .. }) => {
            let old = "<p>This link is too old, or another mail was sent since.</p>";
            Ok(page(StatusCode::NOT_FOUND, old))
        }
        Err(error) => Err(error.into()),
    }
}

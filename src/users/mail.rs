//! Mail that the server sends, through the configured mail server.

use std::{sync::Arc, time::Duration};

use lettre::{
    Address, AsyncSmtpTransport, AsyncTransport, Message, Tokio1Executor,
    message::{Mailbox, header::ContentType},
    transport::smtp::{
        authentication::Credentials,
        client::{Certificate, Tls, TlsParameters},
    },
};

use super::threepid::Purpose;
use crate::config::{Config, SmtpTls};

/// Path of the page behind a link that proves an address.
pub(crate) const VALIDATION_PATH: &str = "/_myelin/client/email/validate";
/// How long the mail server may take.
const TIMEOUT: Duration = Duration::from_secs(20);

/// Why a mail was not sent.
#[derive(Debug, thiserror::Error)]
pub(crate) enum MailError {
    /// A setting makes no sense.
    #[error("{key} in the configuration can't be used")]
    Setting {
        /// Its name.
        key: &'static str,
        /// Why.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// Nobody can have this address.
    #[error("mail can't be sent to this address")]
    Address(#[source] lettre::address::AddressError),
    /// The mail can't be written.
    #[error("cannot write a mail")]
    Message(#[source] lettre::error::Error),
    /// The mail server can't be reached or does not take the mail.
    #[error("cannot send a mail")]
    Transport(#[source] lettre::transport::smtp::Error),
}

/// Sends mail.
#[derive(Clone)]
pub(crate) struct Mailer {
    shared: Arc<Shared>,
}

struct Shared {
    transport: AsyncSmtpTransport<Tokio1Executor>,
    from: Mailbox,
    server_name: String,
    /// Where clients reach this server.
    base_url: String,
}

impl Mailer {
    /// A mailer for `[smtp]`; none if there is no such section.
    ///
    /// # Errors
    /// [`MailError::Setting`] if a setting makes no sense.
    pub(crate) fn from_config(config: &Config) -> Result<Option<Self>, MailError> {
        let Some(smtp) = &config.smtp else { return Ok(None) };
        let setting = |key| move |source| MailError::Setting { key, source };
        let from: Mailbox =
            smtp.from.parse().map_err(|error| setting("smtp.from")(Box::from(error)))?;
        let tls = || -> Result<TlsParameters, MailError> {
            let mut parameters = TlsParameters::builder(smtp.host.clone());
            for path in &config.outgoing.ca_certificates {
                let unusable = setting("outgoing.ca_certificates");
                let pem = std::fs::read(path).map_err(|error| unusable(Box::from(error)))?;
                let root = Certificate::from_pem(&pem);
                parameters = parameters
                    .add_root_certificate(root.map_err(|error| unusable(Box::from(error)))?);
            }
            parameters.build_rustls().map_err(|error| setting("smtp.host")(Box::from(error)))
        };
        let (tls, port) = match smtp.tls {
            SmtpTls::Starttls => (Tls::Required(tls()?), 587),
            SmtpTls::Tls => (Tls::Wrapper(tls()?), 465),
            SmtpTls::None => (Tls::None, 25),
        };
        let mut transport =
            AsyncSmtpTransport::<Tokio1Executor>::builder_dangerous(smtp.host.clone())
                .tls(tls)
                .port(smtp.port.unwrap_or(port))
                .timeout(Some(TIMEOUT));
        if let Some(username) = &smtp.username {
            let password = smtp.password.as_ref().map_or("", |password| password.expose());
            transport = transport.credentials(Credentials::new(username.clone(), password.into()));
        }
        let base_url = match &config.well_known.client {
            Some(url) => url.trim_end_matches('/').to_owned(),
            None => format!("https://{}", config.server_name),
        };
        Ok(Some(Self {
            shared: Arc::new(Shared {
                transport: transport.build(),
                from,
                server_name: config.server_name.to_string(),
                base_url,
            }),
        }))
    }

    /// Sends the link that proves an address. Returns once the mail server has taken the mail.
    ///
    /// # Errors
    /// [`MailError`] if it has not.
    pub(crate) async fn send_link(
        &self,
        to: &str,
        purpose: Purpose,
        sid: &str,
        token: &str,
    ) -> Result<(), MailError> {
        let Shared { transport, from, server_name, base_url } = &*self.shared;
        let what = match purpose {
            Purpose::Register => "to create an account with this address",
            Purpose::ResetPassword => "to set a new password for the account with this address",
            Purpose::Add => "to add this address to an account",
        };
        // Both are in base64url, which needs no escaping.
        let link = format!("{base_url}{VALIDATION_PATH}?sid={sid}&token={token}");
        let text = format!(
            "Somebody asked the Matrix server {server_name} {what}.\r\n\r\n\
             If it was you, follow this link:\r\n\r\n{link}\r\n\r\n\
             If it was not, there is nothing to do.\r\n"
        );
        let address: Address = to.parse().map_err(MailError::Address)?;
        let message = Message::builder()
            .from(from.clone())
            .to(Mailbox::new(None, address))
            .subject(format!("Your e-mail address on {server_name}"))
            .header(ContentType::TEXT_PLAIN)
            .body(text)
            .map_err(MailError::Message)?;
        transport.send(message).await.map(|_| ()).map_err(MailError::Transport)
    }
}

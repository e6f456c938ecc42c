//! Mail that the server sends, through the configured mail server.

use std::{sync::Arc, time::Duration};

use lettre::{
    Address, AsyncSmtpTransport, AsyncTransport, Message, Tokio1Executor,
    message::{
        Mailbox, MultiPart,
        header::{ContentType, HeaderName, HeaderValue},
    },
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

impl MailError {
    /// Whether the same mail would be refused again.
    pub(crate) fn is_permanent(&self) -> bool {
        match self {
            Self::Setting { .. } | Self::Address(_) | Self::Message(_) => true,
            Self::Transport(error) => error.is_permanent(),
        }
    }
}

/// A mail that nobody asked for just now.
#[derive(Debug)]
pub(crate) struct AutomaticMail<'a> {
    /// The address it goes to.
    pub(crate) to: &'a str,
    /// Its subject, one line.
    pub(crate) subject: String,
    /// What it says.
    pub(crate) text: String,
    /// The same as a web page.
    pub(crate) html: String,
    /// Tells a mail that is sent again from another one: 1 to 64 letters, digits, `-` and `_`.
    pub(crate) id: String,
    /// Where a `POST` stops mail of this kind.
    ///
    /// Spec: <https://www.rfc-editor.org/rfc/rfc8058>
    pub(crate) unsubscribe: String,
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
    /// The part of it after which the IDs of mails are named.
    message_domain: String,
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
                message_domain: config.server_name.host().to_owned(),
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
        let Shared { transport, from, server_name, base_url, .. } = &*self.shared;
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
        let message = Message::builder()
            .from(from.clone())
            .to(mailbox(to)?)
            .subject(format!("Your e-mail address on {server_name}"))
            .header(ContentType::TEXT_PLAIN)
            .body(text)
            .map_err(MailError::Message)?;
        transport.send(message).await.map(|_| ()).map_err(MailError::Transport)
    }

    /// Where clients reach this server, without a slash at the end.
    pub(crate) fn base_url(&self) -> &str {
        &self.shared.base_url
    }

    /// Sends a mail as text and as a web page. Returns once the mail server has taken it.
    ///
    /// # Errors
    /// [`MailError`] if it has not.
    pub(crate) async fn send(&self, mail: AutomaticMail<'_>) -> Result<(), MailError> {
        let Shared { transport, from, message_domain, .. } = &*self.shared;
        let header =
            |name, value: String| HeaderValue::new(HeaderName::new_from_ascii_str(name), value);
        let message = Message::builder()
            .from(from.clone())
            .to(mailbox(mail.to)?)
            .subject(mail.subject)
            .message_id(Some(format!("<{}@{message_domain}>", mail.id)))
            .raw_header(header("List-Unsubscribe", format!("<{}>", mail.unsubscribe)))
            .raw_header(header("List-Unsubscribe-Post", "List-Unsubscribe=One-Click".to_owned()))
            // Nobody's absence is told in answer to it.
            .raw_header(header("Auto-Submitted", "auto-generated".to_owned()))
            .multipart(MultiPart::alternative_plain_html(mail.text, mail.html))
            .map_err(MailError::Message)?;
        transport.send(message).await.map(|_| ()).map_err(MailError::Transport)
    }
}

fn mailbox(address: &str) -> Result<Mailbox, MailError> {
    let address: Address = address.parse().map_err(MailError::Address)?;
    Ok(Mailbox::new(None, address))
}

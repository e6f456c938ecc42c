//! Mail about what a user has not read: what it looks like, and that it goes out.

mod language;
mod letter;

use std::sync::Arc;

use tokio::sync::Semaphore;

pub(super) use letter::{Letter, Message, RoomPart};

use crate::{
    config::EmailNotifications,
    users::mail::{AutomaticMail, MailError, Mailer},
};

/// The page where mail is stopped, with `?token=`.
pub(crate) const UNSUBSCRIBE_PATH: &str = "/_myelin/client/email/unsubscribe";
/// How many mails are given to the mail server at a time.
const AT_ONCE: usize = 8;

/// Sends mail about what is unread.
#[derive(Clone)]
pub(crate) struct Mails {
    mailer: Mailer,
    turns: Arc<Semaphore>,
    pub(super) settings: Arc<EmailNotifications>,
}

impl Mails {
    /// Mail by these settings; none if they switch it off.
    pub(crate) fn new(mailer: Mailer, settings: &EmailNotifications) -> Option<Self> {
        let (turns, shared) = (Arc::new(Semaphore::new(AT_ONCE)), Arc::new(settings.clone()));
        settings.enabled.then_some(Self { mailer, turns, settings: shared })
    }

    /// Sends a letter to an address; `token` is what stops further ones.
    pub(super) async fn send(
        &self,
        letter: &Letter,
        to: &str,
        token: &str,
        id: String,
    ) -> Result<(), MailError> {
        // Never closed.
        let _turn = self.turns.acquire().await;
        let unsubscribe = format!("{}{UNSUBSCRIBE_PATH}?token={token}", self.mailer.base_url());
        let mail = AutomaticMail {
            to,
            subject: letter.subject(&self.settings),
            text: letter.text(&self.settings, &unsubscribe),
            html: letter.html(&self.settings, &unsubscribe),
            id,
            unsubscribe,
        };
        self.mailer.send(mail).await
    }
}

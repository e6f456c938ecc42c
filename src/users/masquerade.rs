//! Application services behind their tokens, and the users they speak for.
//!
//! Spec: <https://spec.matrix.org/v1.19/application-service-api/#identity-assertion>

use std::sync::Arc;

use ruma::{DeviceId, OwnedDeviceId, OwnedUserId, UserId};

use super::session::{AuthError, Session, Sessions};
use crate::{
    api::extract::Caller,
    appservice::Service,
    storage::{
        Json,
        intern::UserNumber,
        schema::{ACCOUNTS, DEVICES},
    },
};

/// The largest time that an event may claim: the largest exact integer.
const MAX_TIMESTAMP: u64 = (1 << 53) - 1;

/// An application service that speaks for a user.
#[derive(Clone, Debug)]
pub(crate) struct Acting {
    /// Which.
    pub(crate) service: Arc<Service>,
    /// Whether it does so on a device of the user.
    pub(crate) on_device: bool,
    /// What time it wants an event to have, in ms since the Unix epoch.
    pub(crate) timestamp: Option<u64>,
}

impl Session {
    /// The device; none for an application service that names none.
    pub(crate) fn device(&self) -> Option<&DeviceId> {
        let on_device = self.appservice.as_ref().is_none_or(|acting| acting.on_device);
        on_device.then_some(&*self.device_id)
    }

    /// Against whose limits of rate the request counts; none: nobody's.
    pub(crate) fn limited_as(&self) -> Option<UserNumber> {
        let acting = self.appservice.as_ref();
        acting.is_none_or(|acting| acting.service.is_limited(&self.user_id)).then_some(self.user)
    }

    /// The time that an event is to have, if an application service chose one.
    ///
    /// Spec: <https://spec.matrix.org/v1.19/application-service-api/#timestamp-massaging>
    pub(crate) fn timestamp(&self) -> Option<u64> {
        self.appservice.as_ref().and_then(|acting| acting.timestamp)
    }
}

/// Whom a request speaks for, by its query.
#[derive(Debug, Default, Eq, PartialEq)]
struct Assertion {
    user: Option<String>,
    device: Option<OwnedDeviceId>,
    timestamp: Option<u64>,
}

impl Assertion {
    fn of(query: Option<&str>) -> Self {
        let mut this = Self::default();
        for (name, value) in url::form_urlencoded::parse(query.unwrap_or_default().as_bytes()) {
            match &*name {
                "user_id" => this.user = Some(value.into_owned()),
                "device_id" | "org.matrix.msc3202.device_id" => {
                    this.device = Some(OwnedDeviceId::from(&*value));
                }
                "ts" => this.timestamp = value.parse().ok().filter(|time| *time <= MAX_TIMESTAMP),
                _ => {}
            }
        }
        this
    }
}

impl Sessions {
    /// As [`Self::authenticate`], also for application services: they speak for the user that the
    /// query of the request names, or for their bot.
    ///
    /// # Errors
    /// [`AuthError::NotYours`], [`AuthError::UnknownDevice`] for what the service may not or cannot
    /// name.
    pub(crate) async fn enter(
        &self,
        token: &str,
        caller: &Caller,
        query: Option<&str>,
    ) -> Result<Session, AuthError> {
        match self.authenticate(token, caller).await {
            Err(AuthError::Unknown { soft_logout: false }) => match self.appservice(token) {
                Some(service) => self.speak(service, Assertion::of(query)).await,
                None => Err(AuthError::Unknown { soft_logout: false }),
            },
            entered => entered,
        }
    }

    /// A session of `service` for the user it names.
    async fn speak(&self, service: Arc<Service>, named: Assertion) -> Result<Session, AuthError> {
        let user_id: OwnedUserId = match named.user {
            None => service.registration.bot.clone(),
            Some(user) => {
                let not_yours = || AuthError::NotYours { user: user.clone() };
                let user = UserId::parse(user.as_str()).map_err(|_| not_yours())?;
                if !service.speaks_for(&user) {
                    return Err(not_yours());
                }
                user
            }
        };
        let db = self.db();
        let no_account = || AuthError::NoAccount { user: user_id.clone() };
        let user = db.users().find(db, &*user_id).await?.ok_or_else(no_account)?;
        let account = ACCOUNTS.get(db, &user).await?.filter(|Json(account)| !account.deactivated);
        let Json(account) = account.ok_or_else(no_account)?;
        let on_device = named.device.is_some();
        let device_id = match named.device {
            Some(device) if DEVICES.contains(db, &(user, &*device)).await? => device,
            Some(device) => return Err(AuthError::UnknownDevice { device }),
            // No device that anybody can choose has such an ID.
            None => format!("\u{1}{}", service.id()).into(),
        };
        let acting = Acting { service, on_device, timestamp: named.timestamp };
        Ok(Session { user_id, user, device_id, guest: account.guest, appservice: Some(acting) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn old_and_new_names_of_what_is_asserted_are_read() {
        let query = "user_id=%40_irc_a%3Aexample.org&device_id=PHONE&ts=1234";
        let expected = Assertion {
            user: Some("@_irc_a:example.org".to_owned()),
            device: Some("PHONE".into()),
            timestamp: Some(1_234),
        };
        assert_eq!(Assertion::of(Some(query)), expected);
        let query = query.replace("device_id", "org.matrix.msc3202.device_id");
        assert_eq!(Assertion::of(Some(&query)), expected);
        assert_eq!(Assertion::of(None), Assertion::default());
        assert_eq!(Assertion::of(Some("ts=-1")), Assertion::default());
        assert_eq!(Assertion::of(Some("ts=9007199254740992")), Assertion::default());
    }
}

//! "If type is `m.room.power_levels`:"

use crate::{
    auth::{Power, Rejection, Rule, StateView, Subject, Verdict, View, view::Levels},
    content::Content,
    power_levels::{NamedLevel, PowerLevels, changes},
};

pub(super) fn check<S: StateView>(
    subject: &Subject<'_>,
    view: &View<'_, S>,
    current: Levels<'_>,
    power: Power,
) -> Verdict {
    let Content::PowerLevels(new) = subject.content else {
        return Err(Rule::PowerLevelsUsers.into());
    };
    // The rules about the types of the values were checked while decoding.
    if let Some(rule) = new.broken {
        return Err(rule.into());
    }
    // "If the `users` property in `content` contains the `sender` of the `m.room.create` event
    // or any of the `additional_creators` array (if present) from the `content` of the
    // `m.room.create` event, reject." (since version 12; the list is empty before)
    let is_creator = |user| view.create.creators.binary_search(user).is_ok();
    if new.users.iter().any(|(user, _)| is_creator(user)) {
        return Err(Rejection::by(Rule::PowerLevelsCreator, view.create_event));
    }
    // "If there is no previous `m.room.power_levels` event in the room, allow."
    let Some((current_event, current)) = current else { return Ok(()) };
    compare(subject, current, new, power).map_err(|rule| Rejection::by(rule, current_event))
}

fn compare(
    subject: &Subject<'_>,
    current: &PowerLevels,
    new: &PowerLevels,
    power: Power,
) -> Result<(), Rule> {
    let exceeds = |level: i64| Power::Level(level) > power;
    // "For the properties `users_default`, `events_default`, `state_default`, `ban`, `redact`,
    // `kick`, `invite` check if they were added, changed or removed. For each found alteration:
    // If the current value is higher than the `sender`'s current power level, reject. If the new
    // value is higher than the `sender`'s current power level, reject."
    for name in NamedLevel::ALL {
        let altered = current.named(name) != new.named(name);
        // An absent value acts as its default.
        if altered
            && (exceeds(current.named_or_default(name)) || exceeds(new.named_or_default(name)))
        {
            return Err(Rule::PowerLevelsNamed(name));
        }
    }
    // "For each entry being changed in, or removed from, the `events` or `notifications`
    // properties: If the current value is greater than the `sender`'s current power level,
    // reject. For each entry being added to, or changed in, the `events` or `notifications`
    // properties: If the new value is greater than the `sender`'s current power level, reject."
    // (`notifications` since version 6; the list is empty before)
    for (old, new, rule) in [
        (&current.events, &new.events, Rule::PowerLevelsEvent),
        (&current.notifications, &new.notifications, Rule::PowerLevelsNotification),
    ] {
        if changes(old, new).any(|(_, old, new)| [old, new].into_iter().flatten().any(exceeds)) {
            return Err(rule);
        }
    }
    for (user, old, new) in changes(&current.users, &new.users) {
        // "For each entry being changed in, or removed from, the `users` property, other than the
        // `sender`'s own entry: If the current value is greater than or equal to the `sender`'s
        // current power level, reject."
        let reaches = |level: i64| Power::Level(level) >= power;
        if user != subject.event.sender && old.is_some_and(reaches) {
            return Err(Rule::PowerLevelsUser);
        }
        // "For each entry being added to, or changed in, the `users` property: If the new value
        // is greater than the `sender`'s current power level, reject."
        if new.is_some_and(exceeds) {
            return Err(Rule::PowerLevelsRaise);
        }
    }
    // "Otherwise, allow."
    Ok(())
}

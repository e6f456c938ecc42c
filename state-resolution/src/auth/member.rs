//! "If type is `m.room.member`:"

use crate::{
    auth::{Power, Rejection, Rule, StateView, Subject, Verdict, View},
    content::{Authoriser, Content, JoinRule, Member, Membership, ThirdParty},
    grammar::is_user_id,
    ids::{EventIx, UserIx},
    power_levels::NamedLevel,
    room::Room,
};

/// A membership event with what all its rules need.
struct Change<'a, S> {
    room: &'a Room,
    subject: &'a Subject<'a>,
    view: &'a View<'a, S>,
    sender: UserIx,
    target: UserIx,
    member: Option<&'a Member>,
}

pub(super) fn check<S: StateView>(
    room: &Room,
    subject: &Subject<'_>,
    view: &View<'_, S>,
) -> Verdict {
    let rules = &room.rules().auth;
    let membership = subject.event.membership;
    // "If there is no `state_key` property, or no `membership` property in `content`, reject."
    let Some(key) = subject.event.key() else { return Err(Rule::MemberIncomplete.into()) };
    if membership == Membership::Malformed {
        return Err(Rule::MemberIncomplete.into());
    }
    let target = room.tables.key(key);
    if !is_user_id(&target.name) {
        return Err(Rule::MemberTarget.into());
    }
    let member = match subject.content {
        Content::Member(member) => Some(member),
        _ => None,
    };
    // "If `content` has a `join_authorised_via_users_server` key: If the event is not validly
    // signed by the homeserver of the user ID denoted by the key, reject." The signature was
    // checked when the event came in; what denotes nobody cannot have been signed.
    if rules.restricted_join_rule && member.is_some_and(|m| m.authoriser == Authoriser::Malformed) {
        return Err(Rule::MemberAuthoriserSignature.into());
    }
    let target = UserIx(target.user);
    let change = Change { room, subject, view, sender: subject.event.sender, target, member };
    match membership {
        Membership::Join => change.join(),
        Membership::Invite => change.invite(),
        Membership::Leave => change.leave(),
        Membership::Ban => change.ban(),
        Membership::Knock if rules.knocking => change.knock(),
        // "Otherwise, the membership is unknown. Reject."
        _ => Err(Rule::MembershipUnknown.into()),
    }
}

fn by_invitation(is_let_in: bool, join_rules: Option<EventIx>) -> Verdict {
    if is_let_in { Ok(()) } else { Err(Rejection::by(Rule::JoinNotInvited, join_rules)) }
}

impl<S: StateView> Change<'_, S> {
    /// "If `membership` is `join`:"
    fn join(&self) -> Verdict {
        let rules = &self.room.rules().auth;
        let view = self.view;
        // "If the only previous event is an `m.room.create` and the `state_key` is the creator,
        // allow." Since version 11 "is the sender of the `m.room.create`"; additional creators
        // need an invitation like everybody else.
        if self.subject.event.only_parent_create() == Some(view.create_event)
            && view.create.creator == Some(self.target)
        {
            return Ok(());
        }
        // "If the `sender` does not match `state_key`, reject."
        if self.sender != self.target {
            return Err(Rule::JoinForOther.into());
        }
        let (current, decided_by) = view.membership(self.target)?;
        // "If the `sender` is banned, reject."
        if current == Membership::Ban {
            return Err(Rejection::by(Rule::JoinBanned, decided_by));
        }
        let is_let_in = matches!(current, Membership::Join | Membership::Invite);
        let (join_rule, rule_event) = view.join_rule()?;
        match join_rule {
            // "If the `join_rule` is `invite` or `knock` then allow if membership state is
            // `invite` or `join`." (`knock` since version 7)
            JoinRule::Invite => by_invitation(is_let_in, rule_event),
            JoinRule::Knock if rules.knocking => by_invitation(is_let_in, rule_event),
            // "If the `join_rule` is `restricted` or `knock_restricted`:" (since 8 and 10)
            JoinRule::Restricted if rules.restricted_join_rule => self.join_restricted(is_let_in),
            JoinRule::KnockRestricted if rules.knock_restricted_join_rule => {
                self.join_restricted(is_let_in)
            }
            // "If the `join_rule` is `public`, allow."
            JoinRule::Public => Ok(()),
            // "Otherwise, reject."
            _ => Err(Rejection::by(Rule::JoinRuleClosed, rule_event)),
        }
    }

    fn join_restricted(&self, is_let_in: bool) -> Verdict {
        // "If membership state is `join` or `invite`, allow."
        if is_let_in {
            return Ok(());
        }
        // "If the `join_authorised_via_users_server` key in `content` is not a user with
        // sufficient permission to invite other users or is not a joined member of the room,
        // reject."
        let Some(Authoriser::User(user)) = self.member.map(|member| member.authoriser) else {
            return Err(Rule::JoinAuthoriser.into());
        };
        let (membership, decided_by) = self.view.membership(user)?;
        if membership != Membership::Join {
            return Err(Rejection::by(Rule::JoinAuthoriser, decided_by));
        }
        self.need(user, NamedLevel::Invite, Rule::JoinAuthoriser)
        // "Otherwise, allow."
    }

    /// "If `membership` is `invite`:"
    fn invite(&self) -> Verdict {
        // "If `content` has a `third_party_invite` property:"
        if let Some(third_party) = self.member.and_then(|member| member.third_party.as_deref()) {
            return self.third_party_invite(third_party);
        }
        // "If the `sender`'s current membership state is not `join`, reject."
        self.sender_is_joined(Rule::InviteSender)?;
        // "If *target user*'s current membership state is `join` or `ban`, reject."
        let (current, decided_by) = self.view.membership(self.target)?;
        if matches!(current, Membership::Join | Membership::Ban) {
            return Err(Rejection::by(Rule::InviteTarget, decided_by));
        }
        // "If the `sender`'s power level is greater than or equal to the *invite level*, allow.
        // Otherwise, reject."
        self.need(self.sender, NamedLevel::Invite, Rule::InviteLevel)
    }

    fn third_party_invite(&self, third_party: &ThirdParty) -> Verdict {
        // "If *target user* is banned, reject."
        let (current, decided_by) = self.view.membership(self.target)?;
        if current == Membership::Ban {
            return Err(Rejection::by(Rule::ThirdPartyBanned, decided_by));
        }
        let (mxid, token, signed) = match third_party {
            // "If `content.third_party_invite` does not have a `signed` property, reject."
            ThirdParty::Unsigned => return Err(Rule::ThirdPartyUnsigned.into()),
            // "If `signed` does not have `mxid` and `token` properties, reject."
            ThirdParty::Incomplete => return Err(Rule::ThirdPartyIncomplete.into()),
            ThirdParty::Signed { mxid, token, signed } => (mxid, *token, signed),
        };
        // "If `mxid` does not match `state_key`, reject."
        if **mxid != *self.room.tables.user_id(self.target) {
            return Err(Rule::ThirdPartyMxid.into());
        }
        // "If there is no `m.room.third_party_invite` event in the current room state with
        // `state_key` matching `token`, reject."
        let invite = self.view.event(token).ok_or(Rule::ThirdPartyUnknown)?;
        // "If `sender` does not match `sender` of the `m.room.third_party_invite`, reject."
        if self.room.get(invite).sender != self.sender {
            return Err(Rejection::by(Rule::ThirdPartySender, invite));
        }
        // "If any signature in `signed` matches any public key in the `m.room.third_party_invite`
        // event, allow."
        let verify = || match self.room.content(invite) {
            Content::PublicKeys(keys) => self.room.signatures.third_party_invite(signed, keys),
            _ => false,
        };
        let is_signed = match self.subject.ix {
            Some(member) => self.room.third_party_verdict((member, invite), verify),
            None => verify(),
        };
        // "Otherwise, reject."
        if is_signed { Ok(()) } else { Err(Rejection::by(Rule::ThirdPartySignature, invite)) }
    }

    /// "If `membership` is `leave`:"
    fn leave(&self) -> Verdict {
        // "If the `sender` matches `state_key`, allow if and only if that user's current
        // membership state is `invite`, `join`, or `knock`." (`knock` since version 7)
        if self.sender == self.target {
            let (current, decided_by) = self.view.membership(self.sender)?;
            return match current {
                Membership::Invite | Membership::Join => Ok(()),
                Membership::Knock if self.room.rules().auth.knocking => Ok(()),
                _ => Err(Rejection::by(Rule::LeaveNotThere, decided_by)),
            };
        }
        // "If the `sender`'s current membership state is not `join`, reject."
        self.sender_is_joined(Rule::KickSender)?;
        // "If the *target user*'s current membership state is `ban`, and the `sender`'s power
        // level is less than the *ban level*, reject."
        let (current, _) = self.view.membership(self.target)?;
        if current == Membership::Ban {
            self.need(self.sender, NamedLevel::Ban, Rule::UnbanLevel)?;
        }
        // "If the `sender`'s power level is greater than or equal to the *kick level*, and the
        // *target user*'s power level is less than the `sender`'s power level, allow."
        self.need(self.sender, NamedLevel::Kick, Rule::KickLevel)?;
        self.need_more_than_target(Rule::KickLevel)
        // "Otherwise, reject."
    }

    /// "If `membership` is `ban`:"
    fn ban(&self) -> Verdict {
        // "If the `sender`'s current membership state is not `join`, reject."
        self.sender_is_joined(Rule::BanSender)?;
        // "If the `sender`'s power level is greater than or equal to the *ban level*, and the
        // *target user*'s power level is less than the `sender`'s power level, allow."
        self.need(self.sender, NamedLevel::Ban, Rule::BanLevel)?;
        self.need_more_than_target(Rule::BanLevel)
        // "Otherwise, reject."
    }

    /// "If `membership` is `knock`:" (since version 7)
    fn knock(&self) -> Verdict {
        // "If the `join_rule` is anything other than `knock` or `knock_restricted`, reject."
        // (`knock_restricted` since version 10)
        let (join_rule, rule_event) = self.view.join_rule()?;
        match join_rule {
            JoinRule::Knock => {}
            JoinRule::KnockRestricted if self.room.rules().auth.knock_restricted_join_rule => {}
            _ => return Err(Rejection::by(Rule::KnockRule, rule_event)),
        }
        // "If `sender` does not match `state_key`, reject."
        if self.sender != self.target {
            return Err(Rule::KnockForOther.into());
        }
        // "If the `sender`'s current membership is not `ban`, `invite`, or `join`, allow.
        // Otherwise, reject."
        let (current, decided_by) = self.view.membership(self.sender)?;
        if matches!(current, Membership::Ban | Membership::Invite | Membership::Join) {
            return Err(Rejection::by(Rule::KnockMember, decided_by));
        }
        Ok(())
    }

    fn sender_is_joined(&self, rule: Rule) -> Verdict {
        let (membership, decided_by) = self.view.membership(self.sender)?;
        if membership == Membership::Join { Ok(()) } else { Err(Rejection::by(rule, decided_by)) }
    }

    /// `user` must have the level called `name`.
    fn need(&self, user: UserIx, name: NamedLevel, rule: Rule) -> Verdict {
        let levels = self.view.power_levels()?;
        let needed = levels.map_or(name.default_value(), |(_, l)| l.named_or_default(name));
        if self.view.power(levels, user) >= Power::Level(needed) {
            Ok(())
        } else {
            Err(Rejection::by(rule, levels.map(|(event, _)| event)))
        }
    }

    fn need_more_than_target(&self, rule: Rule) -> Verdict {
        let levels = self.view.power_levels()?;
        if self.view.power(levels, self.target) < self.view.power(levels, self.sender) {
            Ok(())
        } else {
            Err(Rejection::by(rule, levels.map(|(event, _)| event)))
        }
    }
}

//! The independent resolver, and the sets it wants, by their definitions.

use std::collections::{BTreeSet, HashMap};

use ruma_common::{EventId, OwnedEventId, RoomVersionId, room_version_rules::RoomVersionRules};
use ruma_events::StateEventType;
use ruma_state_res::{StateMap, utils::event_id_set::EventIdSet};

use super::{Named, Pdu};

pub type Pdus = HashMap<OwnedEventId, Pdu>;

pub fn by_id(pdus: &[Pdu]) -> Pdus {
    pdus.iter().map(|pdu| (pdu.event_id.clone(), pdu.clone())).collect()
}

pub fn rules(version: &str) -> RoomVersionRules {
    RoomVersionId::try_from(version).unwrap().rules().unwrap()
}

/// Resolves by ruma-state-res.
pub fn resolve(version: &str, pdus: &Pdus, states: &[Named], includes_own: bool) -> Named {
    let maps: Vec<_> = states.iter().map(to_ruma).collect();
    let chains = states
        .iter()
        .map(|state| full_chain(pdus, state, includes_own).into_iter().collect())
        .collect();
    resolve_prepared(version, pdus, &maps, chains)
}

pub fn to_ruma(state: &Named) -> StateMap<OwnedEventId> {
    state
        .iter()
        .map(|((event_type, key), id)| {
            let key = (StateEventType::from(&**event_type), key.clone());
            (key, EventId::parse(id).unwrap())
        })
        .collect()
}

pub fn resolve_prepared(
    version: &str,
    pdus: &Pdus,
    maps: &[StateMap<OwnedEventId>],
    chains: Vec<EventIdSet<OwnedEventId>>,
) -> Named {
    let rules = rules(version);
    let resolved = ruma_state_res::resolve(
        &rules.authorization,
        rules.state_res.v2_rules().unwrap(),
        maps,
        chains,
        |id: &EventId| pdus.get(id),
        |conflicted| {
            let ids: Vec<_> = conflicted.values().flatten().cloned().collect();
            Some(subgraph(pdus, &ids).into_iter().collect())
        },
    )
    .unwrap();
    resolved
        .into_iter()
        .map(|((event_type, key), id)| ((event_type.to_string(), key), id.to_string()))
        .collect()
}

/// The union of the auth chains of a state's events, with or without these themselves.
pub fn full_chain(pdus: &Pdus, state: &Named, includes_own: bool) -> BTreeSet<OwnedEventId> {
    let own = state.values().map(|id| EventId::parse(id).unwrap());
    let mut chain = chain(pdus, own.clone());
    if includes_own {
        chain.extend(own);
    }
    chain
}

pub fn chain(pdus: &Pdus, of: impl Iterator<Item = OwnedEventId>) -> BTreeSet<OwnedEventId> {
    let mut found = BTreeSet::new();
    let mut queue: Vec<_> = of.flat_map(|id| pdus[&id].auth.clone()).collect();
    while let Some(id) = queue.pop() {
        if found.insert(id.clone()) {
            queue.extend(pdus[&id].auth.iter().cloned());
        }
    }
    found
}

/// "∪ *C*(i) − ∩ *C*(i)"
pub fn difference(pdus: &Pdus, states: &[Named], includes_own: bool) -> BTreeSet<OwnedEventId> {
    let chains: Vec<_> = states.iter().map(|state| full_chain(pdus, state, includes_own)).collect();
    let all: BTreeSet<_> = chains.iter().flatten().cloned().collect();
    all.into_iter().filter(|id| !chains.iter().all(|chain| chain.contains(id))).collect()
}

/// What leads to one of `ids` and is led to by one of them, these included.
pub fn subgraph(pdus: &Pdus, ids: &[OwnedEventId]) -> BTreeSet<OwnedEventId> {
    let below = chain(pdus, ids.iter().cloned());
    let mut leads: HashMap<OwnedEventId, bool> = HashMap::new();
    let between = below.into_iter().filter(|id| leads_to(pdus, ids, id, &mut leads));
    between.chain(ids.iter().cloned()).collect()
}

fn leads_to(
    pdus: &Pdus,
    ids: &[OwnedEventId],
    id: &OwnedEventId,
    known: &mut HashMap<OwnedEventId, bool>,
) -> bool {
    if let Some(known) = known.get(id) {
        return *known;
    }
    let auth = &pdus[id].auth;
    let leads = auth.iter().any(|auth| ids.contains(auth))
        || auth.iter().any(|auth| leads_to(pdus, ids, auth, known));
    known.insert(id.clone(), leads);
    leads
}

//! Events in the order of the graph.

use ruma::{EventId, OwnedEventId};

use crate::rooms::pdu::Pdu;

/// The events in an order in which each comes after those that it refers to; otherwise as they were.
pub(in crate::rooms) fn in_order<'a>(
    pdus: &[&'a Pdu],
    references: impl Fn(&'a Pdu) -> &'a [OwnedEventId],
) -> Vec<&'a Pdu> {
    let by_id: std::collections::HashMap<&EventId, usize> =
        pdus.iter().enumerate().map(|(at, pdu)| (&*pdu.event_id, at)).collect();
    let mut sorted = Vec::with_capacity(pdus.len());
    // Also marks those on the way: cycles, which chosen IDs allow, end there.
    let mut seen = vec![false; pdus.len()];
    let mut stack: Vec<(usize, usize)> = Vec::new();
    // Nobody cites the create event where the room ID implies it.
    let is_create = |at: &usize| pdus.get(*at).is_some_and(|pdu| pdu.event_type == "m.room.create");
    let creates = (0..pdus.len()).filter(is_create);
    for start in creates.chain(0..pdus.len()) {
        stack.push((start, 0));
        while let Some((at, edge)) = stack.pop() {
            let (Some(pdu), Some(mark)) = (pdus.get(at), seen.get_mut(at)) else { continue };
            if edge == 0 && std::mem::replace(mark, true) {
                continue;
            }
            match references(pdu).get(edge) {
                Some(earlier) => {
                    stack.push((at, edge + 1));
                    if let Some(earlier) = by_id.get(&**earlier) {
                        stack.push((*earlier, 0));
                    }
                }
                None => sorted.push(*pdu),
            }
        }
    }
    sorted
}

//! Room states that share what they have in common.

use std::{fmt, sync::Arc};

use crate::{
    auth::StateView,
    ids::{EventIx, KeyIx, NONE},
};

const BITS: u32 = 5;
const WIDTH: usize = 1 << BITS;

/// A node covers `32^(height + 1)` keys, and is never empty.
#[derive(Clone)]
enum Node {
    /// Event numbers, or `NONE`.
    Leaf([u32; WIDTH]),
    /// Boxed, to keep the many leaves small.
    Inner(Box<[Option<Arc<Self>>; WIDTH]>),
}

/// A room state: which event stands at each state key. `(event type, state key) → event`.
///
/// A persistent radix tree over the keys' numbers. A clone is two words; a copy that differs in
/// one entry shares all but about three nodes with the original; and comparing two states skips
/// what they share. The form of the tree follows from its entries alone.
///
/// ```
/// use state_resolution::{EventIx, KeyIx, StateMap};
/// let before: StateMap = (0..10_000).map(|i| (KeyIx::new(i), EventIx::new(i))).collect();
/// let mut after = before.clone();
/// after.insert(KeyIx::new(77), EventIx::new(10_000));
/// let mut changed = Vec::new();
/// before.for_each_difference(&after, |key, old, new| changed.push((key, old, new)));
/// assert_eq!(changed, [(KeyIx::new(77), Some(EventIx::new(77)), Some(EventIx::new(10_000)))]);
/// ```
#[derive(Clone, Default)]
pub struct StateMap {
    root: Option<Arc<Node>>,
    /// Of the root: 0 for a leaf.
    height: u32,
    len: u32,
    /// No key and no event in the map is larger. Not lowered by removals.
    key_bound: u32,
    event_bound: u32,
}

fn slot(key: u32, height: u32) -> usize {
    (key >> (BITS * height)) as usize % WIDTH
}

/// Whether a tree of this height has a place for `key`.
fn covers(height: u32, key: u32) -> bool {
    u64::from(key) >> (BITS * (height + 1)) == 0
}

impl Node {
    fn empty(height: u32) -> Self {
        if height == 0 {
            Self::Leaf([NONE; WIDTH])
        } else {
            Self::Inner(Box::new([const { None }; WIDTH]))
        }
    }

    fn set(&mut self, key: u32, event: u32, height: u32) -> u32 {
        match self {
            Self::Leaf(events) => std::mem::replace(&mut events[slot(key, 0)], event),
            Self::Inner(children) => {
                let child = children[slot(key, height)]
                    .get_or_insert_with(|| Arc::new(Self::empty(height - 1)));
                Arc::make_mut(child).set(key, event, height - 1)
            }
        }
    }

    /// Removes a key that is present. Whether the node is empty now.
    fn unset(&mut self, key: u32, height: u32) -> bool {
        match self {
            Self::Leaf(events) => {
                events[slot(key, 0)] = NONE;
                events.iter().all(|event| *event == NONE)
            }
            Self::Inner(children) => {
                let child = &mut children[slot(key, height)];
                if child.as_mut().is_some_and(|child| Arc::make_mut(child).unset(key, height - 1)) {
                    *child = None;
                }
                children.iter().all(Option::is_none)
            }
        }
    }

    fn equals(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Leaf(a), Self::Leaf(b)) => a == b,
            (Self::Inner(a), Self::Inner(b)) => a.iter().zip(b.iter()).all(|pair| match pair {
                (None, None) => true,
                (Some(a), Some(b)) => Arc::ptr_eq(a, b) || a.equals(b),
                _ => false,
            }),
            _ => false,
        }
    }
}

impl StateMap {
    /// The state before the first event.
    pub fn new() -> Self {
        Self::default()
    }

    /// How many keys have an event.
    pub fn len(&self) -> usize {
        self.len as usize
    }

    /// Whether no key has an event.
    pub fn is_empty(&self) -> bool {
        self.root.is_none()
    }

    /// The event at `key`.
    pub fn get(&self, key: KeyIx) -> Option<EventIx> {
        if !covers(self.height, key.0) {
            return None;
        }
        let mut node = self.root.as_ref()?;
        let mut height = self.height;
        loop {
            match &**node {
                Node::Leaf(events) => {
                    let event = events[slot(key.0, 0)];
                    return (event != NONE).then_some(EventIx(event));
                }
                Node::Inner(children) => {
                    node = children[slot(key.0, height)].as_ref()?;
                    height -= 1;
                }
            }
        }
    }

    /// Puts `event` at `key`; returns what stood there.
    pub fn insert(&mut self, key: KeyIx, event: EventIx) -> Option<EventIx> {
        if event.0 == NONE {
            return self.remove(key);
        }
        self.key_bound = self.key_bound.max(key.0);
        self.event_bound = self.event_bound.max(event.0);
        let mut root = self.root.take().unwrap_or_else(|| Arc::new(Node::empty(0)));
        while !covers(self.height, key.0) {
            // A fresh tree need not grow: a taller empty node does as well.
            let mut children = [const { None }; WIDTH];
            if self.len > 0 {
                children[0] = Some(root);
            }
            root = Arc::new(Node::Inner(Box::new(children)));
            self.height += 1;
        }
        let old = Arc::make_mut(&mut root).set(key.0, event.0, self.height);
        self.root = Some(root);
        if old == NONE {
            self.len += 1;
            return None;
        }
        Some(EventIx(old))
    }

    /// Empties `key`; returns what stood there.
    pub fn remove(&mut self, key: KeyIx) -> Option<EventIx> {
        let old = self.get(key)?;
        let root = self.root.as_mut()?;
        self.len -= 1;
        if Arc::make_mut(root).unset(key.0, self.height) {
            *self = Self::default();
            return Some(old);
        }
        // The tree is as low as its largest key lets it be.
        while let Some(Node::Inner(children)) = self.root.as_deref() {
            if children[1..].iter().any(Option::is_some) {
                break;
            }
            self.root.clone_from(&children[0].clone());
            self.height -= 1;
        }
        Some(old)
    }

    /// No event in the map has a larger number; `None` if it is empty.
    pub(crate) fn event_bound(&self) -> Option<EventIx> {
        self.root.as_ref().map(|_| EventIx(self.event_bound))
    }

    /// No key in the map has a larger number; `None` if it is empty.
    pub(crate) fn key_bound(&self) -> Option<KeyIx> {
        self.root.as_ref().map(|_| KeyIx(self.key_bound))
    }

    /// Whether both are the same tree: a quick test that never says yes to different states.
    pub fn same_tree(&self, other: &Self) -> bool {
        match (&self.root, &other.root) {
            (None, None) => true,
            (Some(a), Some(b)) => Arc::ptr_eq(a, b),
            _ => false,
        }
    }

    /// The entries in ascending order of keys.
    pub fn iter(&self) -> Iter<'_> {
        let mut stack = Vec::with_capacity(8);
        if let Some(root) = &self.root {
            stack.push((&**root, 0, 0));
        }
        Iter { stack, height: self.height }
    }

    /// Calls `found` for each key, in ascending order, at which the two states differ, with the
    /// event here and the event there. Returns how many nodes were looked at: what the states
    /// share is skipped.
    pub fn for_each_difference(
        &self,
        other: &Self,
        mut found: impl FnMut(KeyIx, Option<EventIx>, Option<EventIx>),
    ) -> usize {
        let (a, b) = (self.root.as_ref(), other.root.as_ref());
        match self.height.cmp(&other.height) {
            std::cmp::Ordering::Equal => differences(a, b, 0, self.height, &mut found),
            std::cmp::Ordering::Greater => uneven(a, self.height, b, other.height, &mut found),
            std::cmp::Ordering::Less => {
                uneven(b, other.height, a, self.height, &mut |key, b, a| found(key, a, b))
            }
        }
    }
}

type Found<'f> = dyn FnMut(KeyIx, Option<EventIx>, Option<EventIx>) + 'f;

const NO_CHILDREN: [Option<Arc<Node>>; WIDTH] = [const { None }; WIDTH];

fn differences(
    a: Option<&Arc<Node>>,
    b: Option<&Arc<Node>>,
    base: u32,
    height: u32,
    found: &mut Found<'_>,
) -> usize {
    match (a, b) {
        (None, None) => return 0,
        (Some(a), Some(b)) if Arc::ptr_eq(a, b) => return 0,
        _ => {}
    }
    if height == 0 {
        let leaf = |node: Option<&Arc<Node>>| match node.map(|node| &**node) {
            Some(Node::Leaf(events)) => *events,
            _ => [NONE; WIDTH],
        };
        let event = |number: u32| (number != NONE).then_some(EventIx(number));
        for (key, (a, b)) in (base..).zip(leaf(a).into_iter().zip(leaf(b))) {
            if a != b {
                found(KeyIx(key), event(a), event(b));
            }
        }
        return 1;
    }
    let (a, b) = (children(a), children(b));
    let pairs = a.iter().zip(b.iter());
    1 + (0..)
        .zip(pairs)
        .map(|(slot, (a, b))| {
            let base = base | (slot << (BITS * height));
            differences(a.as_ref(), b.as_ref(), base, height - 1, found)
        })
        .sum::<usize>()
}

fn children(node: Option<&Arc<Node>>) -> &[Option<Arc<Node>>; WIDTH] {
    match node.map(|node| &**node) {
        Some(Node::Inner(children)) => children,
        _ => &NO_CHILDREN,
    }
}

/// Compares a tree with a lower one, which stands where the first child of the first child … is.
fn uneven(
    tall: Option<&Arc<Node>>,
    height: u32,
    low: Option<&Arc<Node>>,
    low_height: u32,
    found: &mut Found<'_>,
) -> usize {
    if height == low_height {
        return differences(tall, low, 0, height, found);
    }
    let children = children(tall);
    let mut visited = 1 + uneven(children[0].as_ref(), height - 1, low, low_height, found);
    for (slot, child) in (1..).zip(&children[1..]) {
        let base = slot << (BITS * height);
        visited += differences(child.as_ref(), None, base, height - 1, found);
    }
    visited
}

/// The entries of a [`StateMap`] in ascending order of keys.
pub struct Iter<'a> {
    /// Nodes on the way down, with the first key they cover and the next slot to look at.
    stack: Vec<(&'a Node, u32, usize)>,
    height: u32,
}

impl Iterator for Iter<'_> {
    type Item = (KeyIx, EventIx);

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let depth = u32::try_from(self.stack.len()).unwrap_or(1);
            let (node, base, next) = self.stack.last_mut()?;
            let at = *next;
            if at == WIDTH {
                self.stack.pop();
                continue;
            }
            *next += 1;
            let slot = u32::try_from(at).unwrap_or(0);
            match node {
                Node::Leaf(events) => {
                    if events[at] != NONE {
                        return Some((KeyIx(*base | slot), EventIx(events[at])));
                    }
                }
                Node::Inner(children) => {
                    if let Some(child) = &children[at] {
                        let base = *base | (slot << (BITS * (self.height + 1 - depth)));
                        self.stack.push((child, base, 0));
                    }
                }
            }
        }
    }
}

impl<'a> IntoIterator for &'a StateMap {
    type Item = (KeyIx, EventIx);
    type IntoIter = Iter<'a>;

    fn into_iter(self) -> Iter<'a> {
        self.iter()
    }
}

impl FromIterator<(KeyIx, EventIx)> for StateMap {
    fn from_iter<I: IntoIterator<Item = (KeyIx, EventIx)>>(entries: I) -> Self {
        let mut map = Self::new();
        map.extend(entries);
        map
    }
}

impl Extend<(KeyIx, EventIx)> for StateMap {
    fn extend<I: IntoIterator<Item = (KeyIx, EventIx)>>(&mut self, entries: I) {
        for (key, event) in entries {
            self.insert(key, event);
        }
    }
}

impl PartialEq for StateMap {
    fn eq(&self, other: &Self) -> bool {
        self.len == other.len
            && self.height == other.height
            && match (&self.root, &other.root) {
                (None, None) => true,
                (Some(a), Some(b)) => Arc::ptr_eq(a, b) || a.equals(b),
                _ => false,
            }
    }
}

impl Eq for StateMap {}

impl fmt::Debug for StateMap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self).finish()
    }
}

impl StateView for StateMap {
    fn get(&self, key: KeyIx) -> Option<EventIx> {
        Self::get(self, key)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    type Plain = BTreeMap<u32, u32>;

    /// Keys crowd near zero, but reach to the end.
    fn key() -> impl Strategy<Value = u32> {
        prop_oneof![0..40_u32, 0..40_u32, 0..2_000_u32, any::<u32>()]
    }

    fn plain() -> impl Strategy<Value = Plain> {
        proptest::collection::btree_map(key(), 0..50_u32, 0..60)
    }

    fn tree(plain: &Plain) -> StateMap {
        plain.iter().map(|(k, e)| (KeyIx(*k), EventIx(*e))).collect()
    }

    fn entries(map: &StateMap) -> Vec<(u32, u32)> {
        map.iter().map(|(k, e)| (k.0, e.0)).collect()
    }

    proptest! {
        #[test]
        fn behaves_like_a_plain_map(
            start in plain(),
            steps in proptest::collection::vec((key(), proptest::option::of(0..50_u32)), 0..80),
        ) {
            let (mut plain, mut map) = (start.clone(), tree(&start));
            let snapshot = map.clone();
            for (key, event) in steps {
                let (expected, found) = match event {
                    Some(event) => (plain.insert(key, event), map.insert(KeyIx(key), EventIx(event))),
                    None => (plain.remove(&key), map.remove(KeyIx(key))),
                };
                prop_assert_eq!(expected, found.map(|event| event.0));
                prop_assert_eq!(map.get(KeyIx(key)), event.map(EventIx));
                prop_assert_eq!(map.len(), plain.len());
            }
            prop_assert_eq!(entries(&map), plain.clone().into_iter().collect::<Vec<_>>());
            // The form follows from the entries, not from how they came about.
            prop_assert_eq!(&map, &tree(&plain));
            // What was shared is untouched.
            prop_assert_eq!(snapshot, tree(&start));
        }

        #[test]
        fn differences_are_those_of_plain_maps(a in plain(), b in plain()) {
            for b in [b, { let mut c = a.clone(); c.insert(3, 99); c }] {
                let (left, right) = (tree(&a), tree(&b));
                let mut found = Vec::new();
                left.for_each_difference(&right, |k, l, r| found.push((k.0, l.map(|e| e.0), r.map(|e| e.0))));
                let mut keys: Vec<_> = a.keys().chain(b.keys()).copied().collect();
                keys.sort_unstable();
                keys.dedup();
                let expected: Vec<_> = keys
                    .into_iter()
                    .map(|k| (k, a.get(&k).copied(), b.get(&k).copied()))
                    .filter(|(_, l, r)| l != r)
                    .collect();
                prop_assert_eq!(found.is_empty(), left == right);
                prop_assert_eq!(found, expected);
            }
        }
    }

    #[test]
    fn comparing_skips_what_is_shared() {
        let big: StateMap = (0..100_000).map(|i| (KeyIx(i), EventIx(i))).collect();
        assert_eq!(big.for_each_difference(&big.clone(), |_, _, _| unreachable!()), 0);
        let mut other = big.clone();
        other.insert(KeyIx(50_000), EventIx(1));
        let mut found = 0;
        let visited = big.for_each_difference(&other, |_, _, _| found += 1);
        // One path from the root to a leaf.
        assert_eq!((found, visited), (1, 4));
    }
}

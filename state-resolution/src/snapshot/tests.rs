use std::{cell::Cell, collections::HashMap};

use proptest::prelude::*;

use super::*;

#[derive(Default)]
struct Memory {
    records: HashMap<SnapshotId, Vec<u8>>,
    read: Cell<usize>,
}

impl Source for Memory {
    fn record(&self, id: SnapshotId) -> Option<Vec<u8>> {
        self.read.set(self.read.get() + 1);
        self.records.get(&id).cloned()
    }
}

impl Memory {
    fn put(&mut self, record: &Record) -> SnapshotId {
        let id = SnapshotId(self.records.len() as u64);
        self.records.insert(id, record.to_bytes());
        id
    }

    fn bytes(&self) -> usize {
        self.records.values().map(Vec::len).sum()
    }
}

fn log2(number: u64) -> usize {
    (64 - number.leading_zeros()) as usize
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Histories that fork, in which every state can be read back.
    #[test]
    fn any_state_reads_back_as_it_was(
        size in 0..200_u32,
        steps in proptest::collection::vec(
            (any::<prop::sample::Index>(), proptest::collection::vec((0..220_u32, proptest::option::of(0..500_u32)), 1..4)),
            1..150,
        ),
    ) {
        let mut memory = Memory::default();
        let first: StateMap = (0..size).map(|i| (KeyIx(i), EventIx(i))).collect();
        let mut states = vec![first.clone()];
        memory.put(&Record::root(&first));
        for (at, changes) in steps {
            // Mostly on top of the newest, sometimes from somewhere else.
            let before = if at.index(4) == 0 { at.index(states.len()) } else { states.len() - 1 };
            let changes: Vec<Change> =
                changes.into_iter().map(|(k, e)| (KeyIx(k), e.map(EventIx))).collect();
            let mut state = states[before].clone();
            for (key, event) in &changes {
                match event {
                    Some(event) => state.insert(*key, *event),
                    None => state.remove(*key),
                };
            }
            let id = SnapshotId(before as u64);
            let record = Record::after(id, &changes, &state, &memory).unwrap();
            prop_assert_eq!(&Record::from_bytes(&record.to_bytes()).unwrap(), &record);
            let bytes = record.to_bytes();
            let beginning = &bytes[..bytes.len().min(40)];
            prop_assert_eq!(Record::parent_in(beginning).unwrap(), record.parent);
            memory.put(&record);
            states.push(state);
        }
        for (id, state) in states.iter().enumerate() {
            memory.read.set(0);
            let id = SnapshotId(id as u64);
            let depth = Record::load(id, &memory).unwrap().depth;
            memory.read.set(0);
            prop_assert_eq!(&read_state(id, &memory).unwrap(), state);
            prop_assert!(memory.read.get() <= log2(depth) + 1);
        }
        // What is not needed can go.
        let last = SnapshotId(states.len() as u64 - 1);
        let needed = needed_records(&[last], &memory).unwrap();
        memory.records.retain(|id, _| needed.contains(id));
        prop_assert_eq!(&read_state(last, &memory).unwrap(), states.last().unwrap());
    }

    #[test]
    fn bytes_from_elsewhere_are_refused_or_read(bytes in proptest::collection::vec(any::<u8>(), 0..40)) {
        let mut bytes = bytes;
        for marked in [false, true] {
            if marked {
                bytes.insert(0, 1);
            }
            if let Ok(record) = Record::from_bytes(&bytes) {
                prop_assert_eq!(record.to_bytes(), bytes.clone());
            }
        }
    }
}

/// 100,000 changes in a room of 10,000 members.
#[test]
fn a_long_history_is_small_and_quick_to_read() {
    let mut memory = Memory::default();
    let mut state: StateMap = (0..10_000).map(|i| (KeyIx(i), EventIx(i))).collect();
    let mut last = memory.put(&Record::root(&state));
    let first_bytes = memory.bytes();
    assert!(first_bytes < 40_000, "a whole state takes {first_bytes} bytes");
    let changes = 100_000;
    let mut sample = Vec::new();
    for step in 0..changes {
        let key = KeyIx(step * 7_919 % 10_000);
        let change = (key, Some(EventIx(10_000 + step)));
        state.insert(key, EventIx(10_000 + step));
        last = memory.put(&Record::after(last, &[change], &state, &memory).unwrap());
        if step % 9_973 == 0 {
            sample.push((last, state.clone()));
        }
    }
    let each = (memory.bytes() - first_bytes) / changes as usize;
    assert!(each < 60, "a change takes {each} bytes");
    for (id, state) in sample {
        memory.read.set(0);
        assert_eq!(read_state(id, &memory).unwrap(), state);
        assert!(memory.read.get() <= 18);
    }
}

#[test]
fn broken_stores_are_reported() {
    let mut memory = Memory::default();
    let state: StateMap = (0..100).map(|i| (KeyIx(i), EventIx(i))).collect();
    let root = memory.put(&Record::root(&state));
    let child = memory.put(&Record::after(root, &[(KeyIx(1), None)], &state, &memory).unwrap());
    let nowhere = SnapshotId(77);
    assert_eq!(read_state(nowhere, &memory), Err(SnapshotError::Missing(nowhere)));
    // A record that is its own parent must not be followed for ever.
    let looping = Record { depth: 1, parent: Some(child), whole: false, entries: vec![] };
    memory.records.insert(child, looping.to_bytes());
    assert_eq!(read_state(child, &memory), Err(SnapshotError::Misplaced(child)));
    assert!(Record::after(child, &[], &state, &memory).is_err());
    assert_eq!(needed_records(&[child], &memory), Ok(vec![child]));
    // Nor one at depth 0 that claims a parent.
    let looping = Record { depth: 0, parent: Some(child), whole: false, entries: vec![] };
    memory.records.insert(child, looping.to_bytes());
    assert!(matches!(read_state(child, &memory), Err(SnapshotError::Malformed(_))));
    memory.records.remove(&root);
    let record = Record { depth: 1, parent: Some(root), whole: false, entries: vec![] };
    memory.records.insert(child, record.to_bytes());
    assert_eq!(read_state(child, &memory), Err(SnapshotError::Missing(root)));
}

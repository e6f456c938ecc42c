//! How a table is to be kept on disk: what its keys and values are like, not how an engine deals
//! with it.

/// What is known about a table's rows.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Layout {
    /// What the values are like.
    pub(super) values: Values,
    /// How many bytes at the front of a key say which rows are read together; 0 if rows are not
    /// read in ranges, or not by a part of fixed size.
    pub(super) prefix_bytes: usize,
    /// Whether a row that is looked for is seldom there.
    pub(super) is_asked_in_vain: bool,
}

/// What a table's values are like.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Values {
    /// A few bytes or none. What compresses is what neighbouring keys share.
    Numbers,
    /// JSON and the like, which shrinks to a fraction, and of which old rows are seldom read.
    Text,
    /// Compressed already, hashes, or random.
    Incompressible,
}

impl Layout {
    /// Short values, single reads: what a table has that says nothing else.
    pub(crate) const NUMBERS: Self = Self::of(Values::Numbers);
    /// JSON and other text.
    pub(crate) const TEXT: Self = Self::of(Values::Text);
    /// What does not get smaller.
    pub(crate) const INCOMPRESSIBLE: Self = Self::of(Values::Incompressible);

    const fn of(values: Values) -> Self {
        Self { values, prefix_bytes: 0, is_asked_in_vain: false }
    }

    /// Rows are read in ranges within the first `bytes` bytes of the key (8 for one number): files
    /// without a row of that beginning are then not looked at. The beginning must be of fixed size,
    /// so not text, and no key of the table may be shorter.
    #[must_use]
    pub(crate) const fn prefix(self, bytes: usize) -> Self {
        Self { prefix_bytes: bytes, ..self }
    }

    /// Many rows, of which those that are looked for are seldom there: a filter in memory answers for
    /// the rows that are not in a file yet. It takes a fiftieth of the write buffer from the start.
    #[must_use]
    pub(crate) const fn asked_in_vain(self) -> Self {
        Self { is_asked_in_vain: true, ..self }
    }
}

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
    pub(crate) const NUMBERS: Self = Self { values: Values::Numbers, prefix_bytes: 0 };
    /// JSON and other text.
    pub(crate) const TEXT: Self = Self { values: Values::Text, prefix_bytes: 0 };
    /// What does not get smaller.
    pub(crate) const INCOMPRESSIBLE: Self =
        Self { values: Values::Incompressible, prefix_bytes: 0 };

    /// Rows are read in ranges within the first `bytes` bytes of the key (8 for one number): files
    /// without a row of that beginning are then not looked at. The beginning must be of fixed size,
    /// so not text, and no key of the table may be shorter.
    #[must_use]
    pub(crate) const fn prefix(self, bytes: usize) -> Self {
        Self { prefix_bytes: bytes, ..self }
    }
}

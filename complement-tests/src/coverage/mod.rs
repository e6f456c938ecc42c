//! What the tests really asked, and what was answered: a table by endpoint.
//!
//! While the variable [`DIRECTORY`] names a directory, the harness writes down every request that
//! goes either way ([`Exchange`]). `src/bin/coverage.rs` holds the records against the list of
//! the specification's endpoints ([`Endpoint`]).

mod endpoint;
mod record;
mod rules;
mod table;

pub use endpoint::Endpoint;
pub use record::{DIRECTORY, Exchange, Way, Who, read, record};
pub use rules::{read_verdicts, rules_table};
pub use table::{Gap, Table};

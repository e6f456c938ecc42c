//! The configuration a test gives its server.

use std::path::Path;

use toml::{Table, Value};

/// Settings by their name in the configuration file, dots for sections.
///
/// What a test does not set is chosen for tests: open registration, cheap
/// password hashes, no rate limits, a verbose log.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    table: Table,
}

impl Default for Config {
    fn default() -> Self {
        Self { table: Table::new() }
            .with("server_name", "complement.test")
            .with("registration.enabled", true)
            .with("registration.require_token", false)
            .with("registration.shared_secret", Self::SHARED_SECRET)
            .with("rate_limits.enabled", false)
            .with("password.argon2_memory_kib", 64)
            // Tests follow syncs: presence would wake them at any time.
            .with("presence.enabled", false)
            .with("log.level", "debug")
    }
}

impl Config {
    /// Secret by which the test servers let accounts be made.
    pub const SHARED_SECRET: &str = "complement";

    /// No file at all: everything is the server's own default.
    pub(crate) fn nothing() -> Self {
        Self { table: Table::new() }
    }

    /// `server_name`.
    pub(crate) fn server_name(&self) -> String {
        let name = self.table.get("server_name").and_then(Value::as_str);
        name.unwrap_or("localhost").to_owned()
    }

    pub(crate) fn is_nothing(&self) -> bool {
        self.table.is_empty()
    }

    /// Sets one key, such as `registration.enabled`.
    #[must_use]
    pub fn with(mut self, key: &str, value: impl Into<Value>) -> Self {
        let mut table = &mut self.table;
        let mut names = key.split('.').peekable();
        while let Some(name) = names.next() {
            if names.peek().is_none() {
                table.insert(name.to_owned(), value.into());
                break;
            }
            let section = table.entry(name).or_insert_with(|| Value::Table(Table::new()));
            table = section.as_table_mut().expect("a section is a table");
        }
        self
    }

    /// Adds a listener given as an inline table, such as `{ unix_socket = "s" }`.
    #[must_use]
    pub fn with_listener(mut self, listener: &str) -> Self {
        let table: Table = toml::from_str(&format!("listener = {listener}")).expect("valid TOML");
        let listener = table["listener"].clone();
        let listeners = self.table.entry("listener").or_insert_with(|| Value::Array(Vec::new()));
        listeners.as_array_mut().expect("listeners are an array").push(listener);
        self
    }

    /// The file for a server that keeps its data in `data_dir`.
    ///
    /// Unless the test said otherwise it listens on one port, the system's choice if 0.
    pub(crate) fn to_toml(&self, data_dir: &Path, port: u16) -> String {
        let mut file = self.clone();
        if !file.table.contains_key("data_dir") {
            file = file.with("data_dir", data_dir.to_string_lossy().into_owned());
        }
        if !file.table.contains_key("listener") {
            file = file.with_listener(&format!("{{ address = \"127.0.0.1:{port}\" }}"));
        }
        toml::to_string(&file.table).expect("a table becomes TOML")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_with_dots_become_sections() {
        let config = Config::nothing().with("a.b", 1).with("a.c", true).with("d", "e");
        let expected = "[a]\nb = 1\nc = true\n";
        let file = config.to_toml(Path::new("/data"), 0);
        assert!(file.contains(expected), "{file}");
        assert!(file.contains("d = \"e\""), "{file}");
        assert!(file.contains("address = \"127.0.0.1:0\""), "{file}");
    }
}

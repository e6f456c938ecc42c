//! Registration files: what an application service is, which users and aliases are its own.
//!
//! Spec: <https://spec.matrix.org/v1.19/application-service-api/#registration>

use std::path::{Path, PathBuf};

use ruma::{OwnedUserId, ServerName, UserId};
use serde::Deserialize;
use url::Url;

use super::namespace::{Entry, Namespace};
use crate::config::Secret;

/// The largest registration file.
const MAX_FILE_BYTES: u64 = 1 << 20;
/// The longest ID, and the longest name of a protocol.
const MAX_ID_BYTES: usize = 255;
/// The shortest token: a shorter one can be guessed.
const MIN_TOKEN_BYTES: usize = 8;
/// How many application services there may be: who is interested in what is a number of as many
/// bits.
pub(super) const MAX_SERVICES: usize = 128;

/// An application service as its file describes it.
#[expect(clippy::struct_excessive_bools, reason = "the switches that the file has")]
#[derive(Clone, Debug)]
pub(crate) struct Registration {
    /// Its unique name.
    pub(crate) id: String,
    /// Where it listens; none: it only asks, and is told nothing.
    pub(crate) url: Option<Url>,
    /// By which it proves who it is.
    pub(super) as_token: Secret,
    /// By which the server does.
    pub(super) hs_token: Secret,
    /// The user it is when it says nothing else.
    pub(crate) bot: OwnedUserId,
    /// Users.
    pub(super) users: Namespace,
    /// Room aliases.
    pub(super) aliases: Namespace,
    /// Rooms.
    pub(super) rooms: Namespace,
    /// Whether limits apply to its users; never to its bot.
    pub(crate) rate_limited: bool,
    /// Networks it knows.
    pub(crate) protocols: Vec<String>,
    /// Whether it is told of typing, receipts and presence, and gets messages to devices.
    pub(crate) receives_ephemeral: bool,
    /// Whether it knows that by the name of the specification, or by an older one only.
    pub(crate) stable_ephemeral: bool,
    /// Whether it is told of device lists and key counts.
    pub(crate) encrypts: bool,
    /// It manages devices itself and needs no access tokens.
    pub(crate) manages_devices: bool,
}

/// The file, with the names that are in use.
#[derive(Deserialize)]
struct File {
    id: String,
    #[serde(default)]
    url: Option<String>,
    as_token: String,
    hs_token: String,
    sender_localpart: String,
    namespaces: Namespaces,
    #[serde(default)]
    rate_limited: Option<bool>,
    #[serde(default)]
    protocols: Option<Vec<String>>,
    #[serde(default)]
    receive_ephemeral: Option<bool>,
    #[serde(default, rename = "de.sorunome.msc2409.push_ephemeral")]
    push_ephemeral: Option<bool>,
    #[serde(default, rename = "org.matrix.msc3202")]
    msc3202: Option<bool>,
    #[serde(default, rename = "io.element.msc4190")]
    msc4190: Option<bool>,
}

#[derive(Default, Deserialize)]
struct Namespaces {
    #[serde(default)]
    users: Option<Vec<Entry>>,
    #[serde(default)]
    aliases: Option<Vec<Entry>>,
    #[serde(default)]
    rooms: Option<Vec<Entry>>,
}

/// What is wrong with registration files: a line for each, which begins with the key of the
/// configuration and names the file.
#[derive(Debug, thiserror::Error)]
#[error("{}", .0.join("\n"))]
pub(crate) struct BadRegistrations(pub(crate) Vec<String>);

/// Reads the files.
///
/// # Errors
/// [`BadRegistrations`] with everything that is wrong with them and between them.
pub(crate) fn read_all(
    files: &[PathBuf],
    server_name: &ServerName,
) -> Result<Vec<Registration>, BadRegistrations> {
    let mut problems = Vec::new();
    let mut found = Vec::new();
    for (index, file) in files.iter().enumerate() {
        match read(file, server_name) {
            Ok(registration) => found.push((file.as_path(), registration)),
            Err(reasons) => problems.extend(reasons.into_iter().map(|reason| {
                format!("appservice.registrations[{index}]: {}: {reason}", file.display())
            })),
        }
    }
    if files.len() > MAX_SERVICES {
        problems.push(format!("appservice.registrations: at most {MAX_SERVICES} files"));
    }
    problems.extend(conflicts(&found));
    if problems.is_empty() {
        Ok(found.into_iter().map(|(_, registration)| registration).collect())
    } else {
        Err(BadRegistrations(problems))
    }
}

fn read(path: &Path, server_name: &ServerName) -> Result<Registration, Vec<String>> {
    let unreadable = |error: std::io::Error| vec![format!("cannot be read: {error}")];
    if std::fs::metadata(path).map_err(unreadable)?.len() > MAX_FILE_BYTES {
        return Err(vec![format!("is larger than {MAX_FILE_BYTES} bytes")]);
    }
    let text = std::fs::read_to_string(path).map_err(unreadable)?;
    parse(&text, server_name)
}

/// A registration from YAML.
fn parse(text: &str, server_name: &ServerName) -> Result<Registration, Vec<String>> {
    let file: File = serde_saphyr::from_str(text)
        .map_err(|error| vec![format!("is no registration: {}", first_line(&error.to_string()))])?;
    let mut problems = Vec::new();
    let name = |text: &str| {
        !text.is_empty() && text.len() <= MAX_ID_BYTES && !text.contains(char::is_control)
    };
    if !name(&file.id) {
        problems.push(format!("id must have 1 to {MAX_ID_BYTES} bytes, no control characters"));
    }
    for (key, token) in [("as_token", &file.as_token), ("hs_token", &file.hs_token)] {
        let printable = |byte: u8| byte.is_ascii_graphic();
        if token.len() < MIN_TOKEN_BYTES || !token.bytes().all(printable) {
            let least = MIN_TOKEN_BYTES;
            problems.push(format!("{key} must have at least {least} printable ASCII characters"));
        }
    }
    let protocols = file.protocols.unwrap_or_default();
    if !protocols.iter().all(|protocol| name(protocol)) {
        problems.push(format!("protocols must have names of 1 to {MAX_ID_BYTES} bytes"));
    }
    let url = match file.url.as_deref().map(str::trim).filter(|url| !url.is_empty()) {
        None => None,
        Some(url) => match url.parse::<Url>() {
            Ok(url) if matches!(url.scheme(), "http" | "https") && url.has_host() => Some(url),
            _ => {
                problems.push("url must begin with http:// or https://".to_owned());
                None
            }
        },
    };
    let bot = UserId::parse(format!("@{}:{server_name}", file.sender_localpart))
        .ok()
        .filter(|bot| !file.sender_localpart.is_empty() && bot.as_str().len() <= MAX_ID_BYTES);
    if bot.is_none() {
        problems.push("sender_localpart makes no user ID".to_owned());
    }
    let mut namespace = |kind: &str, entries: Option<Vec<Entry>>| {
        Namespace::new(entries.unwrap_or_default())
            .map_err(|why| problems.push(format!("namespaces.{kind}: {why}")))
            .unwrap_or_default()
    };
    let users = namespace("users", file.namespaces.users);
    let aliases = namespace("aliases", file.namespaces.aliases);
    let rooms = namespace("rooms", file.namespaces.rooms);
    let Some(bot) = bot.filter(|_| problems.is_empty()) else { return Err(problems) };
    Ok(Registration {
        id: file.id,
        url,
        as_token: file.as_token.as_str().into(),
        hs_token: file.hs_token.as_str().into(),
        bot,
        users,
        aliases,
        rooms,
        rate_limited: file.rate_limited.unwrap_or(true),
        protocols,
        receives_ephemeral: file.receive_ephemeral == Some(true)
            || file.push_ephemeral == Some(true),
        stable_ephemeral: file.receive_ephemeral == Some(true),
        encrypts: file.msc3202 == Some(true),
        manages_devices: file.msc4190 == Some(true),
    })
}

/// What several files claim that only one can have.
fn conflicts(found: &[(&Path, Registration)]) -> Vec<String> {
    let mut problems = Vec::new();
    for (index, (path, one)) in found.iter().enumerate() {
        for (earlier, other) in found.iter().take(index) {
            problems.extend(claimed_by_both(one, other).into_iter().map(|what| {
                let (earlier, path) = (earlier.display(), path.display());
                format!("appservice.registrations: {earlier} and {path} both claim {what}")
            }));
        }
    }
    problems
}

fn claimed_by_both(one: &Registration, other: &Registration) -> Vec<String> {
    let mut both = Vec::new();
    if one.id == other.id {
        both.push(format!("the id {:?}", one.id));
    }
    if one.as_token == other.as_token {
        both.push("one as_token".to_owned());
    }
    for (bot, theirs) in [(&one.bot, &other.users), (&other.bot, &one.users)] {
        if one.bot == other.bot || theirs.is_exclusive(bot.as_str()) {
            both.push(format!("the user {bot}"));
        }
    }
    for (kind, ours, theirs) in [
        ("users", &one.users, &other.users),
        ("aliases", &one.aliases, &other.aliases),
        ("rooms", &one.rooms, &other.rooms),
    ] {
        let same = ours.exclusive().filter(|regex| theirs.has_exclusive(regex));
        both.extend(same.map(|regex| format!("the exclusive namespaces.{kind} {regex:?}")));
    }
    both.dedup();
    both
}

fn first_line(text: &str) -> &str {
    text.lines().next().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use ruma::server_name;

    use super::*;

    const IRC: &str = r##"
id: "IRC Bridge"
url: "http://127.0.0.1:1234"
as_token: "30c05ae90a248a4188e620216fa72e349803310ec83e2a77b34fe90be6081f46"
hs_token: "312df522183efd404ec1cd22d2ffa4bbc76a8c1ccf541dd692eef281356bb74e"
sender_localpart: "_irc_bot" # Will result in @_irc_bot:example.org
namespaces:
  users:
    - exclusive: true
      regex: "@_irc_bridge_.*"
  aliases:
    - exclusive: false
      regex: "#_irc_bridge_.*"
  rooms: []
"##;

    fn parsed(text: &str) -> Result<Registration, Vec<String>> {
        parse(text, server_name!("example.org"))
    }

    #[test]
    fn the_example_of_the_specification_is_read() {
        let irc = parsed(IRC).unwrap();
        assert_eq!(irc.id, "IRC Bridge");
        assert_eq!(irc.url.unwrap().as_str(), "http://127.0.0.1:1234/");
        assert_eq!(irc.bot, "@_irc_bot:example.org");
        assert!(irc.users.is_exclusive("@_irc_bridge_x:example.org"));
        assert!(!irc.aliases.is_exclusive("#_irc_bridge_x:example.org"));
        assert!(irc.rate_limited && !irc.receives_ephemeral && !irc.encrypts);
    }

    #[test]
    fn old_and_new_names_of_a_switch_may_stand_together() {
        let both = "receive_ephemeral: true\nde.sorunome.msc2409.push_ephemeral: true\n\
                    org.matrix.msc3202: true\nio.element.msc4190: true\nrate_limited: false\n\
                    url: null\n";
        let bridge = parsed(&(IRC.replace("url: \"http://127.0.0.1:1234\"", "") + both)).unwrap();
        assert!(bridge.receives_ephemeral && bridge.encrypts && bridge.manages_devices);
        assert!(!bridge.rate_limited && bridge.url.is_none());
        let old = IRC.to_owned() + "de.sorunome.msc2409.push_ephemeral: true\n";
        assert!(parsed(&old).unwrap().receives_ephemeral);
    }

    #[test]
    fn everything_that_is_wrong_is_named() {
        let wrong = IRC
            .replace("IRC Bridge", "")
            .replace("http://127", "ftp://127")
            .replace("30c05ae90a248a4188e620216fa72e349803310ec83e2a77b34fe90be6081f46", "short")
            .replace("@_irc_bridge_.*", "@(");
        let problems = parsed(&wrong).unwrap_err();
        for what in ["id must", "url must", "as_token must", "namespaces.users: \"@(\""] {
            assert!(problems.iter().any(|one| one.starts_with(what)), "{what}: {problems:?}");
        }
        assert!(parsed("id: [").unwrap_err()[0].starts_with("is no registration"));
        assert!(parsed("id: x").unwrap_err()[0].contains("missing field"));
    }

    #[test]
    fn files_that_claim_the_same_are_both_named() {
        let (a, b) = (Path::new("a.yaml"), Path::new("b.yaml"));
        let found = [(a, parsed(IRC).unwrap()), (b, parsed(IRC).unwrap())];
        let problems = conflicts(&found);
        for what in
            ["the id", "one as_token", "the user @_irc_bot", "the exclusive namespaces.users"]
        {
            let named = |one: &String| one.contains("a.yaml and b.yaml") && one.contains(what);
            assert_eq!(problems.iter().filter(|one| named(one)).count(), 1, "{what}: {problems:?}");
        }
        let apart = IRC
            .replace("IRC Bridge", "other")
            .replace("30c0", "41d1")
            .replace("\"_irc_bot\"", "\"_irc_bridge_bot\"")
            .replace("@_irc_bridge_.*", "@_other_.*");
        let problems = conflicts(&[(a, parsed(IRC).unwrap()), (b, parsed(&apart).unwrap())]);
        assert_eq!(problems.len(), 1, "{problems:?}");
        assert!(problems[0].contains("the user @_irc_bridge_bot:example.org"));
    }
}

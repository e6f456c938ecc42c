use std::io::Write as _;

use super::*;

fn load(file: &str, environment: &[(&str, &str)]) -> Result<Config, String> {
    let mut path = tempfile::NamedTempFile::new().unwrap();
    path.write_all(file.as_bytes()).unwrap();
    Config::load(Some(path.path()), variables(environment)).map_err(|error| error.to_string())
}

fn load_environment(environment: &[(&str, &str)]) -> Result<Config, String> {
    Config::load(None, variables(environment)).map_err(|error| error.to_string())
}

fn variables(pairs: &[(&str, &str)]) -> Vec<(OsString, OsString)> {
    pairs.iter().map(|(name, text)| (name.into(), text.into())).collect()
}

/// The reference without what cannot stand together in one working configuration.
fn reference_config() -> Config {
    load(REFERENCE, &[]).unwrap()
}

#[test]
fn the_reference_is_a_valid_file_and_has_every_key() {
    let written = Value::try_from(reference_config()).unwrap();
    let known = reference::table();
    assert_eq!(reference::unknown_keys(written.as_table().unwrap(), &known), Vec::<String>::new());

    // And the other way round: nothing in it is left out of the types.
    let mut in_types = Vec::new();
    let mut merged = written.as_table().unwrap().clone();
    let listeners: Table = merged["listener"]
        .as_array()
        .unwrap()
        .iter()
        .flat_map(|entry| entry.as_table().unwrap().clone())
        .collect();
    merged.insert("listener".into(), Value::Array(vec![Value::Table(listeners)]));
    reference::every_key(&merged, "", &mut |key| in_types.push(key.to_owned()));
    let mut in_reference = Vec::new();
    reference::every_key(&known, "", &mut |key| in_reference.push(key.to_owned()));
    in_types.sort();
    in_reference.sort();
    assert_eq!(in_types, in_reference);
}

#[test]
fn the_reference_shows_the_defaults() {
    fn compare(defaults: &Table, shown: &Table, place: &str) {
        for (key, default) in defaults {
            let place = reference::join(place, key);
            match (default, &shown[key]) {
                (Value::Table(default), Value::Table(shown)) => compare(default, shown, &place),
                (Value::Array(_), _) => {}
                (default, shown) => assert_eq!(default, shown, "{place}"),
            }
        }
    }
    let defaults = Value::try_from(Config::default()).unwrap();
    compare(defaults.as_table().unwrap(), &reference::table(), "");
}

#[test]
fn without_a_file_accounts_can_be_made_with_a_token() {
    let config = load_environment(&[]).unwrap();
    assert!(config.registration.enabled && config.registration.require_token);
    assert_eq!(config.server_name, "localhost");
    assert_eq!(config.listener[0].address.unwrap().to_string(), "127.0.0.1:8008");
}

#[test]
fn with_a_file_accounts_can_only_be_made_if_it_says_so() {
    assert!(!load("", &[]).unwrap().registration.enabled);
    assert!(load("registration.enabled = true", &[]).unwrap().registration.enabled);
}

#[test]
fn an_unknown_key_is_refused_with_the_nearest_known_one() {
    for (file, said) in [
        ("sever_name = 'a'", "unknown key `sever_name`; the nearest known one is `server_name`"),
        (
            "[registration]\nenable = true",
            "`registration.enable`; the nearest known one is `registration.enabled`",
        ),
        (
            "[[listener]]\naddress='127.0.0.1:1'\n[[listener]]\nadress = ''",
            "`listener[1].adress`; the nearest known one is `listener.address`",
        ),
        ("max_upload_bytes = 5", "`media.max_upload_bytes`"),
        (
            "[log]\nformat='json'\n[loggs]\nlevel='info'",
            "unknown key `loggs`; the nearest known one is `log`",
        ),
    ] {
        let error = load(file, &[]).unwrap_err();
        assert!(error.contains(said), "{file}: {error}");
    }
}

#[test]
fn every_unknown_key_is_told_at_once() {
    let error = load("a_b = 1\n[media]\nc_d = 2", &[("MYELIN_LOG__LEVLE", "info")]).unwrap_err();
    assert_eq!(error.lines().count(), 3, "{error}");
}

#[test]
fn a_wrong_type_names_the_key() {
    for (file, key) in [
        ("[registration]\nenabled = 'yes'", "registration.enabled: "),
        ("[[listener]]\naddress = 'here'", "listener[0].address: "),
        ("[proxies]\ntrusted = ['::1', 'nobody']", "proxies.trusted[1]: "),
        ("[media]\nmax_upload_bytes = -1", "media.max_upload_bytes: "),
        ("server_name = 'not a name'", "server_name: "),
        ("[log]\nformat = 'xml'", "log.format: "),
        ("[smtp]\nhost = 'mail'", "smtp: missing field `from`"),
        ("registration = 5", "registration: "),
        ("listener = 5", "listener: "),
    ] {
        let error = load(file, &[]).unwrap_err();
        assert!(error.starts_with(key), "{file}: {error}");
    }
}

#[test]
fn broken_toml_names_the_line() {
    let error = load("server_name = 'a'\n[log\n", &[]).unwrap_err();
    assert!(error.contains("is not valid TOML") && error.contains("line 2"), "{error}");
}

#[test]
fn a_missing_file_is_named() {
    let error = Config::load(Some(Path::new("/nowhere/myelin.toml")), []).unwrap_err();
    assert!(error.to_string().contains("/nowhere/myelin.toml"));
}

#[test]
fn the_environment_wins_over_the_file() {
    let config = load(
        "server_name = 'a.example'\n[[listener]]\naddress = '127.0.0.1:1'",
        &[
            ("MYELIN_SERVER_NAME", "b.example"),
            ("MYELIN_LISTENER__0__ADDRESS", "127.0.0.1:2"),
            ("MYELIN_LISTENER__1__UNIX_SOCKET", "/run/a.sock"),
            ("MYELIN_REGISTRATION__ENABLED", "true"),
            ("MYELIN_REGISTRATION__SHARED_SECRET", "12345"),
            ("MYELIN_RATE_LIMITS__LOGIN_ACCOUNT__BURST", "7"),
            ("MYELIN_FEDERATION__TRUSTED_KEY_SERVERS__0", "c.example"),
            ("MYELIN_PROXIES__TRUSTED", "['::1', 'unix']"),
            ("MYELIN_WELL_KNOWN__CLIENT", "https://a.example"),
            ("MYELIN_WELL_KNOWN__CLIENT_EXTRA", "{ 'x.y' = { z = 1 } }"),
            ("MYELIN_LISTENER__0__TLS__CERTIFICATE", "c.pem"),
            ("MYELIN_LISTENER__0__TLS__PRIVATE_KEY", "k.pem"),
            ("PATH", "/bin"),
        ],
    )
    .unwrap();
    assert_eq!(config.server_name, "b.example");
    assert_eq!(config.listener[0].address.unwrap().port(), 2);
    assert_eq!(config.listener[0].tls.as_ref().unwrap().private_key, Path::new("k.pem"));
    assert_eq!(config.listener[1].unix_socket.as_deref(), Some(Path::new("/run/a.sock")));
    assert!(config.registration.enabled);
    assert_eq!(config.registration.shared_secret.unwrap().expose(), "12345");
    assert_eq!(config.rate_limits.login_account.burst, 7);
    assert_eq!(config.federation.trusted_key_servers[0], "c.example");
    assert_eq!(config.proxies.trusted.len(), 2);
    assert_eq!(config.well_known.client_extra["x.y"]["z"], 1);
}

#[test]
fn a_wrong_variable_is_named_with_the_right_one() {
    for (name, text, said) in [
        ("MYELIN_LISTNER__0__ADDRESS", "", "the nearest known one is `MYELIN_LISTENER__ADDRESS`"),
        ("MYELIN_SERVERNAME", "a", "the nearest known one is `MYELIN_SERVER_NAME`"),
        ("MYELIN_LOG__LEVEL__X", "a", "unknown key"),
        ("MYELIN_LISTENER__5__ADDRESS", "127.0.0.1:1", "has 0 entries"),
        ("MYELIN_LISTENER__X__ADDRESS", "127.0.0.1:1", "an index is expected where `X` stands"),
        ("MYELIN_REGISTRATION__ENABLED", "yes", "`registration.enabled` must be true or false"),
        ("MYELIN_MEDIA__MAX_UPLOAD_BYTES", "1e3", "must be a whole number"),
        ("MYELIN_MEDIA", "5", "`media` must be a table"),
        ("MYELIN_PROXIES__TRUSTED__0__X", "5", "unknown key"),
    ] {
        let error = load_environment(&[(name, text)]).unwrap_err();
        assert!(error.starts_with(name) && error.contains(said), "{error}");
    }
}

#[test]
fn a_variable_that_is_no_text_is_named() {
    use std::os::unix::ffi::OsStringExt as _;

    let odd = OsString::from_vec(vec![0xff]);
    let error = Config::load(None, [("MYELIN_DATA_DIR".into(), odd.clone())]).unwrap_err();
    assert_eq!(error.to_string(), "MYELIN_DATA_DIR: not valid UTF-8");
    Config::load(None, [("HOME".into(), odd.clone()), (odd, "x".into())]).unwrap();
}

/// Kubernetes sets such names for a service that is called like the server.
#[test]
fn variables_of_others_are_left_alone() {
    load_environment(&[
        ("MYELIN_SERVICE_HOST", "10.0.0.1"),
        ("MYELIN_PORT_8008_TCP", "tcp://10.0.0.1:8008"),
        ("MYELIN_CONFIG", "myelin.toml"),
        ("MYELIN_CACHE", "/tmp"),
    ])
    .unwrap();
}

#[test]
fn values_that_cannot_be_are_refused() {
    for (file, said) in [
        ("listener = []", "listener: at least one"),
        ("[[listener]]", "listener[0]: needs `address` or `unix_socket`"),
        ("[[listener]]\naddress='127.0.0.1:1'\nunix_socket='a'", "listener[0]: has both"),
        ("[[listener]]\nunix_socket='a'\ntls={certificate='c',private_key='k'}", "listener[0].tls"),
        ("[[listener]]\nunix_socket='a'\nunix_socket_mode='rw'", "listener[0].unix_socket_mode"),
        (
            "[[listener]]\naddress='127.0.0.1:1'\n[[listener]]\naddress='127.0.0.1:1'",
            "listener[1]: listens where listener[0] does",
        ),
        ("memory.budget_bytes = 1", "memory.budget_bytes"),
        ("password.argon2_memory_kib = 1", "password.argon2_memory_kib"),
        ("password.argon2_iterations = 0", "password.argon2_iterations"),
        ("rate_limits.login_account = { burst = 0, per_minute = 1 }", "rate_limits.login_account"),
        ("well_known.client = 'matrix.example.org'", "well_known.client: must be an http"),
        ("well_known.server = 'https://matrix.example.org'", "well_known.server"),
        ("well_known.client_extra = { a = 1 }", "well_known.client: needed"),
        ("turn.uris = ['turn:a']", "turn: "),
        ("smtp = { host = 'a', from = 'nobody' }", "smtp.from"),
        ("smtp = { host = 'a', from = 'a@b.c', username = 'a' }", "smtp: `username`"),
        ("email_notifications.first_pause_s = 90000", "email_notifications.longest_pause_s"),
        ("email_notifications.delay_s = 1000000000", "email_notifications: times"),
        ("email_notifications.client_url = 'app'", "email_notifications.client_url"),
        ("registration.shared_secret = ''", "registration.shared_secret: must not be empty"),
        ("registration.tokens = ['ä']", "registration.tokens[0]"),
        ("log.level = 'info,a=loud'", "log.level"),
        ("log.level = 'inof'", "log.level: `inof` is no level"),
        ("data_dir = ''", "data_dir"),
        (
            "listener = [{ address = '[::]:1' }]\nmetrics.address = '[::]:1'",
            "metrics.address: listener[0]",
        ),
    ] {
        let error = load(file, &[]).unwrap_err();
        assert!(error.contains(said), "{file}: {error}");
    }
}

#[test]
fn secrets_are_masked() {
    let config = load(
        "registration.shared_secret = 'open sesame'\nregistration.tokens = ['sesame']\n\
         turn.shared_secret = 'sesame'\nturn.password = 'sesame'\n\
         smtp = { host = 'a', from = 'a@b.c', username = 'u', password = 'sesame' }",
        &[],
    )
    .unwrap();
    let printed = config.to_masked_toml().unwrap();
    assert!(!printed.contains("sesame"), "{printed}");
    assert!(!format!("{config:?}").contains("sesame"));
    assert_eq!(config.registration.shared_secret.unwrap().expose(), "open sesame");
}

#[test]
fn what_check_prints_is_a_configuration_again() {
    let mut config = reference_config();
    config.registration.tokens.clear();
    let printed = config.to_masked_toml().unwrap();
    let again = load(&printed, &[]).unwrap();
    assert_eq!(again.to_masked_toml().unwrap(), printed);
}

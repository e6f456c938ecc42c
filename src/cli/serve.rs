//! `myelin serve`: from a configuration to a running server, and to its end.

use std::{
    error::Error,
    path::{Path, PathBuf},
    pin::pin,
    sync::Arc,
    time::Duration,
};

use tokio::signal::unix::{Signal, SignalKind, signal};
use tracing::{error, info};

use super::with_causes;
use crate::{
    clock::{Clock, Random},
    config::Config,
    http::{App, CertificateReloader, Limits, Listeners},
    server::Server,
    shutdown::Shutdown,
    storage::{Db, Settings},
    telemetry::{logs, metrics, process, storage},
};

/// What is left in the background, once everything was answered, has this long to end.
const BACKGROUND_GRACE: Duration = Duration::from_secs(1);

/// The second signal to stop came before the server had stopped.
#[derive(Debug, thiserror::Error)]
#[error("stopped at once, as the second signal asked; requests that were running got no answer")]
struct Impatient;

/// Serves until SIGTERM or SIGINT.
pub(super) fn run(path: Option<&Path>) -> Result<(), Box<dyn Error>> {
    let config = super::load(path)?;
    let level = logs::start(&config.log)?;
    let limits =
        Limits::new(config.media.max_upload_bytes, connections(process::allow_open_files()));
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let reload = Reload { path: path.map(Path::to_owned), level };
    let done = runtime.block_on(serve(&config, reload, limits));
    runtime.shutdown_timeout(BACKGROUND_GRACE);
    done
}

/// Three quarters of the files that may be open; the rest is for the database and requests of the
/// server's own.
fn connections(open_files: u64) -> usize {
    usize::try_from(open_files / 4 * 3).unwrap_or(usize::MAX).clamp(64, 100_000)
}

async fn serve(config: &Config, reload: Reload, limits: Limits) -> Result<(), Box<dyn Error>> {
    let mut signals = Signals::listen()?;
    // Before the database, which may take its time: a port in use is told at once.
    let listeners = Listeners::open(&config.listener).await?;
    let metrics_listener = match config.metrics.address {
        Some(address) => Some((Listeners::open_metrics(address).await?, metrics::start()?)),
        None => None,
    };

    let settings = Settings::new(config.server_name.clone(), config.memory.budget_bytes);
    let db = Db::open(&config.data_dir, &settings).await?;
    let shutdown = Shutdown::new();
    let server =
        Server::start(config, db.clone(), Clock::System, Random::system(), shutdown.stopping())
            .await?;
    let app = App::new(server.router(), config, limits.clone(), shutdown.stopping());

    let certificates = listeners.certificates();
    let version = env!("CARGO_PKG_VERSION");
    info!(version, server_name = %config.server_name, "started");
    if let Some(token) = server.first_registration_token().await? {
        eprintln!("registration token, shown this once: {token}");
    }
    for place in listeners.places() {
        eprintln!("listening on {place}");
    }
    for place in metrics_listener.iter().flat_map(|(listener, _)| listener.places()) {
        eprintln!("listening on {place}/metrics");
    }
    let measuring = async {
        let Some((listener, collection)) = metrics_listener else { return };
        let started_at = Duration::from_millis(Clock::System.now_ms());
        let of_process: metrics::Gauges = Arc::new(move || process::set_gauges(started_at));
        let of_storage: metrics::Gauges = Arc::new({
            let db = db.clone();
            move || storage::set_gauges(&db)
        });
        let routes = metrics::routes(collection.clone(), vec![of_process, of_storage]);
        let app = App::plain(routes, limits, shutdown.stopping());
        tokio::select! {
            () = listener.serve(app) => {}
            () = metrics::upkeep(collection) => {}
        }
    };

    let mut serving = pin!(async { tokio::join!(listeners.serve(app), measuring) });
    loop {
        tokio::select! {
            _ = serving.as_mut() => break,
            asked = signals.next() => match asked {
                Asked::Reload => {
                    if let Some(config) = reload.run(&certificates) {
                        reload_appservices(&server, &config).await;
                    }
                }
                Asked::Stop if shutdown.has_started() => return Err(Impatient.into()),
                Asked::Stop => {
                    info!("stopping: no new connections, requests that are running are answered");
                    shutdown.start();
                }
            }
        }
    }
    db.close().await;
    info!("stopped");
    Ok(())
}

/// What an operator wants of a running server.
enum Asked {
    Stop,
    Reload,
}

struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
}

impl Signals {
    fn listen() -> std::io::Result<Self> {
        // A file that would grow above a limit is an error of that file, not the end of the server.
        drop(signal(SignalKind::from_raw(rustix::process::Signal::XFSZ.as_raw()))?);
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hangup: signal(SignalKind::hangup())?,
        })
    }

    async fn next(&mut self) -> Asked {
        tokio::select! {
            _ = self.terminate.recv() => Asked::Stop,
            _ = self.interrupt.recv() => Asked::Stop,
            _ = self.hangup.recv() => Asked::Reload,
        }
    }
}

async fn reload_appservices(server: &Server, config: &Config) {
    match server.reload_appservices(config).await {
        Ok(()) => {
            let files = config.appservice.registrations.len();
            info!(files, "registrations of application services read again");
        }
        Err(error) => {
            error!(error = with_causes(&error), "registrations not read again");
        }
    }
}

/// SIGHUP: certificates and the log level are taken from the configuration anew.
struct Reload {
    path: Option<PathBuf>,
    level: logs::LogLevel,
}

impl Reload {
    /// Whatever is wrong is logged, and stays as it was. The configuration, if it can be read.
    fn run(&self, certificates: &CertificateReloader) -> Option<Config> {
        let config = match super::load(self.path.as_deref()) {
            Ok(config) => config,
            Err(error) => {
                error!(error = with_causes(&error), "configuration not read again");
                return None;
            }
        };
        let failed = certificates.reload(&config.listener);
        for error in &failed {
            error!(error = with_causes(error), "certificate not read again");
        }
        if let Err(error) = self.level.change(&config.log.level) {
            error!(error = with_causes(&error), "log level not changed");
        } else if failed.is_empty() {
            info!(level = config.log.level, "certificates and log level read again");
        }
        Some(config)
    }
}

//! Starting and stopping. Caches are filled by every replica; only the one that holds the Lease looks at objects, so that a failover costs
//! no list.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, RwLock};
use std::time::Duration;

use futures::{StreamExt, TryStreamExt};
use kube::Client;
use kube::client::ClientBuilder;
use kube::runtime::controller::{self, Config};
use kube::runtime::reflector::store;
use kube::runtime::{applier, watcher};
use tokio::sync::Notify;
use tokio::task::JoinSet;

use super::context::{Context, Written, key};
use super::events::Events;
use super::lease::Elector;
use super::metrics::Metrics;
use super::readiness::Readiness;
use super::triggers::Triggers;
use super::watches::{CACHES, Watches};
use super::{line, reconcile, server};
use crate::operator::names::CONTROLLER;
use crate::operator::settings::OperatorArgs;

/// The most that one look at an object may take.
const RECONCILE_TIMEOUT: Duration = Duration::from_secs(30);

/// The most that is waited for looks in progress when stopping; Kubernetes kills after 30 s.
const DRAIN: Duration = Duration::from_secs(20);

/// Why the operator ended.
#[derive(Debug, thiserror::Error)]
pub enum OperatorError {
    /// No API server to talk to.
    #[error("cannot reach the API server: {0}. Run in a cluster, or set KUBECONFIG.")]
    Client(#[source] kube::Error),
    /// The address is taken.
    #[error("cannot listen on {address}: {source}. Give another address with --listen.")]
    Listen {
        /// The address.
        address: std::net::SocketAddr,
        /// Why not.
        source: std::io::Error,
    },
    /// The process cannot do its work.
    #[error("cannot start: {0}. This is a fault of the machine or of its limits.")]
    Start(#[source] std::io::Error),
    /// Another replica may lead now, so this one must not go on.
    #[error("the Lease was lost; the process ends so that it starts afresh")]
    LeaseLost,
    /// A watch ended, which it never should.
    #[error("a watch ended; the process ends so that it starts afresh")]
    WatchEnded,
}

/// Runs until it is told to stop.
///
/// # Errors
/// [`OperatorError`]; the process is then to end, and its pod starts again.
pub fn run(args: &OperatorArgs) -> Result<(), OperatorError> {
    logging(args.log_text);
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().map_err(OperatorError::Start)?;
    let ended = runtime.block_on(operate(args));
    runtime.shutdown_timeout(Duration::from_secs(1));
    ended
}

async fn operate(args: &OperatorArgs) -> Result<(), OperatorError> {
    let metrics = Metrics::new(args.concurrency);
    let config = kube::Config::infer().await.map_err(|error| OperatorError::Client(kube::Error::InferConfig(error)))?;
    let client = ClientBuilder::try_from(config).map_err(OperatorError::Client)?.with_layer(&metrics.requests).build();
    let listener =
        server::bind(args.listen).await.map_err(|source| OperatorError::Listen { address: args.listen, source })?;
    let (reader, writer) = store();
    let context = Arc::new(Context {
        client: client.clone(),
        store: reader,
        jobs: super::children::Children::default(),
        pods: super::children::Children::default(),
        nodes: (!args.no_nodes && args.namespaces.is_empty()).then(RwLock::default),
        priorities: RwLock::default(),
        // With a cap, nobody starts before the queue was computed once.
        turns: RwLock::new((args.caps() != crate::operator::queue::Caps::default()).then(HashMap::new)),
        defaults: args.defaults(),
        events: Events::new(client.clone(), &args.identity()),
        metrics,
        triggers: Triggers::new(args.concurrency),
        asked: Mutex::default(),
        written: Written::default(),
        failures: Mutex::default(),
        unreadable: tokio::sync::Mutex::default(),
        timeout: RECONCILE_TIMEOUT,
    });
    let readiness = Arc::new(Readiness::new(&CACHES));
    let changed = Arc::new(Notify::new());
    let watches = Arc::new(Watches {
        context: context.clone(),
        readiness: readiness.clone(),
        changed: changed.clone(),
        namespaces: args.namespaces.clone(),
    });
    let mut tasks = JoinSet::new();
    tasks.spawn(server::serve(listener, context.clone(), readiness.clone()));
    tasks.spawn(line::keep(context.clone(), args.caps(), changed));
    let w = watches.clone();
    tasks.spawn(async move { w.bakejobs(writer).await });
    let w = watches.clone();
    tasks.spawn(async move { w.jobs().await });
    let w = watches.clone();
    tasks.spawn(async move { w.pods().await });
    let w = watches.clone();
    tasks.spawn(async move { w.nodes().await });
    tasks.spawn(async move { watches.priorities().await });
    tracing::info!(identity = args.identity(), "started");

    tokio::select! {
        ended = lead(args, client, &context, &readiness) => ended,
        _ = tasks.join_next() => Err(OperatorError::WatchEnded),
    }
}

/// Waits for the Lease, looks at objects while it is held, and gives it back.
async fn lead(
    args: &OperatorArgs,
    client: Client,
    context: &Arc<Context>,
    readiness: &Readiness,
) -> Result<(), OperatorError> {
    let namespace = args.lease_namespace.clone().unwrap_or_else(|| client.default_namespace().to_owned());
    let duration = Duration::from_secs(args.lease_seconds.into());
    let mut elector = (!args.no_lease).then(|| Elector::new(client, &namespace, CONTROLLER, args.identity(), duration));
    let chosen = async {
        while !readiness.missing().is_empty() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        if let Some(elector) = &mut elector {
            elector.acquire().await;
        }
    };
    tokio::select! {
        () = chosen => {}
        () = stopped() => return Ok(()),
    }
    tracing::info!("leading");
    context.metrics.leads(true);
    let mut work = tokio::spawn(work(context.clone(), args.concurrency));
    let lost = async {
        match &mut elector {
            Some(elector) => elector.keep().await,
            None => std::future::pending().await,
        }
    };
    let ended = tokio::select! {
        () = lost => Err(OperatorError::LeaseLost),
        _ = &mut work => Err(OperatorError::WatchEnded),
        () = stopped() => Ok(()),
    };
    context.metrics.leads(false);
    if ended.is_ok() {
        tracing::info!("stopping: finishing what is in progress");
        context.triggers.close();
        if tokio::time::timeout(DRAIN, &mut work).await.is_err() {
            tracing::warn!("not all was finished; it is taken up again at the next start");
        }
        if let Some(elector) = &mut elector {
            elector.release().await;
        }
    }
    work.abort();
    ended
}

/// Looks at objects as they are asked for.
async fn work(context: Arc<Context>, concurrency: u16) {
    let mut began = false;
    let queue = context.triggers.open().map(Ok::<_, watcher::Error>);
    context.store.state().iter().for_each(|object| context.ask(&key(&**object)));
    applier(
        |object, context| Box::pin(reconcile::guarded(object, context)),
        |object, error, context: Arc<Context>| reconcile::after_error(&object, error, &context),
        context.clone(),
        context.store.clone(),
        queue.into_stream(),
        Config::default().concurrency(concurrency),
    )
    .for_each(|looked| {
        if !std::mem::replace(&mut began, true) {
            // With the line "leading", how long a failover takes.
            tracing::info!("first look");
        }
        // Asked for, and gone before its turn.
        if let Err(controller::Error::ObjectNotFound(gone)) = looked {
            let key = (gone.namespace.clone().unwrap_or_default(), gone.name.clone());
            context.metrics.queue.forget(&key);
            context.triggers.looked(&key);
        }
        std::future::ready(())
    })
    .await;
}

/// Returns when the process is asked to stop.
async fn stopped() {
    use tokio::signal::unix::{SignalKind, signal};
    let (Ok(mut term), Ok(mut int)) = (signal(SignalKind::terminate()), signal(SignalKind::interrupt())) else {
        return std::future::pending().await;
    };
    tokio::select! {
        _ = term.recv() => {}
        _ = int.recv() => {}
    }
}

/// Log lines on standard error: JSON, with the fields of the reconcile they belong to. `BAKEHOUSE_LOG` is the filter.
fn logging(text: bool) {
    let filter =
        tracing_subscriber::EnvFilter::try_from_env("BAKEHOUSE_LOG").unwrap_or_else(|_| "info,kube=warn".into());
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    // A second start in one process, as in tests, keeps the first.
    let _ = if text { builder.try_init() } else { builder.json().flatten_event(true).try_init() };
}

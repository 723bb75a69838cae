//! `towpath agent`: runs the agent until it is told to stop.

use std::io::IsTerminal;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::FutureExt;
use secrecy::SecretString;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use towpath_core::fault::Problem;
use towpath_core::lease::{self, Standing};
use tracing_subscriber::EnvFilter;

use super::access::Kube;
use super::exit::{Code, Failure};
use crate::agent::{self, Settings};
use crate::cluster::{self, Cluster, Fence, Lease, Manner, Place, Pod};
use crate::disk;
use crate::metrics::Metrics;
use crate::resources::Environment;
use crate::web;

/// What is logged where RUST_LOG says nothing. What a watch of kube trips over the agent says itself.
const DEFAULT_LOG: &str = "info,kube_client=warn,kube_runtime=error,tower=warn,hyper=warn";

/// Characters of the pod's or machine's name in the name of a replica.
const MAX_NAME: usize = 100;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The name of this cluster, for templates and people.
    #[arg(long, value_name = "NAME", env = "TOWPATH_CLUSTER")]
    cluster: String,
    /// Watch the custom resources of this namespace only; of all by default.
    #[arg(short, long, value_name = "NAMESPACE", env = "TOWPATH_NAMESPACE")]
    namespace: Option<String>,
    /// Where the mirrors of repositories are kept; $XDG_CACHE_HOME/towpath or /var/cache/towpath by default.
    #[arg(long, value_name = "DIR", env = "TOWPATH_CACHE")]
    cache: Option<PathBuf>,
    /// Where the page and the API are served.
    #[arg(long, value_name = "ADDRESS", env = "TOWPATH_LISTEN", default_value = "127.0.0.1:8080")]
    listen: SocketAddr,
    /// Where probes and metrics are served.
    #[arg(long, value_name = "ADDRESS", env = "TOWPATH_PROBES", default_value = "127.0.0.1:8081")]
    probes: SocketAddr,
    /// A file with the token that the page and the API ask for.
    #[arg(long, value_name = "FILE", env = "TOWPATH_TOKEN_FILE")]
    token_file: Option<PathBuf>,
    /// The ssh program, for repositories that are reached by it.
    #[arg(long, value_name = "PROGRAM", env = "TOWPATH_SSH", default_value = "ssh")]
    ssh: PathBuf,
    /// Run as one of several replicas: the one that holds the Lease works, the others stand by.
    #[arg(
        long,
        value_name = "BOOL",
        env = "TOWPATH_LEADER_ELECT",
        num_args = 0..=1,
        require_equals = true,
        default_value_t = false,
        default_missing_value = "true",
        action = clap::ArgAction::Set
    )]
    leader_elect: bool,
    /// The Lease of the replicas, in the agent's own namespace if none is named.
    #[arg(long, value_name = "[NAMESPACE/]NAME", env = "TOWPATH_LEASE", default_value = "towpath")]
    lease: String,
    /// After how many seconds without a sign of life another replica takes over.
    #[arg(long, value_name = "SECONDS", env = "TOWPATH_LEASE_DURATION", default_value_t = lease::DEFAULT_LEASE_DURATION.as_secs())]
    lease_duration: u64,
    /// The pod that this replica runs in: it is labelled while it leads.
    #[arg(long, value_name = "NAME", env = "POD_NAME")]
    pod: Option<String>,
    /// How the log is written, to stderr. RUST_LOG says what is in it.
    #[arg(long, value_name = "FORMAT", env = "TOWPATH_LOG_FORMAT", value_enum, default_value_t)]
    log_format: LogFormat,
    /// The namespace that the agent itself runs in, of which it prunes nothing of its own; in a pod it knows by itself.
    #[arg(long, value_name = "NAMESPACE", env = "TOWPATH_OWN_NAMESPACE")]
    own_namespace: Option<String>,
    /// Divides every wait of minutes and seconds; for tests.
    #[arg(long, value_name = "NUMBER", env = "TOWPATH_TIME_SCALE", default_value_t = 1, hide = true)]
    time_scale: u32,
    #[command(flatten)]
    kube: Kube,
}

/// How the log is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
enum LogFormat {
    /// Lines for people.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

pub(super) async fn run(args: Args) -> Result<Code, Failure> {
    start_log(args.log_format);
    let token = args.token_file.as_deref().map(read_token).transpose()?.map(web::Token::new);
    let _watch = args.token_file.clone().zip(token.clone()).map(|(file, token)| follow_token(file, token));
    let config = args.kube.config().await?;
    let identity = identity(args.pod.as_deref());
    let settings = Settings {
        cluster_name: args.cluster,
        namespace: args.namespace,
        cache: args.cache.unwrap_or_else(default_cache),
        ssh: args.ssh,
        own_namespace: args.own_namespace.or_else(namespace_of_pod),
        time_scale: args.time_scale.max(1),
    };
    tracing::info!(
        version = env!("CARGO_PKG_VERSION"),
        cluster = settings.cluster_name,
        cache = %settings.cache.display(),
        listen = %args.listen,
        probes = %args.probes,
        identity,
        "the agent starts"
    );
    let stop = CancellationToken::new();
    stop_on_signals(stop.clone())?;

    let (board, metrics) = (Arc::<agent::Board>::default(), Arc::<Metrics>::default());
    let standing = watch::Sender::new(match args.leader_elect {
        true => Standing::StandingBy { leader: None },
        false => Standing::Alone,
    });
    let replica = match args.leader_elect {
        false => None,
        true => {
            let terms = lease::Terms::new(Duration::from_secs(args.lease_duration))?.divided(settings.time_scale);
            let place = place(&args.lease, std::env::var("POD_NAMESPACE").ok(), &config.default_namespace);
            let lease = Lease::connect(config.clone(), place, &identity, terms)?;
            let pod = args.pod.as_deref().map(|pod| Pod::beside(&lease, pod));
            Some(agent::Replica { lease, pod, standing: standing.clone(), board: board.clone() })
        }
    };
    // The cluster of the current term, for requests that people make on the page.
    let current: Arc<Mutex<Option<Cluster>>> = Arc::default();
    let start = {
        let (current, board, metrics) = (current.clone(), board.clone(), metrics.clone());
        move |fence| {
            let manner = Manner {
                fence,
                user_agent: Some(cluster::user_agent(&identity)),
                time_scale: settings.time_scale,
                unbraked: false,
            };
            let cluster = Cluster::connect(config.clone(), manner)?;
            *current.lock().expect("nothing panics while it holds this lock") = Some(cluster.clone());
            Ok(agent::Shared::new(settings.clone(), cluster, board.clone(), metrics.clone()))
        }
    };
    let annotate: web::Annotate = Arc::new(move |(namespace, name), annotations| {
        let cluster = current.lock().expect("nothing panics while it holds this lock").clone();
        async move {
            let Some(cluster) = cluster else { return Err(Problem::passing("this replica does not lead")) };
            cluster.annotate::<Environment>(&namespace, &name, annotations).await.map(drop)
        }
        .boxed()
    });
    let web = web::Settings { listen: args.listen, probes: args.probes, token, standing: standing.subscribe() };
    let agent = async {
        match replica {
            Some(replica) => agent::lead(replica, &start, stop.clone()).await,
            None => agent::run(start(Fence::none())?, stop.clone()).await,
        }
    };
    // Neither is of use without the other: the first to end ends both.
    let (agent, web) = tokio::join!(
        ending(agent, &stop),
        ending(web::serve(board.clone(), metrics.clone(), annotate, web, stop.clone()), &stop),
    );
    agent.and(web)?;
    tracing::info!("the agent has stopped");
    Ok(Code::Done)
}

/// A name for this process that no other has: the pod's or the machine's, and something by chance, so that a container
/// that starts again is not taken for the one before it.
fn identity(pod: Option<&str>) -> String {
    let machine = || std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let name = pod.map_or_else(machine, str::to_owned);
    let name: String = name.trim().chars().filter(|c| c.is_ascii_graphic()).take(MAX_NAME).collect();
    format!("{}_{:016x}", if name.is_empty() { "towpath" } else { &name }, rand::random::<u64>())
}

/// Where the Lease is: in the namespace that is named, else that of the pod, else that of the configuration.
fn place(lease: &str, pod_namespace: Option<String>, default_namespace: &str) -> Place {
    let own = pod_namespace.filter(|namespace| !namespace.is_empty()).unwrap_or_else(|| default_namespace.to_owned());
    match lease.split_once('/') {
        Some((namespace, name)) => Place { namespace: namespace.to_owned(), name: name.to_owned() },
        None => Place { namespace: own, name: lease.to_owned() },
    }
}

async fn ending(task: impl Future<Output = Result<(), Problem>>, stop: &CancellationToken) -> Result<(), Problem> {
    let result = task.await;
    if let Err(problem) = &result {
        tracing::error!(%problem, "stopping");
    }
    stop.cancel();
    result
}

fn start_log(format: LogFormat) {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(DEFAULT_LOG));
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    match format {
        LogFormat::Json => log.json().flatten_event(true).init(),
        LogFormat::Text => {
            let is_colourful = std::io::stderr().is_terminal()
                && anstream::AutoStream::choice(&std::io::stderr()) != anstream::ColorChoice::Never;
            log.with_ansi(is_colourful).init();
        }
    }
}

/// The first signal asks the agent to stop, the second one ends it.
fn stop_on_signals(stop: CancellationToken) -> Result<(), Failure> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    tokio::spawn(async move {
        let name = tokio::select! {
            _ = terminate.recv() => "SIGTERM",
            _ = interrupt.recv() => "SIGINT",
        };
        tracing::info!(signal = name, "stopping; a second signal ends at once");
        stop.cancel();
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        std::process::exit(Code::Failed as i32);
    });
    Ok(())
}

/// Reads the token. A file that is there and empty is an error: it would open the page to everybody.
fn read_token(file: &std::path::Path) -> Result<SecretString, Problem> {
    let text = std::fs::read_to_string(file)
        .map_err(|error| Problem::setup(format!("the token file {}: {error}", file.display())))?;
    let token = text.trim();
    if token.is_empty() {
        return Err(Problem::setup(format!("the token file {} is empty", file.display()))
            .hint("put the token into it, or leave --token-file out"));
    }
    Ok(SecretString::from(token))
}

/// Takes up a token that changes while the agent runs. A file that is empty or gone for a moment changes nothing.
fn follow_token(file: PathBuf, token: web::Token) -> Option<notify::RecommendedWatcher> {
    let watched = file.clone();
    let watch = disk::watch_file(&file, move || match read_token(&watched).and_then(|read| token.replace(read)) {
        Ok(()) => tracing::debug!(file = %watched.display(), "the token was read again"),
        Err(problem) => tracing::warn!(%problem, "the token stays as it was"),
    });
    watch.inspect_err(|problem| tracing::warn!(%problem, "the token is read only once")).ok()
}

/// The namespace of the pod that this runs in, beside the token of its account.
fn namespace_of_pod() -> Option<String> {
    let text = std::fs::read_to_string("/var/run/secrets/kubernetes.io/serviceaccount/namespace").ok()?;
    Some(text.trim().to_owned()).filter(|name| !name.is_empty())
}

fn default_cache() -> PathBuf {
    // An empty or relative value counts as none, as the XDG specification has it.
    let base = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from).filter(|path| path.is_absolute());
    base.unwrap_or_else(|| PathBuf::from("/var/cache")).join("towpath")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_token_opens_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("token");
        assert!(read_token(&file).is_err());
        std::fs::write(&file, " \n").unwrap();
        assert!(read_token(&file).is_err());
        std::fs::write(&file, "secret\n").unwrap();
        assert_eq!(secrecy::ExposeSecret::expose_secret(&read_token(&file).unwrap()), "secret");
    }

    #[test]
    fn every_process_has_a_name_of_its_own() {
        let first = identity(Some("towpath-5d7-x2k"));
        assert!(first.starts_with("towpath-5d7-x2k_"), "{first}");
        assert_ne!(first, identity(Some("towpath-5d7-x2k")), "a container that starts again is another replica");
        assert!(identity(Some("\r\nX: y")).starts_with("X:y_"), "it stands in a header");
        assert!(identity(Some("")).starts_with("towpath_"));
    }

    #[test]
    fn the_lease_is_in_the_namespace_that_is_named_or_the_own() {
        let at = |lease, pod: Option<&str>| {
            let place = place(lease, pod.map(str::to_owned), "default");
            format!("{}/{}", place.namespace, place.name)
        };
        assert_eq!(at("towpath", Some("towpath-system")), "towpath-system/towpath");
        assert_eq!(at("towpath", None), "default/towpath");
        assert_eq!(at("ops/shop", Some("towpath-system")), "ops/shop");
    }

    #[tokio::test]
    async fn what_ends_first_ends_the_rest() {
        let stop = CancellationToken::new();
        let failed = ending(async { Err(Problem::setup("the address is in use")) }, &stop);
        let waits = ending(
            async {
                stop.cancelled().await;
                Ok(())
            },
            &stop,
        );
        let (failed, waits) = tokio::join!(failed, waits);
        assert!(failed.is_err() && waits.is_ok());
    }
}

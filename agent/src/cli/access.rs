//! Access to a cluster with the rights of whoever types the command.
//!
//! Unlike the agent it runs the program that a kubeconfig names for credentials: the kubeconfig is the user's own.

use std::fmt;
use std::future::Future;
use std::path::PathBuf;
use std::time::Duration;

use k8s_openapi::api::authentication::v1::SelfSubjectReview;
use kube::api::{Patch, PatchParams, PostParams};
use kube::config::{Context, KubeConfigOptions, Kubeconfig};
use kube::{Api, Client, Config};
use serde_json::Value;
use towpath_core::fault::Problem;
use towpath_core::revision::clean_line;

use crate::resources::Environment;

/// Time for one request.
pub(super) const DEADLINE: Duration = Duration::from_secs(30);

/// Which cluster, and as whom.
#[derive(Clone, Debug, Default, clap::Args)]
#[command(next_help_heading = "Cluster")]
pub(super) struct Kube {
    /// The kubeconfig file; KUBECONFIG and ~/.kube/config by default.
    #[arg(long, value_name = "FILE")]
    kubeconfig: Option<PathBuf>,
    /// The context of the kubeconfig; its current one by default.
    #[arg(long, value_name = "NAME")]
    context: Option<String>,
}

/// Which cluster and which namespace.
#[derive(Clone, Debug, Default, clap::Args)]
#[command(next_help_heading = "Cluster")]
pub(super) struct Flags {
    #[command(flatten)]
    pub(super) kube: Kube,
    /// The namespace of the Environment; that of the context by default.
    #[arg(short, long, value_name = "NAMESPACE")]
    pub(super) namespace: Option<String>,
}

impl Kube {
    /// How the cluster is reached.
    ///
    /// # Errors
    /// `Setup` when the kubeconfig is not there or cannot be read.
    pub(super) async fn config(&self) -> Result<Config, Problem> {
        let options = KubeConfigOptions { context: self.context.clone(), ..KubeConfigOptions::default() };
        let unreadable = |error: &dyn fmt::Display| {
            Problem::setup(format!("no access to a cluster: {error}"))
                .hint("set KUBECONFIG, or use --kubeconfig and --context")
        };
        let mut config = match (&self.kubeconfig, &self.context) {
            (Some(file), _) => {
                let kubeconfig = Kubeconfig::read_from(file).map_err(|error| unreadable(&Chain(&error)))?;
                let config = Config::from_custom_kubeconfig(kubeconfig, &options).await;
                config.map_err(|error| unreadable(&Chain(&error)))?
            }
            (None, Some(_)) => Config::from_kubeconfig(&options).await.map_err(|error| unreadable(&Chain(&error)))?,
            (None, None) => Config::infer().await.map_err(|error| unreadable(&Chain(&error)))?,
        };
        // A file is read again each minute, so that the authority can be changed while the agent runs. In a cluster
        // kube knows the file by itself.
        if config.root_cert_file.is_none() {
            config.root_cert_file = self.authority();
        }
        Ok(config)
    }

    /// The kubeconfig, and the context of it that is used.
    fn in_use(&self) -> Option<(Kubeconfig, Context)> {
        let kubeconfig = match &self.kubeconfig {
            Some(file) => Kubeconfig::read_from(file),
            None => Kubeconfig::read(),
        };
        let kubeconfig = kubeconfig.ok()?;
        let wanted = self.context.as_ref().or(kubeconfig.current_context.as_ref())?;
        let context = kubeconfig.contexts.iter().find(|context| context.name == *wanted)?.context.clone()?;
        Some((kubeconfig, context))
    }

    /// The name of the user in the kubeconfig.
    fn user(&self) -> Option<String> {
        self.in_use()?.1.user
    }

    /// The file with the certificate of the cluster's authority, where the kubeconfig names one.
    fn authority(&self) -> Option<PathBuf> {
        let (kubeconfig, context) = self.in_use()?;
        let cluster = kubeconfig.clusters.into_iter().find(|cluster| cluster.name == context.cluster)?.cluster?;
        // What stands in the kubeconfig itself goes before a file, as in kubectl.
        cluster.certificate_authority.filter(|_| cluster.certificate_authority_data.is_none()).map(PathBuf::from)
    }
}

/// An open cluster.
#[derive(Clone)]
pub(super) struct Access {
    pub(super) client: Client,
    pub(super) config: Config,
    pub(super) namespace: String,
    kube: Kube,
}

impl Flags {
    /// Opens the cluster. No request is made.
    ///
    /// # Errors
    /// `Setup` when there is no usable kubeconfig.
    pub(super) async fn open(&self) -> Result<Access, Problem> {
        let mut config = self.kube.config().await?;
        // A person waits: an answer that does not come is said after seconds and not retried for minutes.
        config.default_retry = false;
        config.connect_timeout = Some(Duration::from_secs(10));
        let namespace = self.namespace.clone().unwrap_or_else(|| config.default_namespace.clone());
        let client = Client::try_from(config.clone()).map_err(|error| {
            Problem::setup(format!("no access to the cluster: {}", Chain(&error))).hint("check the kubeconfig")
        })?;
        Ok(Access { client, config, namespace, kube: self.kube.clone() })
    }
}

impl Access {
    /// The Environments of the namespace.
    pub(super) fn environments(&self) -> Api<Environment> {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    /// One Environment.
    ///
    /// # Errors
    /// When it is not there or may not be read.
    pub(super) async fn environment(&self, name: &str) -> Result<Environment, Problem> {
        call(self.environments().get(name)).await.map_err(|problem| self.or_none_such(name, problem))
    }

    /// Merges a change into an Environment.
    ///
    /// # Errors
    /// When it is not there or may not be changed.
    pub(super) async fn patch(&self, name: &str, change: &Value) -> Result<Environment, Problem> {
        let api = self.environments();
        let params = PatchParams::default();
        call(api.patch(name, &params, &Patch::Merge(change))).await.map_err(|problem| self.or_none_such(name, problem))
    }

    fn or_none_such(&self, name: &str, problem: Problem) -> Problem {
        if !problem.message.contains(&format!("\"{name}\" not found")) {
            return problem;
        }
        Problem::setup(format!("there is no Environment {name} in namespace {}", self.namespace))
            .hint("`towpath get -A` shows all of them; choose a namespace with -n")
    }

    /// Who the API server takes us for, else the user of the kubeconfig, else of the machine.
    pub(super) async fn user(&self) -> String {
        let api: Api<SelfSubjectReview> = Api::all(self.client.clone());
        let review = call(api.create(&PostParams::default(), &SelfSubjectReview::default())).await.ok();
        let known = review.and_then(|review| review.status?.user_info?.username);
        known
            .or_else(|| self.kube.user())
            .or_else(|| std::env::var("USER").ok())
            .filter(|name| !name.is_empty())
            .unwrap_or_else(|| "unknown".to_owned())
    }
}

/// One request, with a deadline and an error that people understand.
///
/// # Errors
/// What the server refused, or that it did not answer.
pub(super) async fn call<T>(request: impl Future<Output = kube::Result<T>>) -> Result<T, Problem> {
    match tokio::time::timeout(DEADLINE, request).await {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(error)) => Err(problem(&error)),
        Err(_) => Err(Problem::passing(format!("the API server did not answer within {} s", DEADLINE.as_secs()))
            .hint("check that the cluster of the kubeconfig can be reached")),
    }
}

/// An error of the kube client for people.
pub(super) fn problem(error: &kube::Error) -> Problem {
    let kube::Error::Api(status) = error else {
        return Problem::passing(format!("the API server did not answer: {}", Chain(error)))
            .hint("check that the cluster of the kubeconfig can be reached");
    };
    let said = clean_line(&status.message, 500);
    match status.code {
        401 => Problem::setup("the API server does not know you").hint("renew the credentials of the kubeconfig"),
        403 => Problem::setup(said).hint("ask whoever runs the cluster for this right"),
        404 if said.contains("could not find the requested resource") || said.contains("page not found") => {
            Problem::setup("the cluster has no environments.towpath.dev")
                .hint("install the custom resources: towpath crds | kubectl apply -f -")
        }
        400..500 => Problem::setup(said),
        _ => Problem::passing(said),
    }
}

/// An error with its causes, each said once.
struct Chain<'a>(&'a dyn std::error::Error);

impl fmt::Display for Chain<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut said = self.0.to_string();
        let mut next = self.0.source();
        while let Some(error) = next {
            let text = error.to_string();
            if !said.contains(&text) {
                said = format!("{said}: {text}");
            }
            next = error.source();
        }
        f.write_str(&clean_line(&said, 500))
    }
}

#[cfg(test)]
mod tests {
    use kube::core::Status;

    use super::*;

    fn refused(code: u16, message: &str) -> Problem {
        problem(&kube::Error::Api(Box::new(Status { code, message: message.to_owned(), ..Status::default() })))
    }

    #[test]
    fn a_cluster_without_the_custom_resources_says_how_to_install_them() {
        for message in ["the server could not find the requested resource", "404 page not found"] {
            assert!(refused(404, message).hint.unwrap().contains("towpath crds"), "{message}");
        }
    }

    #[test]
    fn what_the_server_says_cannot_control_the_terminal() {
        assert_eq!(refused(422, "bad\u{1b}[2J").message, "bad[2J");
    }
}

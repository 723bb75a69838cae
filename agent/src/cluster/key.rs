//! The agent's own key, with which it signs what it writes to git: a Secret beside the agent, made when it is missing.

use k8s_openapi::api::core::v1::Secret;
use kube::Api;
use kube::api::{ObjectMeta, PostParams};
use towpath_core::fault::Problem;
use towpath_core::names::AGENT;
use towpath_core::signature::SigningKey;

use super::{Cluster, call};

/// The name of the Secret.
pub const KEY_SECRET: &str = "towpath-key";
/// Where the private key stands in it, as Secrets of type `kubernetes.io/ssh-auth` have it.
const PRIVATE: &str = "ssh-privatekey";
/// Where its public half stands, for people.
const PUBLIC: &str = "ssh-publickey";

impl Cluster {
    /// The key of the agent in a namespace. `comment` is written beside one that is made.
    ///
    /// # Errors
    /// `Setup` where the Secret may not be read or made, or holds no key.
    pub async fn signing_key(&self, namespace: &str, comment: &str) -> Result<SigningKey, Problem> {
        let api: Api<Secret> = Api::namespaced(self.client.clone(), namespace);
        // Two tries: another replica may make it in the same moment.
        for _ in 0..2 {
            let found = call::own(&self.permits, api.get_opt(KEY_SECRET)).await;
            if let Some(secret) = found.map_err(|problem| of_secret(namespace, problem))? {
                return read(namespace, &secret);
            }
            let key = SigningKey::from_seed(rand::random());
            let secret = Secret {
                metadata: ObjectMeta {
                    name: Some(KEY_SECRET.to_owned()),
                    labels: Some([("app.kubernetes.io/name".to_owned(), AGENT.to_owned())].into()),
                    ..ObjectMeta::default()
                },
                type_: Some("kubernetes.io/ssh-auth".to_owned()),
                string_data: Some(
                    [
                        (PRIVATE.to_owned(), key.to_openssh(comment)),
                        (PUBLIC.to_owned(), format!("{} {comment}", key.public())),
                    ]
                    .into(),
                ),
                ..Secret::default()
            };
            let made = call::own(&self.permits, async {
                match api.create(&PostParams::default(), &secret).await {
                    Err(kube::Error::Api(status)) if status.code == 409 => Ok(false),
                    made => made.map(|_| true),
                }
            });
            if made.await.map_err(|problem| of_secret(namespace, problem))? {
                return Ok(key);
            }
        }
        Err(Problem::passing(format!("Secret {namespace}/{KEY_SECRET} comes and goes")))
    }
}

fn read(namespace: &str, secret: &Secret) -> Result<SigningKey, Problem> {
    let hint = format!("put an unencrypted Ed25519 key there as {PRIVATE}, or delete the Secret for a new one");
    let bytes = secret.data.as_ref().and_then(|data| data.get(PRIVATE));
    let text = bytes.and_then(|bytes| std::str::from_utf8(&bytes.0).ok());
    let Some(text) = text else {
        return Err(Problem::setup(format!("Secret {namespace}/{KEY_SECRET} has no {PRIVATE}")).hint(hint));
    };
    SigningKey::from_openssh(text).map_err(|problem| of_secret(namespace, problem).hint(hint))
}

fn of_secret(namespace: &str, problem: Problem) -> Problem {
    Problem { message: format!("Secret {namespace}/{KEY_SECRET}: {}", problem.message), ..problem }
}

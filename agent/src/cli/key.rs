//! `towpath key`: the key with which an agent signs its records, made where it is missing.

use super::access::Kube;
use super::exit::{Code, Failure};
use super::output;
use crate::cluster::{Cluster, KEY_SECRET, Manner};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The namespace that the agent runs in.
    #[arg(short, long, value_name = "NAMESPACE", default_value = "towpath")]
    namespace: String,
    /// The name of the cluster, for the comment of the key.
    #[arg(long, value_name = "NAME", env = "TOWPATH_CLUSTER")]
    cluster: Option<String>,
    #[command(flatten)]
    kube: Kube,
}

pub(super) async fn run(args: Args) -> Result<Code, Failure> {
    let cluster = Cluster::connect(args.kube.config().await?, Manner::default())?;
    let comment = args.cluster.map_or_else(|| "towpath".to_owned(), |cluster| format!("towpath@{cluster}"));
    let key = cluster.signing_key(&args.namespace, &comment).await?;
    output::progress(&format!("the key of Secret {}/{KEY_SECRET}, as peers name it:", args.namespace));
    output::data(&format!("{} {comment}\n", key.public()))?;
    Ok(Code::Done)
}

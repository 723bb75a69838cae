//! What containers said, read as an environment's account.

use std::time::Duration;

use http::Request;
use towpath_core::fault::Problem;
use towpath_core::health::LogSource;

use super::call::{self, Failure};
use super::kinds::encoded;
use super::{AccountClient, Kind};

/// Time for the log of one container: what it says is worth a look, not a wait.
const LOG_DEADLINE: Duration = Duration::from_secs(3);
/// Bytes of a log that are asked for. The server cuts at the end, where what matters stands; so it is far more than is
/// shown.
const MAX_LOG_BYTES: usize = 64 << 10;

impl AccountClient {
    /// The end of what a container of a pod said: at most `lines` lines of its run, or of the run before it.
    ///
    /// # Errors
    /// When the account may not read logs, or nobody answers in time.
    pub async fn pod_log(
        &self,
        pods: &Kind,
        namespace: &str,
        source: &LogSource,
        lines: usize,
    ) -> Result<String, Problem> {
        let path = pods.path(Some(namespace), Some(&source.pod));
        let container = encoded(&source.container);
        let previous = source.previous;
        let request = Request::get(format!(
            "{path}/log?container={container}&previous={previous}&tailLines={lines}&limitBytes={MAX_LOG_BYTES}"
        ))
        .body(Vec::new())
        .expect("the parts of the path are names that were checked");
        let _permit = self.permits.acquire().await;
        match tokio::time::timeout(LOG_DEADLINE, self.client.request_text(request)).await {
            Ok(Ok(text)) => Ok(text),
            Ok(Err(kube::Error::Api(status))) => {
                Err(call::problem(&Failure::Refused(status), &self.account.to_string(), false))
            }
            Ok(Err(error)) => Err(Problem::passing(format!("the log was not answered: {error}"))),
            Err(_) => Err(Problem::passing(format!("the log was not answered within {} s", LOG_DEADLINE.as_secs()))),
        }
    }
}

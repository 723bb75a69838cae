//! Stands in for `crate::web` until that is there: it serves nothing, and has the same signature.

use std::net::SocketAddr;
use std::sync::Arc;

use secrecy::SecretString;
use tokio_util::sync::CancellationToken;
use towpath_core::fault::Problem;

use crate::agent::Shared;

/// Where it would listen, and what it would ask for.
#[expect(dead_code, reason = "nothing is served yet")]
pub struct Settings {
    pub listen: SocketAddr,
    pub probes: SocketAddr,
    pub token: Option<SecretString>,
}

/// Waits for the end.
///
/// # Errors
/// None.
pub async fn serve(_: Arc<Shared>, _: Settings, stop: CancellationToken) -> Result<(), Problem> {
    stop.cancelled().await;
    Ok(())
}

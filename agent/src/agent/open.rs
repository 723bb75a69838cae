//! A mirror that is open, and the credentials that it was opened with.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use towpath_core::fault::Problem;

use super::Shared;
use crate::blocking::blocking;
use crate::repo::watch::Watch;
use crate::repo::{self, Credentials, Mirror, Remote, Terms};

/// How long credentials are used before their Secret is read again, if nobody refuses them.
pub(super) const READ_SECRET_AFTER: Duration = Duration::from_secs(600);

/// A mirror that is open.
pub(super) struct Open {
    pub(super) mirror: Arc<Mirror>,
    credentials: Credentials,
    /// When the Secret was last read.
    read_at: Instant,
    /// Of a repository on this machine.
    _watch: Option<Watch>,
}

impl Shared {
    /// What a Secret of a namespace holds now; nothing where none is named.
    pub(super) async fn credentials(&self, namespace: &str, secret: Option<&str>) -> Result<Credentials, Problem> {
        match secret {
            None => Ok(Credentials::default()),
            Some(name) => repo::credentials(&self.cluster.secret(namespace, name).await?),
        }
    }
}

impl Open {
    /// Opens the mirror in a folder, of commits only or with all that they hold.
    pub(super) async fn new(
        shared: &Shared,
        (folder, is_whole): (&Path, bool),
        remote: Remote,
        credentials: Credentials,
        watch: Option<Watch>,
    ) -> Result<Open, Problem> {
        let open = if is_whole { Mirror::open_on } else { Mirror::open_commits_on };
        let terms = Terms { ssh: shared.settings.ssh.clone(), ..Terms::default() };
        let (folder, known) = (folder.to_owned(), credentials.clone());
        let mirror = Arc::new(blocking(move || open(&folder, remote, known, terms)).await?);
        Ok(Open { mirror, credentials, read_at: Instant::now(), _watch: watch })
    }

    /// Whether the Secret should be read again.
    pub(super) fn is_old(&self) -> bool {
        self.read_at.elapsed() > READ_SECRET_AFTER
    }

    /// Takes what the Secret holds now. Gives whether it is something else.
    pub(super) async fn renew(&mut self, credentials: Credentials) -> Result<bool, Problem> {
        self.read_at = Instant::now();
        if self.credentials.is_same(&credentials) {
            return Ok(false);
        }
        let mirror = self.mirror.clone();
        self.credentials = credentials.clone();
        blocking(move || mirror.set_credentials(credentials)).await?;
        Ok(true)
    }
}

//! Where a mirror's commits come from, and go to: one of three ways that answer the same questions.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use git2::Odb;
use secrecy::{ExposeSecret, SecretString};
use towpath_core::fault::Problem;

use super::fetch::Needed;
use super::http::Http;
use super::local;
use super::ls_refs::{Asked, Refs};
use super::pack::PackGuard;
use super::receive::{Decide, Sent};
use super::remote::{Address, Credentials, Login, Remote};
use super::ssh::Ssh;
use super::terms::Terms;

/// Where a mirror's commits come from.
pub(super) struct Source {
    address: Address,
    /// Where `ssh` finds its files.
    folder: PathBuf,
    terms: Terms,
    current: Mutex<Current>,
    /// The same for writing, where that needs other credentials.
    writing: Mutex<Option<Current>>,
}

/// The credentials in use, and what was made with them.
struct Current {
    credentials: Credentials,
    connection: Connection,
}

#[derive(Clone)]
enum Connection {
    Local(PathBuf),
    Http(Arc<Http>),
    Ssh(Arc<Ssh>),
}

impl Source {
    /// `folder` is one that nobody else uses; it need not be there.
    ///
    /// # Errors
    /// A `Setup` problem when the credentials do not fit the address.
    pub(super) fn new(
        remote: &Remote,
        credentials: Credentials,
        folder: PathBuf,
        terms: Terms,
    ) -> Result<Source, Problem> {
        let connection = connect(&remote.address, &credentials, &folder, &terms)?;
        let current = Mutex::new(Current { credentials, connection });
        Ok(Source { address: remote.address.clone(), folder, terms, current, writing: Mutex::new(None) })
    }

    /// Uses other credentials from the next operation on. The same ones again change nothing.
    ///
    /// # Errors
    /// A `Setup` problem when the credentials do not fit the address.
    pub(super) fn set_credentials(&self, credentials: Credentials) -> Result<(), Problem> {
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        if !same(&current.credentials, &credentials) {
            let connection = connect(&self.address, &credentials, &self.folder, &self.terms)?;
            *current = Current { credentials, connection };
        }
        Ok(())
    }

    /// The refs that are asked for.
    pub(super) fn refs(&self, asked: Asked<'_>) -> Result<Refs, Problem> {
        match self.connection() {
            Connection::Local(folder) => local::refs(&folder, asked),
            Connection::Http(http) => http.refs(asked),
            Connection::Ssh(ssh) => ssh.refs(asked),
        }
    }

    /// Brings what is needed into `target`.
    pub(super) fn fetch(&self, needed: Needed<'_>, target: &Odb<'_>) -> Result<(), Problem> {
        let connection = self.connection();
        if let Connection::Local(folder) = connection {
            return local::fetch(&folder, needed, target);
        }
        let unusable = |error: git2::Error| {
            Problem::passing(format!("the pack that the git server sent cannot be used: {}", error.message()))
        };
        // Dropped without a commit it leaves nothing behind.
        let mut pack = PackGuard::new(target.packwriter().map_err(unusable)?);
        match connection {
            Connection::Http(http) => http.fetch(needed, &mut pack)?,
            Connection::Ssh(ssh) => ssh.fetch(needed, &mut pack)?,
            Connection::Local(_) => unreachable!("a local repository was copied above"),
        }
        pack.finish()?.commit().map(drop).map_err(unusable)
    }

    /// Where to push, with credentials for writing. Connections are kept as long as the credentials stay the same.
    ///
    /// # Errors
    /// A `Setup` problem when the credentials do not fit the address.
    pub(super) fn target(&self, credentials: &Credentials) -> Result<Target, Problem> {
        let reading = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        if same(&reading.credentials, credentials) {
            return Ok(Target(reading.connection.clone()));
        }
        drop(reading);
        let mut writing = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(writing) = writing.as_ref().filter(|writing| same(&writing.credentials, credentials)) {
            return Ok(Target(writing.connection.clone()));
        }
        let connection = connect(&self.address, credentials, &self.folder, &self.terms)?;
        *writing = Some(Current { credentials: credentials.clone(), connection: connection.clone() });
        Ok(Target(connection))
    }

    fn connection(&self) -> Connection {
        self.current.lock().unwrap_or_else(PoisonError::into_inner).connection.clone()
    }
}

/// Where a push goes.
pub(super) struct Target(Connection);

impl Target {
    /// Shows what the server has to `decide`, and asks what that says.
    ///
    /// # Errors
    /// When nothing was asked.
    pub(super) fn push(&self, decide: &mut Decide<'_, '_>) -> Result<Sent, Problem> {
        match &self.0 {
            Connection::Local(folder) => local::push(folder, decide),
            Connection::Http(http) => http.push(decide),
            Connection::Ssh(ssh) => ssh.push(decide),
        }
    }

    /// The refs as who writes sees them.
    pub(super) fn refs(&self) -> Result<Refs, Problem> {
        let mut refs = Refs::new();
        self.push(&mut |found| {
            refs.clone_from(&found.refs);
            Ok(None)
        })?;
        Ok(refs)
    }
}

fn connect(address: &Address, credentials: &Credentials, folder: &Path, terms: &Terms) -> Result<Connection, Problem> {
    match address {
        Address::Local(repository) => Ok(Connection::Local(repository.clone())),
        Address::Http(base) => Ok(Connection::Http(Arc::new(Http::new(base, credentials, terms.clone())?))),
        Address::Ssh(address) => {
            Ok(Connection::Ssh(Arc::new(Ssh::new(address, credentials, folder.to_owned(), terms.clone())?)))
        }
    }
}

fn same(a: &Credentials, b: &Credentials) -> bool {
    let equal = |a: &SecretString, b: &SecretString| a.expose_secret() == b.expose_secret();
    let login = match (&a.login, &b.login) {
        (Login::None, Login::None) => true,
        (Login::Basic { username: a, password: p }, Login::Basic { username: b, password: q }) => a == b && equal(p, q),
        (Login::Bearer(a), Login::Bearer(b)) => equal(a, b),
        (Login::SshKey { private_key: a, known_hosts: k }, Login::SshKey { private_key: b, known_hosts: l }) => {
            equal(a, b) && k == l
        }
        _ => false,
    };
    login && a.certificate_authorities == b.certificate_authorities
}

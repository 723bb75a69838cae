//! How libgit2 reaches our own transports.
//!
//! libgit2 finds a transport by the scheme of an address. Ours are `towpath-http` and `towpath-ssh`, and the rest of the
//! address is the number of a [`Wire`]: so two repositories on one host, with different credentials, never mix.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, Once, Weak};

use git2::transport::{Service, SmartSubtransport, SmartSubtransportStream, Transport};

use super::http::HttpRemote;
use super::ssh::SshRemote;

/// A way to a server.
#[derive(Clone)]
pub(super) enum Wire {
    Http(Arc<HttpRemote>),
    Ssh(Arc<SshRemote>),
}

enum Known {
    Http(Weak<HttpRemote>),
    Ssh(Weak<SshRemote>),
}

static NEXT: AtomicU64 = AtomicU64::new(1);
static WIRES: Mutex<Option<HashMap<u64, Known>>> = Mutex::new(None);

impl Wire {
    /// The address under which libgit2 finds this wire, for as long as the wire lives.
    pub(super) fn address(&self) -> String {
        register();
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let (scheme, known) = match self {
            Wire::Http(remote) => ("towpath-http", Known::Http(Arc::downgrade(remote))),
            Wire::Ssh(remote) => ("towpath-ssh", Known::Ssh(Arc::downgrade(remote))),
        };
        let mut wires = WIRES.lock().expect("nothing panics while it holds this lock");
        wires.get_or_insert_default().insert(number, known);
        format!("{scheme}://{number}/")
    }
}

fn find(address: &str) -> Option<Wire> {
    let (_, number) = address.split_once("://")?;
    let number: u64 = number.trim_end_matches('/').parse().ok()?;
    let mut wires = WIRES.lock().expect("nothing panics while it holds this lock");
    let wires = wires.as_mut()?;
    wires.retain(|_, known| match known {
        Known::Http(remote) => remote.strong_count() > 0,
        Known::Ssh(remote) => remote.strong_count() > 0,
    });
    Some(match wires.get(&number)? {
        Known::Http(remote) => Wire::Http(remote.upgrade()?),
        Known::Ssh(remote) => Wire::Ssh(remote.upgrade()?),
    })
}

struct Subtransport;

impl SmartSubtransport for Subtransport {
    fn action(&self, address: &str, service: Service) -> Result<Box<dyn SmartSubtransportStream>, git2::Error> {
        match find(address) {
            Some(Wire::Http(remote)) => Ok(Box::new(remote.stream(service))),
            Some(Wire::Ssh(remote)) => {
                let stream = remote.stream(service).map_err(|problem| git2::Error::from_str(&problem.message))?;
                Ok(Box::new(stream))
            }
            None => Err(git2::Error::from_str("the repository was closed")),
        }
    }

    fn close(&self) -> Result<(), git2::Error> {
        Ok(())
    }
}

/// Tells libgit2 of our transports, once.
#[allow(unsafe_code, reason = "libgit2 keeps them in a global table")]
fn register() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        // SAFETY: registering is not safe beside other calls to libgit2's transport table; `Once` makes it happen
        // before the first address of ours exists, and nobody else registers. The owner check is for folders that
        // other people may have prepared; our cache is our own, in a container often under another uid.
        unsafe {
            let http = git2::transport::register("towpath-http", |remote| Transport::smart(remote, true, Subtransport));
            let ssh = git2::transport::register("towpath-ssh", |remote| Transport::smart(remote, false, Subtransport));
            http.and(ssh).expect("the schemes are registered once, here");
            git2::opts::set_verify_owner_validation(false).expect("the option exists");
        }
    });
}

/// Makes sure that libgit2 is set up before any repository is opened.
pub(super) fn prepare() {
    register();
}

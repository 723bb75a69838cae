//! Service accounts that environments are applied with, and clients that act as one of them.
//!
//! An impersonation without a name would leave the header out, and the request would run with the agent's own rights.
//! So an [`Account`] cannot be made empty, and [`AccountClient`], the only one that touches workloads, cannot be made
//! without an `Account`.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex};

use http::HeaderValue;
use kube::Client;
use kube::client::Body;
use towpath_core::fault::Problem;
use towpath_core::names;

use super::gate::Permits;
use super::{Cluster, Live, watch};

/// A service account.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Account {
    namespace: String,
    name: String,
}

impl Account {
    /// An account by namespace and name.
    ///
    /// # Errors
    /// `Setup` when either is empty or could not be a name.
    pub fn new(namespace: &str, name: &str) -> Result<Account, Problem> {
        if !names::is_dns_label(namespace) || !names::is_dns_subdomain(name) {
            return Err(Problem::setup(format!("{namespace:?}/{name:?} is not a service account"))
                .hint("name one with spec.serviceAccountName"));
        }
        Ok(Account { namespace: namespace.to_owned(), name: name.to_owned() })
    }

    /// The name under which the API server knows it.
    pub fn user_name(&self) -> String {
        format!("system:serviceaccount:{}:{}", self.namespace, self.name)
    }
}

impl fmt::Display for Account {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "service account {}/{}", self.namespace, self.name)
    }
}

/// Access to workloads as one service account.
#[derive(Clone)]
pub struct AccountClient {
    pub(super) account: Account,
    pub(super) client: Client,
    pub(super) permits: Arc<Permits>,
    pub(super) live: Arc<Live>,
    pub(super) watches: Arc<watch::Watches>,
}

/// Accounts whose clients are kept. Beyond it all are made anew, which costs some memory and no request.
const MAX_CLIENTS: usize = 4096;

/// One client for each account: each brings a task and a queue with it.
#[derive(Default)]
pub(super) struct Clients(Mutex<HashMap<Account, Client>>);

impl Cluster {
    /// Acts as an account from here on. The connections are shared.
    pub fn act_as(&self, account: &Account) -> AccountClient {
        let mut clients = self.clients.0.lock().expect("nothing panics while it holds this lock");
        if clients.len() >= MAX_CLIENTS {
            clients.clear();
        }
        let client = clients.entry(account.clone()).or_insert_with(|| self.impersonating(account)).clone();
        AccountClient {
            account: account.clone(),
            client,
            permits: self.permits.clone(),
            live: self.live.clone(),
            watches: self.watches.clone(),
        }
    }

    fn impersonating(&self, account: &Account) -> Client {
        let user = HeaderValue::from_str(&account.user_name()).expect("the names are plain ASCII, as checked");
        let base = self.client.clone();
        // Groups are left out: the API server then adds those of a service account by itself.
        let service = tower::service_fn(move |mut request: http::Request<Body>| {
            request.headers_mut().insert("Impersonate-User", user.clone());
            let base = base.clone();
            async move { base.send(request).await }
        });
        Client::new(service, account.namespace.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_account_cannot_be_empty() {
        for (namespace, name) in
            [("", "a"), ("a", ""), ("", ""), ("a", "b\r\nImpersonate-Group: system:masters"), ("A", "b")]
        {
            assert!(Account::new(namespace, name).is_err(), "{namespace:?}/{name:?}");
        }
        assert_eq!(Account::new("shop", "deployer").unwrap().user_name(), "system:serviceaccount:shop:deployer");
    }
}

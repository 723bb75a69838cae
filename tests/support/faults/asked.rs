//! A request as a proxy sees it: verb and resource for the API server, method and path for any other.

use std::time::Instant;

use http::{Method, Request};

/// One request.
#[derive(Clone, Debug)]
pub struct Asked {
    /// `get`, `list`, `watch`, `create`, `update`, `patch`, `delete`, `deletecollection`.
    pub verb: &'static str,
    /// Plural name, with the subresource where there is one: `deployments`, `environments/status`. Empty where the path
    /// names none.
    pub resource: String,
    /// Namespace, empty where there is none.
    pub namespace: String,
    /// Name, empty for lists and creations.
    pub name: String,
    /// The path.
    pub path: String,
    /// The query, without `?`.
    pub query: String,
    /// When it came.
    pub at: Instant,
    /// The status of the real server's answer; `None` where there was none, or none yet.
    pub status: Option<u16>,
}

impl Asked {
    pub(super) fn of<Body>(request: &Request<Body>) -> Asked {
        let path = request.uri().path().to_owned();
        let query = request.uri().query().unwrap_or_default().to_owned();
        let mut parts: Vec<&str> = path.trim_matches('/').split('/').collect();
        // `api/v1/…` or `apis/group/version/…`.
        let root = match parts.first() {
            Some(&"api") => 2,
            Some(&"apis") => 3,
            _ => parts.len(),
        };
        parts.drain(..root.min(parts.len()));
        let mut namespace = "";
        if parts.len() > 2 && parts[0] == "namespaces" {
            namespace = parts[1];
            parts.drain(..2);
        }
        let part = |index: usize| parts.get(index).copied().unwrap_or_default();
        let resource = if part(2).is_empty() { part(0).to_owned() } else { format!("{}/{}", part(0), part(2)) };
        let name = part(1).to_owned();
        let is_watch = query.split('&').any(|pair| pair == "watch=true" || pair == "watch=1");
        let verb = match *request.method() {
            Method::POST => "create",
            Method::PUT => "update",
            Method::PATCH => "patch",
            Method::DELETE if name.is_empty() => "deletecollection",
            Method::DELETE => "delete",
            _ if is_watch => "watch",
            _ if name.is_empty() && !resource.is_empty() => "list",
            _ => "get",
        };
        Asked { verb, resource, namespace: namespace.to_owned(), name, path, query, at: Instant::now(), status: None }
    }

    /// Whether it would change something in the cluster.
    pub fn is_write(&self) -> bool {
        let is_changing = matches!(self.verb, "create" | "update" | "patch" | "delete" | "deletecollection");
        is_changing && !self.query.contains("dryRun=All")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_read_as_the_api_server_reads_it() {
        let read = |method: Method, uri: &str| {
            let asked = Asked::of(&Request::builder().method(method).uri(uri).body(()).unwrap());
            let is_write = asked.is_write();
            (asked.verb, asked.resource, asked.namespace, asked.name, is_write)
        };
        let is = |verb, resource: &str, namespace: &str, name: &str, is_write| {
            (verb, resource.to_owned(), namespace.to_owned(), name.to_owned(), is_write)
        };
        assert_eq!(
            read(Method::PATCH, "/apis/apps/v1/namespaces/shop/deployments/web?force=true"),
            is("patch", "deployments", "shop", "web", true)
        );
        assert_eq!(
            read(Method::PATCH, "/apis/apps/v1/namespaces/shop/deployments/web?dryRun=All"),
            is("patch", "deployments", "shop", "web", false)
        );
        assert_eq!(
            read(Method::PATCH, "/apis/towpath.dev/v1alpha1/namespaces/shop/environments/prod/status"),
            is("patch", "environments/status", "shop", "prod", true)
        );
        assert_eq!(
            read(Method::GET, "/api/v1/namespaces/shop/configmaps?watch=true"),
            is("watch", "configmaps", "shop", "", false)
        );
        assert_eq!(read(Method::GET, "/api/v1/namespaces/shop"), is("get", "namespaces", "", "shop", false));
        assert_eq!(read(Method::GET, "/apis"), is("get", "", "", "", false));
        assert_eq!(read(Method::DELETE, "/api/v1/nodes/a"), is("delete", "nodes", "", "a", true));
    }
}

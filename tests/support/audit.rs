//! The API server's audit log: who asked for what, counted.

use std::io::{BufRead, BufReader, Seek, SeekFrom};
use std::path::Path;

use anyhow::Result;
use serde_json::Value;

/// One request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// Who authenticated.
    pub user: String,
    /// Whom they acted as.
    pub impersonated: Option<String>,
    /// `get`, `patch`, `watch`, …
    pub verb: String,
    /// Plural name; with `/status` and the like where it is a subresource.
    pub resource: String,
    /// Namespace, empty for cluster-scoped.
    pub namespace: String,
    /// Name, empty for lists.
    pub name: String,
    /// With its query.
    pub uri: String,
    /// Status code.
    pub code: u64,
    /// What the client calls itself: which of several agents it is.
    pub client: String,
}

impl Request {
    /// Whether it would change something.
    pub fn is_write(&self) -> bool {
        matches!(self.verb.as_str(), "create" | "update" | "patch" | "delete" | "deletecollection")
            && !self.uri.contains("dryRun=All")
    }
}

/// A place in the log: what comes after it is of interest.
#[derive(Clone, Copy, Debug)]
pub struct Mark(u64);

impl Mark {
    /// The beginning of the log.
    pub fn start() -> Mark {
        Mark(0)
    }
}

/// The end of the log as it is now.
///
/// # Errors
/// When the log cannot be read.
pub fn mark(log: &Path) -> Result<Mark> {
    Ok(Mark(std::fs::metadata(log)?.len()))
}

/// Every request that was completed after a mark, watches at their start.
///
/// # Errors
/// When the log cannot be read.
pub fn since(log: &Path, mark: Mark) -> Result<Vec<Request>> {
    let mut file = std::fs::File::open(log)?;
    file.seek(SeekFrom::Start(mark.0))?;
    let mut requests = Vec::new();
    for line in BufReader::new(file).lines() {
        let Ok(event) = serde_json::from_str::<Value>(&line?) else { continue };
        // A watch is logged when it is answered and when it ends; everything else when it is done.
        let is_watch = event["verb"] == "watch";
        let stage = event["stage"].as_str().unwrap_or_default();
        if (is_watch && stage != "ResponseStarted") || (!is_watch && stage != "ResponseComplete") {
            continue;
        }
        let text = |pointer: &str| event.pointer(pointer).and_then(Value::as_str).unwrap_or_default().to_owned();
        let subresource = text("/objectRef/subresource");
        let mut resource = text("/objectRef/resource");
        if !subresource.is_empty() {
            resource = format!("{resource}/{subresource}");
        }
        requests.push(Request {
            user: text("/user/username"),
            impersonated: event.pointer("/impersonatedUser/username").and_then(Value::as_str).map(str::to_owned),
            verb: text("/verb"),
            resource,
            namespace: text("/objectRef/namespace"),
            name: text("/objectRef/name"),
            uri: text("/requestURI"),
            code: event.pointer("/responseStatus/code").and_then(Value::as_u64).unwrap_or_default(),
            client: text("/userAgent"),
        });
    }
    Ok(requests)
}

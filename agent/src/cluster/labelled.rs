//! The objects of an environment by its label, for its farewell: one list for each kind and namespace, and no watch.

use jiff::Timestamp;
use serde_json::Value;
use towpath_core::fault::Problem;
use towpath_core::manifest::ObjectKey;
use towpath_core::names::{ENVIRONMENT_LABEL, EnvironmentName};
use towpath_core::plan::Row;

use super::live::Reading;
use super::{AccountClient, Kind};

impl AccountClient {
    /// Everything of a kind in a namespace (`None`: cluster-scoped) that carries the label of an environment.
    ///
    /// # Errors
    /// When it could not be asked: then nothing is known.
    pub async fn labelled(
        &self,
        kind: &Kind,
        namespace: Option<&str>,
        environment: &EnvironmentName,
    ) -> Result<Vec<(ObjectKey, Row)>, Problem> {
        let selector = format!("{ENVIRONMENT_LABEL}={environment}");
        let items = self.list(kind, namespace.unwrap_or_default(), &selector).await?;
        let read = |mut item: Value| {
            // Items of a list come without their type.
            item["apiVersion"] = kind.api_version.as_str().into();
            item["kind"] = kind.kind.as_str().into();
            let Reading { key, version, seen, .. } = self.live.read(&item, Timestamp::now())?;
            Some((key, Row { seen, version, tick: self.live.tick() }))
        };
        Ok(items.into_iter().filter_map(read).collect())
    }
}

//! Records live objects from the real controllers, as fixtures of the health room.
//!
//! `make record-health` starts a control plane, brings objects into every phase that its controllers know, and writes
//! each as it then is to `agent/core/src/health/testdata/<kind>/<state>.yaml`. What differs from run to run (times,
//! UIDs, addresses, random names) is replaced, so that a second run changes only what the controllers do otherwise.

mod normal;
mod scenes;

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use kube::Client;
use kube::api::{Api, DynamicObject, Patch, PatchParams};
use serde_json::{Value, json};
use support::control_plane::ControlPlane;
use support::world;

/// How long one object may take to come into its phase. A CronJob needs a minute.
const PATIENCE: Duration = Duration::from_secs(100);

#[tokio::main]
async fn main() -> Result<()> {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let plane = tokio::task::spawn_blocking(ControlPlane::start).await??;
    let recorder = Recorder { client: world::client(&plane.admin_kubeconfig()).await?, only: std::env::args().nth(1) };
    scenes::all(&recorder).await
}

/// Where objects are made and recorded.
struct Recorder {
    client: Client,
    /// Record only fixtures whose name begins so.
    only: Option<String>,
}

impl Recorder {
    /// Whether a fixture is wanted.
    fn wants(&self, fixture: &str) -> bool {
        self.only.as_ref().is_none_or(|only| fixture.starts_with(only.as_str()))
    }

    /// Applies an object.
    async fn apply(&self, object: &Value) -> Result<()> {
        // Accounts, kinds and the like are there a moment after what they belong to.
        let deadline = Instant::now() + Duration::from_secs(20);
        loop {
            match world::apply(&self.client, object).await {
                Err(error) if Instant::now() > deadline => {
                    return Err(error.context(object.to_string()));
                }
                Err(_) => tokio::time::sleep(Duration::from_millis(200)).await,
                Ok(()) => return Ok(()),
            }
        }
    }

    /// Merge-patches an object, or its status.
    async fn patch(&self, like: &Value, patch: &Value, of_status: bool) -> Result<()> {
        let api = self.api(like).await?;
        let (name, params, patch) = (text(like, "/metadata/name"), PatchParams::default(), Patch::Merge(patch));
        if of_status {
            api.patch_status(name, &params, &patch).await?;
        } else {
            api.patch(name, &params, &patch).await?;
        }
        Ok(())
    }

    async fn delete(&self, like: &Value) -> Result<()> {
        self.api(like).await?.delete(text(like, "/metadata/name"), &Default::default()).await?;
        Ok(())
    }

    /// Waits until an object is as it should be, and writes it down.
    async fn record(&self, fixture: &str, like: &Value, is_so: impl Fn(&Value) -> bool) -> Result<Value> {
        let object = self.wait(fixture, like, is_so).await?;
        self.write(fixture, &object)?;
        Ok(object)
    }

    async fn wait(&self, what: &str, like: &Value, is_so: impl Fn(&Value) -> bool) -> Result<Value> {
        let api = self.api(like).await?;
        let deadline = Instant::now() + PATIENCE;
        let mut last = Value::Null;
        while Instant::now() < deadline {
            if let Some(object) = api.get_opt(text(like, "/metadata/name")).await? {
                last = serde_json::to_value(&object)?;
                if is_so(&last) {
                    return Ok(last);
                }
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        bail!("{what} did not come about: {last:#}")
    }

    /// The only pod with a label, once it is as it should be; under a name that stays the same.
    async fn record_pod_of(
        &self,
        fixture: &str,
        namespace: &str,
        label: &str,
        is_so: impl Fn(&Value) -> bool,
    ) -> Result<()> {
        let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"namespace": namespace}});
        let api = self.api(&pod).await?;
        let deadline = Instant::now() + PATIENCE;
        while Instant::now() < deadline {
            for pod in api.list(&kube::api::ListParams::default().labels(label)).await? {
                let mut pod = serde_json::to_value(&pod)?;
                // Items of a list come without their type.
                pod["apiVersion"] = "v1".into();
                pod["kind"] = "Pod".into();
                if is_so(&pod) {
                    return self.write(fixture, &normal::renamed(&pod));
                }
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        bail!("{fixture} did not come about")
    }

    fn write(&self, fixture: &str, object: &Value) -> Result<()> {
        if !self.wants(fixture) {
            return Ok(());
        }
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../agent/core/src/health/testdata");
        let file = folder.join(format!("{fixture}.yaml"));
        std::fs::create_dir_all(file.parent().context("a fixture has a folder")?)?;
        let body = serde_saphyr::to_string(&normal::normal(object))?;
        std::fs::write(&file, format!("{}\n{body}", normal::FIRST_LINE))?;
        #[expect(clippy::print_stdout, reason = "a program that a person runs")]
        {
            println!("{fixture}");
        }
        Ok(())
    }

    async fn api(&self, like: &Value) -> Result<Api<DynamicObject>> {
        let (group, version) = text(like, "/apiVersion").split_once('/').unwrap_or(("", text(like, "/apiVersion")));
        let gvk = kube::core::GroupVersionKind::gvk(group, version, text(like, "/kind"));
        let (resource, _) = kube::discovery::pinned_kind(&self.client, &gvk).await?;
        Ok(match text(like, "/metadata/namespace") {
            "" => Api::all_with(self.client.clone(), &resource),
            namespace => Api::namespaced_with(self.client.clone(), namespace, &resource),
        })
    }
}

/// A text of an object; empty where there is none.
fn text<'a>(object: &'a Value, pointer: &str) -> &'a str {
    object.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

/// A number of an object; 0 where there is none.
fn number(object: &Value, pointer: &str) -> i64 {
    object.pointer(pointer).and_then(Value::as_i64).unwrap_or_default()
}

/// Whether an object has a condition of this type with this status, and this reason where one is given.
fn has_condition(object: &Value, kind: &str, status: &str, reason: &str) -> bool {
    let conditions = object.pointer("/status/conditions").and_then(Value::as_array);
    conditions.is_some_and(|conditions| {
        conditions.iter().any(|condition| {
            condition["type"] == kind
                && condition["status"] == status
                && (reason.is_empty() || condition["reason"] == reason)
        })
    })
}

/// Whether the controller has seen the last change.
fn is_observed(object: &Value) -> bool {
    object.pointer("/metadata/generation") == object.pointer("/status/observedGeneration")
}

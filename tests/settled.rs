//! An environment that runs, and what is known of its objects.

use std::io::Read;

use base64::Engine;
use serde_json::{Value, json};
use support::audit::Mark;
use support::world::World;

/// A world whose environment, named like it, runs these files of the folder `prod` at `master`.
pub async fn runs_on(mut world: World, files: &[(String, String)]) -> World {
    let files: Vec<(&str, &str)> = files.iter().map(|(path, text)| (path.as_str(), text.as_str())).collect();
    world.repo.commit("master", "first", &files);
    let name = world.namespace.clone();
    world.follow(&name, json!({"lane": "master", "path": "prod"})).await;
    world.runs(&name, "master").await;
    world
}

/// The lines of a world's inventory.
pub async fn inventory(world: &World) -> String {
    let name = format!("towpath-inventory-{}", world.namespace);
    let map = world.get("v1", "ConfigMap", &name).await.unwrap_or_default();
    unpacked(map["binaryData"]["members.gz"].as_str().unwrap_or_default())
}

/// The lines of an inventory, as a ConfigMap holds it.
pub fn unpacked(base64: &str) -> String {
    let packed = base64::engine::general_purpose::STANDARD.decode(base64).expect("bytes are written as base64");
    let mut text = String::new();
    flate2::read::GzDecoder::new(packed.as_slice()).read_to_string(&mut text).expect("an inventory is compressed");
    text
}

/// The names of what the agent deleted or tried to delete after a mark, in order.
pub fn deleted(world: &World, since: Mark) -> Vec<String> {
    let requests = world.requests_since(since).into_iter();
    requests.filter(|request| request.verb == "delete").map(|request| request.name).collect()
}

/// The UID of an object; empty for none.
pub fn uid(object: &Value) -> String {
    object["metadata"]["uid"].as_str().unwrap_or_default().to_owned()
}

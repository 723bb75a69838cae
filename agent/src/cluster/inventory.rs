//! Where the inventory of an environment is kept: compressed, in one ConfigMap beside the Environment, owned by it.

use std::io::{Read, Write};

use flate2::Compression;
use flate2::read::GzDecoder;
use flate2::write::GzEncoder;
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::ConfigMap;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use kube::api::{Api, Patch, PatchParams, PostParams};
use towpath_core::environment::Environment;
use towpath_core::fault::Problem;
use towpath_core::inventory::Inventory;
use towpath_core::names::{EnvironmentName, FIELD_MANAGER};

use super::{Cluster, call};
use crate::seeded;

/// Bytes that a packed inventory may have; a ConfigMap may have 1 MiB. 20 000 members need about 800 KB.
const MAX_PACKED_BYTES: usize = 1_000_000;
/// Bytes that an inventory may have when it is unpacked.
const MAX_BYTES: u64 = 64 << 20;
/// Label of the ConfigMap; its value is the environment's name. It is not the label of managed objects.
const INVENTORY_LABEL: &str = "towpath.dev/inventory";
/// The key of the ConfigMap's `binaryData`.
const KEY: &str = "members.gz";

/// How often a write is tried where only the version of the ConfigMap has moved on.
const TRIES: u32 = 5;

/// An inventory as it is stored.
#[derive(Clone, Debug, Default)]
pub struct Stored {
    /// The members.
    pub inventory: Inventory,
    /// Its resource version; `None` where none is stored, which is the same as an empty one.
    pub version: Option<String>,
}

fn name_of(environment: &EnvironmentName) -> String {
    format!("towpath-inventory-{environment}")
}

impl Cluster {
    /// Reads the inventory of an environment. One that was never written is empty.
    ///
    /// # Errors
    /// As [`Cluster::find_inventory`].
    pub async fn read_inventory(&self, environment: &Environment) -> Result<Inventory, Problem> {
        let stored = self.find_inventory(&environment.home, &environment.name).await?;
        Ok(stored.map(|stored| stored.inventory).unwrap_or_default())
    }

    /// Reads the inventory of an environment by its name. `None` where there is none.
    ///
    /// # Errors
    /// `Passing` when it could not be asked, `Setup` when it cannot be read: a part of an inventory is never taken for
    /// the whole.
    pub async fn find_inventory(&self, home: &str, environment: &EnvironmentName) -> Result<Option<Stored>, Problem> {
        let api: Api<ConfigMap> = Api::namespaced(self.own_client(), home);
        let name = name_of(environment);
        let found = match call::own(&self.permits, api.get_opt(&name)).await {
            Err(_) if seeded::has("unread-inventory-is-empty") => None,
            found => found?,
        };
        let Some(map) = found else { return Ok(None) };
        let damaged = |what: &str| {
            Problem::setup(format!("the inventory ConfigMap {home}/{name} {what}"))
                .hint("delete it: the members are then found again by their labels")
        };
        let packed = map.binary_data.as_ref().and_then(|data| data.get(KEY)).ok_or_else(|| damaged("is empty"))?;
        let inventory = unpack(&packed.0).map_err(|why| damaged(&why))?;
        Ok(Some(Stored { inventory, version: map.metadata.resource_version }))
    }

    /// Writes the inventory of an environment in place of what was read, and gives what is stored then. One that lists
    /// something else than what was read is never written over: it may name members that are not known here. That somebody
    /// annotated or deleted the ConfigMap is no reason to give up.
    ///
    /// # Errors
    /// `Passing`, or `Setup` when the agent lacks the right. Nothing may be applied that is not written down.
    pub async fn write_inventory(
        &self,
        environment: &Environment,
        inventory: &Inventory,
        before: &Stored,
    ) -> Result<Stored, Problem> {
        self.replace_inventory(environment, inventory, before, false).await
    }

    /// Asks whether the inventory still lists what was read, by a dry run of writing just that: a server may answer a read
    /// from the past, but not a write. Gives what is stored.
    ///
    /// # Errors
    /// `Passing` when it lists something else by now, or that could not be asked.
    pub async fn confirm_inventory(&self, environment: &Environment, read: &Stored) -> Result<Stored, Problem> {
        self.replace_inventory(environment, &read.inventory, read, true).await
    }

    async fn replace_inventory(
        &self,
        environment: &Environment,
        inventory: &Inventory,
        before: &Stored,
        dry_run: bool,
    ) -> Result<Stored, Problem> {
        let packed = pack(inventory);
        if packed.len() > MAX_PACKED_BYTES {
            return Err(Problem::content(format!("{} members are more than an inventory can hold", inventory.len()))
                .hint("split the environment"));
        }
        let name = name_of(&environment.name);
        let mut map = ConfigMap {
            metadata: ObjectMeta {
                name: Some(name.clone()),
                labels: Some([(INVENTORY_LABEL.to_owned(), environment.name.to_string())].into()),
                owner_references: Some(vec![OwnerReference {
                    api_version: "towpath.dev/v1alpha1".to_owned(),
                    kind: "Environment".to_owned(),
                    name: environment.name.to_string(),
                    uid: environment.uid.clone(),
                    ..OwnerReference::default()
                }]),
                ..ObjectMeta::default()
            },
            binary_data: Some([(KEY.to_owned(), ByteString(packed))].into()),
            ..ConfigMap::default()
        };
        let api: Api<ConfigMap> = Api::namespaced(self.own_client(), &environment.home);
        let mut version = before.version.clone();
        for _ in 0..TRIES {
            map.metadata.resource_version = version.clone();
            let writing = async {
                let written = match &version {
                    // An apply would write over one that came meanwhile.
                    None => {
                        let manager = Some(FIELD_MANAGER.to_owned());
                        api.create(&PostParams { field_manager: manager, dry_run }, &map).await
                    }
                    Some(_) => {
                        let params = PatchParams { dry_run, ..PatchParams::apply(FIELD_MANAGER).force() };
                        api.patch(&name, &params, &Patch::Apply(&map)).await
                    }
                };
                match written {
                    Err(kube::Error::Api(status)) if status.code == 409 => Ok(None),
                    written => written.map(Some),
                }
            };
            if let Some(written) = call::own(&self.permits, writing).await? {
                let version = if dry_run { version } else { written.metadata.resource_version };
                return Ok(Stored { inventory: inventory.clone(), version });
            }
            match self.find_inventory(&environment.home, &environment.name).await? {
                // It is our own: the answer to an earlier try was lost.
                Some(stored) if !dry_run && stored.inventory == *inventory => return Ok(stored),
                Some(stored) if before.version.is_some() && stored.inventory == before.inventory => {
                    version = stored.version;
                }
                // All that was in it is known here.
                None => version = None,
                Some(_) => break,
            }
        }
        Err(Problem::passing(format!("the inventory {name} is not as it was read, and is read again")))
    }
}

fn pack(inventory: &Inventory) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(inventory.to_lines().as_bytes()).expect("writing to memory does not fail");
    encoder.finish().expect("writing to memory does not fail")
}

fn unpack(packed: &[u8]) -> Result<Inventory, String> {
    let mut text = String::new();
    GzDecoder::new(packed)
        .take(MAX_BYTES)
        .read_to_string(&mut text)
        .map_err(|error| format!("cannot be unpacked: {error}"))?;
    Inventory::from_lines(&text).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As many as an environment may have, with names and UIDs that do not repeat.
    #[test]
    fn the_largest_environment_fits_and_reads_back() {
        let lines: String = (0..towpath_core::limits::MAX_OBJECTS as u128)
            .map(|number| {
                let uid = number.wrapping_mul(0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835);
                format!("apps/v1 Deployment team-{} web-{number} {uid:032x}\n", number % 100)
            })
            .collect();
        let inventory = Inventory::from_lines(&lines).unwrap();
        let packed = pack(&inventory);
        assert!(packed.len() < MAX_PACKED_BYTES, "{}", packed.len());
        assert_eq!(unpack(&packed), Ok(inventory));
    }

    #[test]
    fn a_cut_inventory_is_an_error() {
        let packed = pack(&Inventory::from_lines("v1 ConfigMap web a 1\n").unwrap());
        assert!(unpack(&packed[..packed.len() / 2]).is_err());
        assert!(unpack(b"").is_err());
    }
}

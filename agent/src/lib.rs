//! Towpath: the doors to git, the cluster, the web and the disk, and the flows that join them.
//!
//! Doors do IO and return the types of `towpath_core`; they do not know each other. Flows are read like a table of
//! contents; they do not know each other either.

mod blocking;
mod clients;
pub mod seeded;
pub mod resources;
pub mod board;
pub mod metrics;
pub mod cluster;
pub mod repo;
pub mod registry;
pub mod alerts;
pub mod web;
pub mod ledger;
pub mod bump;
pub mod cut;
pub mod rollback;
pub mod releases;
pub mod sync;
pub mod agent;
pub mod disk;
pub mod cli;

//! The pure rooms of Towpath.
//!
//! Data walks one way: a [`tree::Tree`] comes in through a door, is rendered, cleared by policy, compared with what is
//! there, and leaves as a plan; what was seen of the cluster comes in and leaves as health, a decision, a status.
//! No room does IO or reads the clock. The modules stand in the order in which data flows, and each uses only modules
//! above it; a test holds that.

pub mod fault;
pub mod limits;
pub mod names;
pub mod signature;
pub mod revision;
pub mod lane;
pub mod version;
pub mod candidate;
pub mod tree;
pub mod manifest;
pub mod redact;
pub mod images;
pub mod pointer;
pub mod glob;
pub mod ignore;
pub mod health;
pub mod alerts;
pub mod environment;
pub mod fingerprint;
pub mod owners;
pub mod left;
pub mod fights;
pub mod yaml;
pub mod lint;
pub mod values;
pub mod components;
pub mod bump;
pub mod commits;
pub mod matrix;
pub mod changelog;
pub mod hygiene;
pub mod revert;
pub mod render;
pub mod scope;
pub mod course;
pub mod policy;
pub mod inventory;
pub mod plan;
pub mod decide;
pub mod lease;
pub mod status;
pub mod hooks;
pub mod ledger;
pub mod rollback;

//! The pure rooms of Towpath.
//!
//! Data walks one way: a [`tree::Tree`] comes in through a door, is rendered, cleared by policy, compared with what is
//! there, and leaves as a plan; what was seen of the cluster comes in and leaves as health, a decision, a status.
//! No room does IO or reads the clock, and a module uses only modules declared above it.

pub mod environment;
pub mod fault;
pub mod lane;
pub mod limits;
pub mod manifest;
pub mod names;
pub mod revision;
pub mod tree;

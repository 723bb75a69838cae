//! What journeys, the demo and the benchmark share: real servers, real repositories, the real agent.

pub mod agent;
pub mod alertmanager;
pub mod audit;
pub mod control_plane;
pub mod deploy_repo;
pub mod faults;
pub mod git_server;
pub mod process;
pub mod registry;
pub mod webhook;
pub mod world;

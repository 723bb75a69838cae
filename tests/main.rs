//! Journeys against real servers, in one binary.

mod architecture;
mod manifests;
mod repo;
mod examples;
mod journey;
mod processes;
mod spine;
mod lanes;
mod guards;
mod endings;
mod farewell;
mod handover;
mod prune;
mod ownership;

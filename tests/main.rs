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
mod leader;
mod ownership;
mod owners;
mod replacing;
mod token;
mod faults;

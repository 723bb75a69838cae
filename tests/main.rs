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
mod confirm;
mod endings;
mod farewell;
mod handover;
mod orphans;
mod prune;
mod ownership;
mod owners;
mod replacing;
mod faults;
mod throttle;
mod token;
mod health;
mod waves;
mod hooks;
mod preflight;

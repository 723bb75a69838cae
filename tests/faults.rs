//! What faults do to a release: the agent is killed, answers are lost, servers are away, disks and lists are damaged.
//! Each journey ends where a run without faults ends.

mod cluster;
mod disk;
mod end;
mod outage;
mod partial;
mod plans;
mod release;
mod rollback;
mod stale;
mod trials;
mod trust;

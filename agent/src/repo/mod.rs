//! The git door: what stands on the branches of a deploy repository, fetched into a bare mirror and read from there; and
//! commits that are made in the mirror and pushed.
//!
//! It takes a [`Remote`] and [`Credentials`] and gives core's `Heads`, `Revision` and `Tree`. There is never a working
//! copy, and git's own program is never run.
//!
//! # Guarantees
//! * Every call ends: the network has deadlines and byte caps ([`Terms`]).
//! * A commit is shown only after it and everything its tree needs has arrived; a fetch that fails halfway changes no
//!   branch of the mirror.
//! * Credentials go to the host of the address and nowhere else: redirects are not followed.
//! * Of the refs on the server only branches are looked at, and what is asked for by its prefix; names that git would not
//!   take are as if they were not there.
//!
//! * A push moves each ref forward, only from where it is thought to stand, and says what became of each. Where the answer
//!   is lost, the server is looked at again; nothing is guessed, forced or deleted.
//!
//! # Assumptions
//! Calls block, opening a [`Mirror`] and giving it credentials too: an async caller uses `spawn_blocking`.

use std::sync::Once;

pub mod remote;

mod commit;
mod compact;
pub mod mirror;
mod new_tree;
mod source;
mod tree;

mod fetch;
mod http;
mod local;
mod ls_refs;
mod pack;
mod packet;
mod push;
mod receive;
mod ssh;

mod options;
mod parts;
mod reverts;
mod secret;
mod terms;
mod view;
pub mod watch;

pub use commit::{MAX_PARENTS, Person, StoredCommit};
pub use compact::MAX_SMALL_PACKS;
pub use fetch::MAX_PACK_BYTES;
pub use ls_refs::{MAX_LISTING_BYTES, Refs};
pub use mirror::{
    BroughtLimits, Chain, ComponentLook, Look, MAX_COMMIT_BYTES, MIN_PREFIX, Mirror, Moved, NewCommit, RefMove,
    Reversal, Rooted, Sign, Undoing,
};
pub use new_tree::NewTree;
pub use pack::{MAX_DELTA_RESULT_BYTES, MAX_OBJECT_BYTES, MAX_PACK_OBJECTS, MAX_UNPACKED_BYTES};
pub use parts::{Part, Parts, Pinned};
pub use push::{MAX_PUSH_BYTES, MAX_UPDATES, Outcome, Refusal, Update};
pub use receive::MAX_REPORT_BYTES;
pub use remote::{Credentials, Login, Remote};
pub use reverts::{MAX_LOOKED_AT, Settled, StandingRevert, brought, reverts};
pub use secret::credentials;
pub use terms::{MAX_REFUSALS, Terms};
pub use tree::{MAX_ENTRIES, MAX_TREE_OBJECT_BYTES, MAX_TREE_PROBLEMS};
pub use view::{View, is_allowed};

/// Prepares the process: libgit2's settings, and ring as the provider of TLS where none has been chosen. May be called
/// any number of times; [`Mirror::open`] does it too.
pub fn init() {
    static ONCE: Once = Once::new();
    options::set();
    ONCE.call_once(|| {
        // An error means that the process has chosen a provider already, which is as good.
        let _ = rustls::crypto::ring::default_provider().install_default();
    });
}

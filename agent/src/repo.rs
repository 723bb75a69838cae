//! The door to git: a bare mirror of each repository, and no working copy.
//!
//! libgit2 is built without its own network code. `https` goes over [`http`], which has deadlines, byte caps and no
//! redirects; `ssh` goes over a child process with fixed arguments. All calls block: callers run them beside the
//! runtime's own threads.

mod http;
mod ls_refs;
mod mirror;
mod remote;
mod secret;
mod ssh;
mod view;
mod watch;
mod wire;

pub use mirror::{Mirror, Moved};
pub use remote::Remote;
pub use secret::{Credentials, credentials};
pub use view::View;
pub use watch::watch_local;

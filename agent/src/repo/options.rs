//! Settings of libgit2 that belong to the whole process. The only `unsafe` of the git door is here: libgit2 keeps them
//! in plain globals, so they are set once, before the first repository is opened.

use std::sync::Once;

use git2::{ConfigLevel, opts};

static ONCE: Once = Once::new();

/// Sets libgit2 up: hashes are checked whenever an object is read, configuration of the machine and of users is not
/// read, and a mirror may belong to another user than the process (a volume in a container often does).
///
/// May be called any number of times.
pub(super) fn set() {
    ONCE.call_once(|| {
        opts::strict_hash_verification(true);
        opts::strict_object_creation(true);
        let levels = [ConfigLevel::System, ConfigLevel::Global, ConfigLevel::XDG, ConfigLevel::ProgramData];
        // SAFETY: these write libgit2's globals and must not run beside a call that reads them. `Once` lets one thread
        // in, and every way to a repository in this door passes through here first.
        #[allow(unsafe_code)]
        unsafe {
            opts::set_verify_owner_validation(false).expect("libgit2 has no way to refuse this setting");
            for level in levels {
                opts::set_search_path(level, "").expect("libgit2 takes an empty search path");
            }
        }
    });
}

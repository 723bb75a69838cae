//! A repository on our own disk is seen to change at once.

use std::path::Path;
use std::time::Duration;

use notify::{EventKind, RecommendedWatcher, RecursiveMode, Watcher};
use towpath_core::fault::Problem;

/// Keeps watching until it is dropped.
pub struct LocalWatch(#[allow(dead_code, reason = "it is kept for what its end does")] RecommendedWatcher);

/// How long a burst of changes is gathered.
const GATHERED: Duration = Duration::from_millis(2);

/// Calls `on_change` after references of a repository changed: a bare one, or one with a `.git` folder.
///
/// # Errors
/// `Passing` when the system cannot watch (its limits, or a file system without events): the caller polls.
pub fn watch_local(path: &Path, on_change: impl Fn() + Send + 'static) -> Result<LocalWatch, Problem> {
    let cannot = |error: notify::Error| Problem::passing(format!("cannot watch {}: {error}", path.display()));
    let inner = path.join(".git");
    let root = if inner.is_dir() { inner } else { path.to_owned() };
    let (sender, receiver) = std::sync::mpsc::channel();
    let mut watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
        let concerns_us = match &event {
            // Reading is no change, and objects come before the reference that names them.
            Ok(event) => {
                !matches!(event.kind, EventKind::Access(_))
                    && event.paths.iter().any(|path| path.extension().is_none_or(|extension| extension != "lock"))
            }
            // Events were lost: look.
            Err(_) => true,
        };
        if concerns_us {
            let _ = sender.send(());
        }
    })
    .map_err(cannot)?;
    // `packed-refs` is replaced by a rename, which only its folder shows.
    watcher.watch(&root, RecursiveMode::NonRecursive).map_err(cannot)?;
    watcher.watch(&root.join("refs"), RecursiveMode::Recursive).map_err(cannot)?;
    std::thread::Builder::new()
        .name("local-watch".to_owned())
        .spawn(move || {
            while receiver.recv().is_ok() {
                while receiver.recv_timeout(GATHERED).is_ok() {}
                on_change();
            }
        })
        .map_err(|error| Problem::passing(format!("cannot start a thread: {error}")))?;
    Ok(LocalWatch(watcher))
}

//! Watches a repository in a folder of this machine, so that a commit is seen at once and not at the next look.

use std::path::Path;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread;
use std::time::{Duration, Instant};

use git2::Repository;
use notify::{Event, EventKind, RecommendedWatcher, RecursiveMode, Watcher};
use towpath_core::fault::Problem;
use towpath_core::revision::clean_line;

/// Without another change for this long a burst is over.
const QUIET: Duration = Duration::from_millis(3);
/// A burst that does not end is told of this often.
const LONGEST_BURST: Duration = Duration::from_millis(25);

/// Watches as long as it lives.
#[derive(Debug)]
pub struct Watch {
    _watcher: RecommendedWatcher,
}

/// Calls `on_change` soon after a branch of a repository, bare or not, has moved. Changes in a burst are told once.
///
/// It says only "look now": it may be called without need, and a change may be missed (a folder that is replaced, a
/// file system without notifications), so whoever watches also polls. `on_change` runs on a thread of its own.
///
/// # Errors
/// A `Setup` problem when there is no repository, a `Passing` one when it cannot be watched: the caller polls only.
pub fn watch_local(path: &Path, on_change: impl Fn() + Send + 'static) -> Result<Watch, Problem> {
    super::init();
    let repository = Repository::open(path).map_err(|error| {
        let why = clean_line(error.message(), 200);
        Problem::setup(format!("{} is no git repository that can be opened: {why}", path.display()))
            .hint("name a folder with a git repository that the agent may read")
    })?;
    let unwatched =
        |error: notify::Error| Problem::passing(format!("{} cannot be watched, only polled: {error}", path.display()));
    let (changed, changes) = channel();
    let mut watcher = notify::recommended_watcher(move |event: notify::Result<Event>| {
        // An error says that events may have been lost, which is a reason to look.
        if event.is_ok_and(|event| is_noise(&event)) {
            return;
        }
        // The receiver ends only with the watcher.
        let _ = changed.send(());
    })
    .map_err(unwatched)?;
    let folder = repository.commondir();
    watcher.watch(&folder.join("refs"), RecursiveMode::Recursive).map_err(unwatched)?;
    // For `packed-refs` and `HEAD`, which are replaced and not written.
    watcher.watch(folder, RecursiveMode::NonRecursive).map_err(unwatched)?;
    thread::spawn(move || tell(&changes, on_change));
    Ok(Watch { _watcher: watcher })
}

/// Whether an event cannot mean that a branch has moved.
fn is_noise(event: &Event) -> bool {
    let is_change = matches!(
        event.kind,
        EventKind::Any | EventKind::Other | EventKind::Create(_) | EventKind::Modify(_) | EventKind::Remove(_)
    );
    let may_be_a_ref = |path: &Path| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let is_below_refs = path.components().any(|part| part.as_os_str() == "refs");
        !name.ends_with(".lock") && (is_below_refs || name == "packed-refs" || name == "HEAD")
    };
    !is_change || !(event.paths.is_empty() || event.paths.iter().any(|path| may_be_a_ref(path)))
}

fn tell(changes: &Receiver<()>, on_change: impl Fn()) {
    while changes.recv().is_ok() {
        let start = Instant::now();
        while start.elapsed() < LONGEST_BURST {
            match changes.recv_timeout(QUIET) {
                Ok(()) => {}
                Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => break,
            }
        }
        on_change();
    }
}

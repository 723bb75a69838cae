//! Answers that are shared: many environments that move to one commit ask for one image, and the registry is asked once.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use super::{Identity, Looked, lock};

/// How long it counts that an image is there.
const FOUND: Duration = Duration::from_secs(10);
/// How long it counts that it is not, or that nothing is known: it may be pushed at any moment.
const NOT_FOUND: Duration = Duration::from_secs(1);
/// Answers beyond which the old ones are forgotten.
const MAX_ANSWERS: usize = 1000;

/// An answer, and when it came. Who holds it is asking.
type Answer = Arc<tokio::sync::Mutex<Option<(Instant, Looked)>>>;

/// What was answered a moment ago, by image and login.
#[derive(Default)]
pub(super) struct Answers(Mutex<HashMap<(String, Identity), Answer>>);

impl Answers {
    /// The answer to a question that was asked a moment ago or is being asked now by somebody else, or else to this look.
    pub(super) async fn share(&self, image: String, identity: Identity, look: impl Future<Output = Looked>) -> Looked {
        let began = Instant::now();
        let answer = {
            let mut known = lock(&self.0);
            if known.len() >= MAX_ANSWERS {
                known
                    .retain(|_, answer| answer.try_lock().map_or(true, |answer| answer.as_ref().is_some_and(is_fresh)));
            }
            known.entry((image, identity)).or_default().clone()
        };
        let mut answer = answer.lock().await;
        if let Some(known) = answer.as_ref().filter(|known| known.0 >= began || is_fresh(known)) {
            return known.1.clone();
        }
        let looked = look.await;
        *answer = Some((Instant::now(), looked.clone()));
        looked
    }
}

fn is_fresh((at, looked): &(Instant, Looked)) -> bool {
    let lasts = if matches!(looked, Looked::Found(_)) { FOUND } else { NOT_FOUND };
    at.elapsed() < lasts
}

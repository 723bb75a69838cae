//! One object comes from one place.

use std::sync::Arc;

use super::Desired;
use crate::fault::Problem;

/// Refuses an object that is there twice, naming both places. `objects` are in the order of their keys.
pub(super) fn judge(objects: &[Arc<Desired>], found: &mut Vec<Problem>) {
    for same in objects.chunk_by(|one, next| one.key == next.key) {
        let [first, others @ ..] = same else { continue };
        for other in others {
            found.push(
                Problem::content(format!("{} is here and in {}", other.key, first.source))
                    .at(other.source.clone())
                    .hint("remove or rename one of the two"),
            );
        }
    }
}

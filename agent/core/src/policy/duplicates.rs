//! One object comes from one place.

use crate::fault::Problem;
use crate::manifest::Manifest;
use crate::policy::places_by_key;

/// Refuses an object that is there twice, naming both places.
pub(super) fn judge(manifests: &[Manifest], found: &mut Vec<Problem>) {
    for (key, places) in places_by_key(manifests) {
        let [first, others @ ..] = &places[..] else { continue };
        for other in others {
            found.push(
                Problem::content(format!("{key} is here and in {first}"))
                    .at((*other).clone())
                    .hint("remove or rename one of the two"),
            );
        }
    }
}

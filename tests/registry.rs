//! Images are looked up before an environment moves to them: on a real registry.

mod door;

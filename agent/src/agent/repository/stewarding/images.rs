//! Components move when their images are there, where `towpath.yaml` asks for that.

use std::time::{Duration, Instant};

use towpath_core::bump::Move;
use towpath_core::fault::Problem;

use super::super::Task;
use crate::blocking::blocking;
use crate::bump::{self, Lane};
use crate::registry::{ImageName, Keys, Looked};
use crate::resources::ResolvedRepository;

/// When an image that was missing is looked for again: at first, and at the longest.
const FIRST_PAUSE: Duration = Duration::from_secs(10);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);
/// Time for all images of one look together, but for the last: branches are looked at meanwhile by nobody.
const LOOKED_UP_WITHIN: Duration = Duration::from_secs(10);
/// Images that are waited for at one time.
const MAX_WAITS: usize = 1000;

/// An image that is not there, or of which that is not known.
pub(super) struct Wait {
    problem: Problem,
    looks: u32,
    again: Instant,
}

impl Task {
    /// The moves whose images are there, and what the others wait for. They are looked for again ever more slowly.
    pub(super) async fn with_images(
        &mut self,
        resolved: &ResolvedRepository,
        lane: &Lane,
        mut moves: Vec<Move>,
    ) -> Result<(Vec<Move>, Vec<Problem>), Problem> {
        let Some((mirror, _)) = self.lane(&lane.branch) else { return Ok((Vec::new(), Vec::new())) };
        let parts = self.components.parts.clone();
        let images = {
            let (lane, moves) = (lane.clone(), moves.clone());
            blocking(move || bump::images(&mirror, &parts, &lane, &moves)).await?
        };
        if images.is_empty() {
            return Ok((moves, Vec::new()));
        }
        let mut keys = Keys::default();
        for name in &resolved.image_pull_secrets {
            let secret = self.shared.cluster.secret(&resolved.home, name).await?;
            let secret = serde_json::to_value(secret).map_err(|error| Problem::setup(error.to_string()))?;
            keys.add(name, &secret)?;
        }
        let began = Instant::now();
        let mut problems = Vec::new();
        for image in images {
            let waits = self.stewarding.waits.get(&image.image);
            let problem = match waits.filter(|wait| wait.again > Instant::now()) {
                Some(wait) => Some(wait.problem.clone()),
                // The others are asked about at the next look.
                None if began.elapsed() > LOOKED_UP_WITHIN => {
                    let look_in = self.stewarding.look_in.map_or(began.elapsed(), |known| known.min(began.elapsed()));
                    self.stewarding.look_in = Some(look_in);
                    let bump::Image { path, image } = &image;
                    Some(Problem::passing(format!("component {path} waits for its image {image}: not looked up yet")))
                }
                None => {
                    let looks = waits.map_or(0, |wait| wait.looks);
                    let problem = self.look_up(&image, &keys).await;
                    if let Some(problem) = problem.clone() {
                        let pause = FIRST_PAUSE.saturating_mul(2u32.saturating_pow(looks)).min(LONGEST_PAUSE);
                        let again = Instant::now() + self.shared.settings.scaled(pause);
                        let wait = Wait { problem, looks: looks + 1, again };
                        self.stewarding.waits.insert(image.image.clone(), wait);
                    } else {
                        self.stewarding.waits.remove(&image.image);
                    }
                    problem
                }
            };
            if let Some(problem) = problem {
                moves.retain(|one| one.path != image.path);
                if let Some(wait) = self.stewarding.waits.get(&image.image) {
                    let remaining = wait.again.saturating_duration_since(Instant::now());
                    let look_in = self.stewarding.look_in.map_or(remaining, |known| known.min(remaining));
                    self.stewarding.look_in = Some(look_in);
                }
                problems.push(problem);
            }
        }
        while self.stewarding.waits.len() > MAX_WAITS {
            self.stewarding.waits.pop_first();
        }
        Ok((moves, problems))
    }

    /// Why a component does not move to an image; none where it is there.
    async fn look_up(&self, image: &bump::Image, keys: &Keys) -> Option<Problem> {
        let bump::Image { path, image } = image;
        let name = match ImageName::parse(image) {
            Ok(name) => name,
            Err(problem) => return Some(problem),
        };
        match self.shared.registries.look_up(&name, keys).await {
            Looked::Found(_) => None,
            Looked::Missing => Some(
                Problem::passing(format!(
                    "component {path} waits for its image {image}: {} does not have it",
                    name.host()
                ))
                .hint("push it; it is looked for again by itself"),
            ),
            Looked::Unknown(problem) => {
                let message = format!("component {path} waits for its image {image}: {}", problem.message);
                Some(Problem { message, ..problem })
            }
        }
    }
}

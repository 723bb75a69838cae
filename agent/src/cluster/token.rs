//! The agent's token from a file that is replaced while it runs.
//!
//! The file is read every few seconds and whenever a token was refused. One that is empty, gone or cannot be read
//! changes nothing: the last good token is used until the API server refuses it, and an empty one never is. kube's own
//! reader takes an empty file for a token, and one with a line feed at its end for none.

use std::path::PathBuf;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use http::HeaderValue;

/// How long a token is used before its file is read again. The kubelet replaces it at four fifths of its life.
const READ_AGAIN: Duration = Duration::from_secs(10);
/// How often it is read at most while the API server refuses it.
const WHILE_REFUSED: Duration = Duration::from_secs(1);

/// A token in a file.
pub(super) struct TokenFile {
    path: PathBuf,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    header: Option<HeaderValue>,
    read_at: Option<Instant>,
    is_refused: bool,
}

impl TokenFile {
    pub(super) fn new(path: PathBuf) -> TokenFile {
        TokenFile { path, state: Mutex::default() }
    }

    /// The header with the token; `None` where there never was one.
    pub(super) fn header(&self, now: Instant) -> Option<HeaderValue> {
        let mut state = self.state.lock().expect("nothing panics while it holds this lock");
        let limit = if state.is_refused || state.header.is_none() { WHILE_REFUSED } else { READ_AGAIN };
        if state.read_at.is_none_or(|read_at| now.saturating_duration_since(read_at) >= limit) {
            state.read_at = Some(now);
            match self.read() {
                Some(header) => {
                    state.is_refused = state.is_refused && state.header.as_ref() == Some(&header);
                    state.header = Some(header);
                }
                None => {
                    tracing::warn!(file = %self.path.display(), "the token file holds no token; the last one stays")
                }
            }
        }
        state.header.clone()
    }

    /// The API server refused the token: the file may hold another one by now.
    pub(super) fn refused(&self) {
        self.state.lock().expect("nothing panics while it holds this lock").is_refused = true;
    }

    /// It took the token.
    pub(super) fn taken(&self) {
        self.state.lock().expect("nothing panics while it holds this lock").is_refused = false;
    }

    fn read(&self) -> Option<HeaderValue> {
        // A few hundred bytes in memory (tmpfs): no reason to leave the thread.
        let text = std::fs::read_to_string(&self.path).ok()?;
        let token = text.trim();
        if token.is_empty() {
            return None;
        }
        let mut header = HeaderValue::try_from(format!("Bearer {token}")).ok()?;
        header.set_sensitive(true);
        Some(header)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(header: Option<HeaderValue>) -> Option<String> {
        header.map(|header| header.to_str().unwrap().to_owned())
    }

    #[test]
    fn a_token_is_followed_and_an_empty_or_missing_file_is_none() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("token");
        let file = TokenFile::new(path.clone());
        let start = Instant::now();
        let later = |seconds| start + Duration::from_secs(seconds);
        assert_eq!(file.header(start), None, "it is not there yet");
        std::fs::write(&path, "").unwrap();
        assert_eq!(file.header(later(1)), None, "an empty file is no token");
        std::fs::write(&path, "one\n").unwrap();
        assert_eq!(said(file.header(later(2))), Some("Bearer one".into()));
        std::fs::write(&path, "two").unwrap();
        assert_eq!(said(file.header(later(11))), Some("Bearer one".into()), "it is not read for each request");
        assert_eq!(said(file.header(later(12))), Some("Bearer two".into()));
        for nothing in ["", " \n", "\u{0}\n"] {
            std::fs::write(&path, nothing).unwrap();
            assert_eq!(said(file.header(later(60))), Some("Bearer two".into()), "{nothing:?}");
        }
        std::fs::remove_file(&path).unwrap();
        assert_eq!(said(file.header(later(90))), Some("Bearer two".into()));
    }

    #[test]
    fn a_refused_token_is_looked_for_at_once() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("token");
        std::fs::write(&path, "old").unwrap();
        let file = TokenFile::new(path.clone());
        let start = Instant::now();
        file.header(start);
        std::fs::write(&path, "new").unwrap();
        file.refused();
        assert_eq!(said(file.header(start + Duration::from_millis(900))), Some("Bearer old".into()));
        assert_eq!(said(file.header(start + WHILE_REFUSED)), Some("Bearer new".into()));
    }
}

//! Which requests a proxy does something to, and what.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use super::Asked;

/// Requests that something is done to.
#[derive(Clone)]
pub struct On {
    is_meant: Arc<dyn Fn(&Asked) -> bool + Send + Sync>,
    which: Which,
}

/// Which of the requests that are meant.
#[derive(Clone, Copy)]
enum Which {
    All,
    First(u32),
    Nth(u32),
}

impl On {
    /// All requests that a function says.
    pub fn those(is_meant: impl Fn(&Asked) -> bool + Send + Sync + 'static) -> On {
        On { is_meant: Arc::new(is_meant), which: Which::All }
    }

    /// Every request.
    pub fn everything() -> On {
        On::those(|_| true)
    }

    /// Every request that would change something.
    pub fn writes() -> On {
        On::those(Asked::is_write)
    }

    /// Every request of this verb on this resource (`environments/status`), dry runs left out.
    pub fn verb(verb: &'static str, resource: &'static str) -> On {
        On::those(move |asked| asked.verb == verb && asked.resource == resource && !asked.query.contains("dryRun=All"))
    }

    /// Only those whose object has this name.
    pub fn named(self, name: &'static str) -> On {
        let is_meant = self.is_meant;
        On { is_meant: Arc::new(move |asked| asked.name == name && is_meant(asked)), ..self }
    }

    /// Only those in this namespace.
    pub fn in_namespace(self, namespace: &str) -> On {
        let (is_meant, namespace) = (self.is_meant, namespace.to_owned());
        On { is_meant: Arc::new(move |asked| asked.namespace == namespace && is_meant(asked)), ..self }
    }

    /// Only the n-th of them from now on, counted from 1.
    pub fn nth(self, number: u32) -> On {
        On { which: Which::Nth(number), ..self }
    }

    /// Only the first so many of them from now on.
    pub fn first(self, number: u32) -> On {
        On { which: Which::First(number), ..self }
    }

    pub(super) fn means(&self, asked: &Asked) -> bool {
        (self.is_meant)(asked)
    }

    pub(super) fn counts(&self, met: u32) -> bool {
        match self.which {
            Which::All => true,
            Which::First(number) => met <= number,
            Which::Nth(number) => met == number,
        }
    }
}

/// What is done to a request.
#[derive(Clone, Debug)]
pub enum Action {
    /// The connection is reset, and the server hears nothing of it.
    CutBefore,
    /// It is passed on after a while.
    Delay(Duration),
    /// It is answered without the server.
    Answer(Answer),
    /// It is passed on, and what the server answers is replaced: it was done, and looks as if it was not.
    AnswerAfter(Answer),
    /// It is passed on and answered, but the connection is reset before the answer.
    LoseAnswer,
    /// The connection is reset after so many bytes of the answer's body.
    CutAnswer(usize),
    /// The answer ends properly after so many bytes of its body.
    Shorten(usize),
    /// It is passed on, and no byte of an answer ever comes.
    Stall,
    /// The agent is killed.
    Kill(Moment),
}

/// When the agent is killed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Moment {
    /// Before the request is passed on.
    Before,
    /// When the server has done it, and before the answer is passed back.
    Applied,
    /// When it has the answer, and before its next write is passed on.
    Answered,
}

/// An answer of a proxy.
#[derive(Clone)]
pub struct Answer {
    /// Its status.
    pub status: u16,
    /// Its headers.
    pub headers: Vec<(&'static str, String)>,
    /// Its body.
    pub body: String,
}

impl Answer {
    /// A `Status` as the API server writes it, with a message.
    pub fn status(status: u16, message: &str) -> Answer {
        let reason = match status {
            410 => "Expired",
            429 => "TooManyRequests",
            503 => "ServiceUnavailable",
            _ => "InternalError",
        };
        let body = serde_json::json!({
            "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
            "message": message, "reason": reason, "code": status,
        });
        Answer { status, headers: vec![("content-type", "application/json".to_owned())], body: body.to_string() }
    }

    /// The same with another header.
    pub fn header(mut self, name: &'static str, value: &str) -> Answer {
        self.headers.push((name, value.to_owned()));
        self
    }
}

impl fmt::Debug for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.status)
    }
}

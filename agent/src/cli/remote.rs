//! Asking an agent's API, where its records are read and verified.

use std::path::PathBuf;
use std::time::Duration;

use serde::de::DeserializeOwned;
use serde_json::Value;
use towpath_core::fault::Problem;
use towpath_core::revision::clean_line;

/// Time for one answer.
const DEADLINE: Duration = Duration::from_secs(30);
/// Bytes of one answer.
const MAX_ANSWER_BYTES: usize = 64 << 20;

/// Where the agent is.
#[derive(Debug, clap::Args)]
pub(super) struct Remote {
    /// The address of the agent's page, such as http://127.0.0.1:8080 with kubectl port-forward.
    #[arg(long, value_name = "URL", env = "TOWPATH_AGENT")]
    pub(super) agent: Option<String>,
    /// A file with the token that the agent asks for.
    #[arg(long, value_name = "FILE", env = "TOWPATH_TOKEN_FILE")]
    token_file: Option<PathBuf>,
}

impl Remote {
    /// Asks for a path below `/api/v1/`, with parameters.
    ///
    /// # Errors
    /// `Setup` where no agent is named or it refuses, `Passing` where it does not answer.
    pub(super) async fn ask<T: DeserializeOwned>(&self, path: &[&str], query: &[(&str, &str)]) -> Result<T, Problem> {
        let Some(agent) = &self.agent else {
            return Err(Problem::setup("this is read from an agent, and none is named").hint(
                "kubectl -n towpath port-forward service/towpath 8080:80, then --agent http://127.0.0.1:8080 with --token-file",
            ));
        };
        let bad = |why: String| Problem::setup(format!("--agent {agent}: {why}"));
        let mut url = url::Url::parse(agent).map_err(|error| bad(error.to_string()))?;
        url.path_segments_mut()
            .map_err(|()| bad("it is no address of http".to_owned()))?
            .pop_if_empty()
            .extend(["api", "v1"])
            .extend(path);
        url.query_pairs_mut().extend_pairs(query);
        let client = reqwest::Client::builder()
            .timeout(DEADLINE)
            .redirect(reqwest::redirect::Policy::none())
            .build()
            .map_err(|error| bad(error.to_string()))?;
        let mut request = client.get(url);
        if let Some(file) = &self.token_file {
            let token = std::fs::read_to_string(file)
                .map_err(|error| Problem::setup(format!("--token-file {}: {error}", file.display())))?;
            request = request.bearer_auth(token.trim());
        }
        let away =
            |error: reqwest::Error| Problem::passing(format!("the agent does not answer: {}", error.without_url()));
        let mut answer = request.send().await.map_err(away)?;
        let status = answer.status();
        let mut body = Vec::new();
        while let Some(part) = answer.chunk().await.map_err(away)? {
            body.extend_from_slice(&part);
            if body.len() > MAX_ANSWER_BYTES {
                return Err(Problem::setup("the agent's answer is too long").hint("ask for less"));
            }
        }
        if status.is_success() {
            return serde_json::from_slice(&body)
                .map_err(|error| Problem::setup(format!("the agent's answer cannot be read: {error}")));
        }
        let said: Value = serde_json::from_slice(&body).unwrap_or_default();
        let text = |name: &str| said[name].as_str().map(|text| clean_line(text, 500));
        let problem = Problem::setup(text("error").unwrap_or_else(|| format!("the agent answered {status}")));
        Err(match text("hint") {
            Some(hint) => problem.hint(hint),
            None if status == reqwest::StatusCode::UNAUTHORIZED => problem.hint("give its token with --token-file"),
            None => problem,
        })
    }
}

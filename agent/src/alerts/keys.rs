//! What an Alertmanager is asked with, from a Secret.

use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::HeaderValue;
use serde_json::Value;
use towpath_core::fault::Problem;

use crate::clients::Authority;

/// What a Secret holds for an Alertmanager.
pub struct AlertKeys {
    /// The header that shows it.
    pub(super) login: Option<HeaderValue>,
    /// The authority that vouches for the server, in PEM.
    authority: Option<String>,
    /// The Secret that it comes from.
    pub(super) secret: String,
}

impl AlertKeys {
    /// Reads a Secret as the API server gives it: `token`, or `username` and `password`; and `ca.crt`, beside them or alone.
    ///
    /// # Errors
    /// `Setup` when nothing of that is there, it is empty, or there are two logins. The error never quotes what is in it.
    pub fn read(name: &str, secret: &Value) -> Result<AlertKeys, Problem> {
        let refuse = |why: &str| {
            Problem::setup(format!("Secret {name}: {why}"))
                .hint("give it token, or username and password, and ca.crt where the authority is your own")
        };
        let text = |key: &str| {
            let Some(encoded) = secret["data"][key].as_str() else { return Ok(None) };
            let text = STANDARD.decode(encoded).ok().and_then(|bytes| String::from_utf8(bytes).ok());
            let text = text.ok_or_else(|| refuse(&format!("{key} is not text")))?;
            let text = text.trim_end_matches(['\r', '\n']).to_owned();
            if text.is_empty() { Err(refuse(&format!("{key} is empty"))) } else { Ok(Some(text)) }
        };
        let authority = text("ca.crt")?;
        let shown = match (text("token")?, text("username")?, text("password")?) {
            (Some(token), None, None) => Some(format!("Bearer {token}")),
            (None, Some(user), Some(_)) if user.contains(':') => return Err(refuse("there is a colon in username")),
            (None, Some(user), Some(password)) => {
                Some(format!("Basic {}", STANDARD.encode(format!("{user}:{password}"))))
            }
            (None, None, None) if authority.is_some() => None,
            (None, None, None) => return Err(refuse("there is nothing in it")),
            (Some(_), ..) => return Err(refuse("there is a token beside a user or a password")),
            _ => return Err(refuse("there is a user without a password, or a password without a user")),
        };
        let header = |text: String| {
            let mut header = HeaderValue::from_str(&text).map_err(|_unfit| refuse("token is more than one line"))?;
            header.set_sensitive(true);
            Ok(header)
        };
        Ok(AlertKeys { login: shown.map(header).transpose()?, authority, secret: name.to_owned() })
    }

    pub(super) fn authority(&self) -> Option<Authority<'_>> {
        self.authority.as_deref().map(|pem| Authority { pem, secret: &self.secret })
    }
}

impl fmt::Debug for AlertKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AlertKeys").field("secret", &self.secret).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use towpath_core::fault::Fault;

    use super::*;

    fn read(data: &[(&str, &str)]) -> Result<AlertKeys, Problem> {
        let mut secret = json!({"data": {}});
        for (key, value) in data {
            secret["data"][*key] = STANDARD.encode(value).into();
        }
        AlertKeys::read("alertmanager", &secret)
    }

    #[test]
    fn a_token_or_a_password_is_shown() {
        let shown = |data: &[(&str, &str)]| read(data).unwrap().login.map(|login| login.to_str().unwrap().to_owned());
        assert_eq!(shown(&[("token", "abc\n")]).unwrap(), "Bearer abc");
        assert_eq!(shown(&[("username", "u"), ("password", "p:q")]).unwrap(), "Basic dTpwOnE=");
        assert_eq!(shown(&[("ca.crt", "pem")]), None);
        let keys = read(&[("token", "hush")]).unwrap();
        assert!(!format!("{keys:?} {:?}", keys.login).contains("hush"));
    }

    #[test]
    fn a_secret_that_means_nothing_is_refused_and_not_quoted() {
        let cases: [&[(&str, &str)]; 8] = [
            &[],
            &[("other", "hush")],
            &[("token", "")],
            &[("token", "hush\nhush")],
            &[("token", "hush"), ("password", "hush")],
            &[("username", "hush")],
            &[("password", "hush")],
            &[("username", "hush:"), ("password", "hush")],
        ];
        for data in cases {
            let problem = read(data).unwrap_err();
            assert!(problem.fault == Fault::Setup && !problem.to_string().contains("hush"), "{data:?}: {problem}");
        }
    }
}

//! Credentials for reading a repository, from a Kubernetes Secret.

use std::fmt;

use k8s_openapi::api::core::v1::Secret;
use secrecy::SecretString;
use towpath_core::fault::Problem;

/// How the agent shows who it is. `Debug` shows none of it.
#[derive(Clone, Default)]
pub struct Credentials {
    /// What is shown.
    pub(super) proof: Proof,
    /// Certificates beside the system's that may sign the server's, as PEM.
    pub(super) ca: Option<Vec<u8>>,
}

#[derive(Clone, Default)]
pub(super) enum Proof {
    /// Nothing.
    #[default]
    None,
    /// HTTP basic authentication.
    Basic { user: String, password: SecretString },
    /// A key, and the keys of the servers that it may be shown to.
    Key { key: SecretString, known_hosts: String },
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match &self.proof {
            Proof::None => "Credentials(none)",
            Proof::Basic { .. } => "Credentials(user and password)",
            Proof::Key { .. } => "Credentials(ssh key)",
        })
    }
}

impl PartialEq for Credentials {
    fn eq(&self, other: &Self) -> bool {
        use secrecy::ExposeSecret;
        let same_proof = match (&self.proof, &other.proof) {
            (Proof::None, Proof::None) => true,
            (Proof::Basic { user: a, password: b }, Proof::Basic { user: c, password: d }) => {
                a == c && b.expose_secret() == d.expose_secret()
            }
            (Proof::Key { key: a, known_hosts: b }, Proof::Key { key: c, known_hosts: d }) => {
                a.expose_secret() == c.expose_secret() && b == d
            }
            _ => false,
        };
        same_proof && self.ca == other.ca
    }
}

impl Credentials {
    /// User and password, or user and token.
    pub fn basic(user: &str, password: &str) -> Credentials {
        Credentials { proof: Proof::Basic { user: user.to_owned(), password: password.into() }, ca: None }
    }

    /// A private key in OpenSSH's format, and the lines of a known_hosts file.
    pub fn key(key: &str, known_hosts: &str) -> Credentials {
        let proof = Proof::Key { key: key.into(), known_hosts: known_hosts.to_owned() };
        Credentials { proof, ca: None }
    }

    /// Certificates that may sign the server's, beside the system's.
    #[must_use]
    pub fn with_ca(mut self, pem: Vec<u8>) -> Credentials {
        self.ca = Some(pem);
        self
    }
}

/// Reads the credentials of a Secret: `username` and `password`, or `token` alone, or `ssh-privatekey` (or `identity`)
/// with `known_hosts`; and `ca.crt` beside any of them.
///
/// # Errors
/// `Setup` when nothing of that is there, or it is empty: an empty secret is not "no secret".
pub fn credentials(secret: &Secret) -> Result<Credentials, Problem> {
    let name = secret.metadata.name.as_deref().unwrap_or_default();
    let refuse = |why: &str| {
        Problem::setup(format!("Secret {name}: {why}"))
            .hint("give it username and password, or token, or ssh-privatekey and known_hosts")
    };
    let text = |key: &str| -> Result<Option<String>, Problem> {
        let Some(bytes) = secret.data.as_ref().and_then(|data| data.get(key)) else { return Ok(None) };
        let text = String::from_utf8(bytes.0.clone()).map_err(|_| refuse(&format!("{key} is not text")))?;
        if text.trim().is_empty() {
            return Err(refuse(&format!("{key} is empty")));
        }
        Ok(Some(text))
    };
    let line = |key: &str| text(key).map(|text| text.map(|text| text.trim_end_matches(['\r', '\n']).to_owned()));
    let key = text("ssh-privatekey")?.or(text("identity")?);
    let mut credentials = match (key, line("username")?, line("password")?, line("token")?) {
        (Some(key), ..) => {
            let known_hosts = text("known_hosts")?
                .ok_or_else(|| refuse("known_hosts is missing: a server whose key is not known is not trusted"))?;
            Credentials::key(&key, &known_hosts)
        }
        (None, user, Some(password), None) | (None, user, None, Some(password)) => {
            // GitLab, Gitea and GitHub take any user name beside a token; this one is GitLab's.
            Credentials::basic(user.as_deref().unwrap_or("oauth2"), &password)
        }
        (None, ..) if text("ca.crt")?.is_some() => Credentials::default(),
        (None, ..) => return Err(refuse("there are no credentials in it")),
    };
    credentials.ca = text("ca.crt")?.map(String::into_bytes);
    Ok(credentials)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(data: &[(&str, &str)]) -> Result<Credentials, Problem> {
        let data =
            data.iter().map(|(key, value)| ((*key).to_owned(), k8s_openapi::ByteString(value.as_bytes().to_vec())));
        credentials(&Secret { data: Some(data.collect()), ..Secret::default() })
    }

    #[test]
    fn a_secret_may_hold_a_password_a_token_or_a_key() {
        assert!(read(&[("username", "ada"), ("password", "x\n")]).unwrap() == Credentials::basic("ada", "x"));
        assert!(read(&[("token", "t")]).unwrap() == Credentials::basic("oauth2", "t"));
        assert!(read(&[("ssh-privatekey", "k"), ("known_hosts", "h")]).unwrap() == Credentials::key("k", "h"));
        assert!(read(&[("ca.crt", "pem")]).unwrap().ca.is_some());
    }

    #[test]
    fn what_is_empty_or_half_is_refused() {
        for bad in [vec![], vec![("token", "")], vec![("username", "ada")], vec![("ssh-privatekey", "k")]] {
            assert!(read(&bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn debug_shows_nothing() {
        assert_eq!(format!("{:?}", Credentials::basic("ada", "hunter2")), "Credentials(user and password)");
    }
}

//! Credentials for a repository, from a Kubernetes Secret.

use k8s_openapi::api::core::v1::Secret;
use secrecy::ExposeSecret;
use towpath_core::fault::Problem;

use super::{Credentials, Login};

impl Credentials {
    /// Whether they would show the same. Only for what both came from: this takes longer the more is equal.
    pub fn is_same(&self, other: &Credentials) -> bool {
        let same_login = match (&self.login, &other.login) {
            (Login::None, Login::None) => true,
            (Login::Basic { username: a, password: b }, Login::Basic { username: c, password: d }) => {
                a == c && b.expose_secret() == d.expose_secret()
            }
            (Login::Bearer(a), Login::Bearer(b)) => a.expose_secret() == b.expose_secret(),
            (Login::SshKey { private_key: a, known_hosts: b }, Login::SshKey { private_key: c, known_hosts: d }) => {
                a.expose_secret() == c.expose_secret() && b == d
            }
            _ => false,
        };
        same_login && self.certificate_authorities == other.certificate_authorities
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
    let login = match (key, line("username")?, line("password")?, line("token")?) {
        (Some(key), ..) => {
            let known_hosts = text("known_hosts")?
                .ok_or_else(|| refuse("known_hosts is missing: a server whose key is not known is not trusted"))?;
            Login::SshKey { private_key: key.into(), known_hosts }
        }
        (None, user, Some(password), None) | (None, user, None, Some(password)) => {
            // GitLab, Gitea and GitHub take any user name beside a token; this one is GitLab's.
            Login::Basic { username: user.unwrap_or_else(|| "oauth2".to_owned()), password: password.into() }
        }
        (None, ..) if text("ca.crt")?.is_some() => Login::None,
        (None, ..) => return Err(refuse("there are no credentials in it")),
    };
    Ok(Credentials { login, certificate_authorities: text("ca.crt")? })
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
        let basic = |username: &str, password: &str| {
            Credentials::from(Login::Basic { username: username.into(), password: password.into() })
        };
        assert!(read(&[("username", "ada"), ("password", "x\n")]).unwrap().is_same(&basic("ada", "x")));
        assert!(read(&[("token", "t")]).unwrap().is_same(&basic("oauth2", "t")));
        let key = Login::SshKey { private_key: "k".into(), known_hosts: "h".into() };
        assert!(read(&[("ssh-privatekey", "k"), ("known_hosts", "h")]).unwrap().is_same(&key.into()));
        assert!(read(&[("ca.crt", "pem")]).unwrap().certificate_authorities.is_some());
    }

    #[test]
    fn what_is_empty_or_half_is_refused() {
        for bad in [vec![], vec![("token", "")], vec![("username", "ada")], vec![("ssh-privatekey", "k")]] {
            assert!(read(&bad).is_err(), "{bad:?}");
        }
    }
}

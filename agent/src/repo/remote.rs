//! The address of a repository, by a strict grammar: what git or ssh could take for an option, a command or a
//! credential is refused before anything is started.

use std::fmt;
use std::path::{Path, PathBuf};

use towpath_core::fault::Problem;
use url::Url;

/// Where a repository is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Remote {
    pub(super) place: Place,
}

/// A parsed address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// `https://host/path`, or `http://` to loopback.
    Http(Url),
    /// `ssh://user@host:port/path` or `user@host:path`.
    Ssh { user: String, host: String, port: Option<u16>, path: String },
    /// A path on the agent's own disk.
    Local(PathBuf),
}

impl Remote {
    /// Reads an address.
    ///
    /// # Errors
    /// `Setup`, with what is wrong and what may be written.
    pub fn parse(text: &str) -> Result<Remote, Problem> {
        let refuse = |why: &str| {
            // The address may hold a password, so it is not repeated.
            Problem::setup(format!("spec.url: {why}"))
                .hint("write https://host/path.git, ssh://git@host/path.git, git@host:path.git, file:///path or /path")
        };
        if text.chars().any(|c| c.is_control() || c.is_whitespace()) {
            return Err(refuse("a blank or control character"));
        }
        if let Some(path) = text.strip_prefix("file://") {
            return local(path).ok_or_else(|| refuse("a file address needs an absolute path"));
        }
        if text.starts_with('/') {
            return local(text).ok_or_else(|| refuse("the path leaves its folder"));
        }
        if let Some(rest) = text.strip_prefix("https://").or(text.strip_prefix("http://")) {
            // The URL parser would take the first word of the path for the host.
            if rest.starts_with('/') || rest.contains('\\') {
                return Err(refuse("there is no host"));
            }
            let url = Url::parse(text).map_err(|error| refuse(&error.to_string()))?;
            return http(url).map_err(refuse);
        }
        if let Some(rest) = text.strip_prefix("ssh://") {
            let (authority, path) = rest.split_once('/').ok_or_else(|| refuse("there is no path"))?;
            let (user, host) = authority.split_once('@').unwrap_or(("git", authority));
            let (host, port) = match host.rsplit_once(':') {
                None => (host, None),
                Some((host, port)) => (host, Some(port.parse().map_err(|_| refuse("the port is no number"))?)),
            };
            return ssh(user, host, port, &format!("/{path}")).map_err(refuse);
        }
        if text.contains("://") || text.contains("::") {
            return Err(refuse("this kind of address is not supported"));
        }
        match text.split_once(':') {
            Some((authority, path)) => {
                let (user, host) = authority.split_once('@').unwrap_or(("git", authority));
                ssh(user, host, None, path).map_err(refuse)
            }
            None => Err(refuse("it is no address")),
        }
    }

    /// The path of a repository on this machine.
    pub fn local_path(&self) -> Option<PathBuf> {
        match &self.place {
            Place::Local(path) => Some(path.clone()),
            _ => None,
        }
    }
}

impl fmt::Display for Remote {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.place {
            Place::Http(url) => write!(f, "{url}"),
            Place::Ssh { user, host, port: Some(port), path } => write!(f, "ssh://{user}@{host}:{port}{path}"),
            Place::Ssh { user, host, port: None, path } if path.starts_with('/') => {
                write!(f, "ssh://{user}@{host}{path}")
            }
            Place::Ssh { user, host, port: None, path } => write!(f, "{user}@{host}:{path}"),
            Place::Local(path) => write!(f, "{}", path.display()),
        }
    }
}

fn local(path: &str) -> Option<Remote> {
    let path = Path::new(path);
    let is_plain = path.components().all(|part| !matches!(part, std::path::Component::ParentDir));
    (path.is_absolute() && is_plain).then(|| Remote { place: Place::Local(path.to_owned()) })
}

fn http(mut url: Url) -> Result<Remote, &'static str> {
    if !url.username().is_empty() || url.password().is_some() {
        return Err("user and password belong into a Secret that spec.secretRef names");
    }
    if url.query().is_some() || url.fragment().is_some() {
        return Err("a query or fragment is no part of an address");
    }
    let Some(host) = url.host() else { return Err("there is no host") };
    let is_loopback = match host {
        url::Host::Domain(name) => name == "localhost" || name.ends_with(".localhost"),
        url::Host::Ipv4(address) => address.is_loopback(),
        url::Host::Ipv6(address) => address.is_loopback(),
    };
    if url.scheme() == "http" && !is_loopback {
        return Err("http is only taken to loopback; use https");
    }
    let path = url.path().trim_end_matches('/').to_owned();
    if path.is_empty() {
        return Err("there is no path");
    }
    url.set_path(&path);
    Ok(Remote { place: Place::Http(url) })
}

fn ssh(user: &str, host: &str, port: Option<u16>, path: &str) -> Result<Remote, &'static str> {
    let plain = |text: &str, others: &str| {
        !text.is_empty()
            && !text.starts_with('-')
            && text.chars().all(|c| c.is_ascii_alphanumeric() || others.contains(c))
    };
    if !plain(user, "-_.+") {
        return Err("the user of an ssh address may have letters, digits, - _ . +");
    }
    if !plain(host, "-.") {
        return Err("the host of an ssh address may have letters, digits, - and .");
    }
    // The server's shell sees the path, so nothing that a shell could read gets there.
    if !plain(path, "-_.+/~@") || path.split('/').any(|part| part == ".." || part.starts_with('-')) {
        return Err("the path of an ssh address may have letters, digits, - _ . + / ~ @, and no ..");
    }
    Ok(Remote { place: Place::Ssh { user: user.to_owned(), host: host.to_owned(), port, path: path.to_owned() } })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn good_addresses_read_back() {
        for good in [
            "https://git.example.com/team/shop.git",
            "https://git.example.com:8443/gitlab/team/shop.git",
            "http://127.0.0.1:3000/shop.git",
            "ssh://git@git.example.com/team/shop.git",
            "ssh://git@git.example.com:2222/team/shop.git",
            "git@git.example.com:team/shop.git",
        ] {
            assert_eq!(Remote::parse(good).unwrap().to_string(), good);
        }
        assert_eq!(Remote::parse("file:///srv/shop.git").unwrap().local_path(), Some("/srv/shop.git".into()));
        assert_eq!(Remote::parse("/srv/shop.git").unwrap().local_path(), Some("/srv/shop.git".into()));
    }

    #[test]
    fn what_could_be_an_option_a_command_or_another_host_is_refused() {
        for bad in [
            "",
            "shop",
            "-oProxyCommand=touch${IFS}/tmp/x",
            "ssh://-oProxyCommand=x/y",
            "ssh://git@-oProxyCommand=x/y",
            "git@host:-x",
            "git@host:a/../../b",
            "git@host:'; rm -rf /'",
            "git@host:$(id)",
            "git@host:`id`",
            "git@host:a|b",
            "ssh://git@host/a;b",
            "ssh://git@host",
            "ssh://git@host:x/y",
            "ext::sh -c id",
            "ext::sh",
            "ftp://host/x",
            "http://git.example.com/x.git",
            "http://169.254.169.254/latest",
            "https://user:pass@host/x.git",
            "https://token@host/x.git",
            "https:///evil/x",
            "https://host/",
            "https://host/x?y",
            "https://host/x\ny",
            "file://relative/path",
            "/srv/../etc",
        ] {
            assert!(Remote::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_refusal_does_not_repeat_a_password() {
        let problem = Remote::parse("https://user:hunter2@host/x.git").unwrap_err();
        assert!(!problem.to_string().contains("hunter2"), "{problem}");
    }
}

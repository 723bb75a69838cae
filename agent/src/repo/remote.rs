//! Where a deploy repository is, read by a strict grammar, and what proves that we may read it, or write to it.
//!
//! An address is written by people and ends in requests and in the arguments of `ssh`, so what is not plainly an
//! address is refused here, before anything is contacted or started.

use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;
use std::str::FromStr;

use secrecy::SecretString;
use towpath_core::fault::Problem;
use towpath_core::revision::clean_line;
use url::{Host, Url};

/// Bytes of an address.
pub const MAX_ADDRESS_BYTES: usize = 2000;

/// The address of a repository. It never holds a password, so it can be shown and logged.
///
/// | written | meaning |
/// |---|---|
/// | `https://host/group/deploy.git` | over https |
/// | `http://127.0.0.1:3000/deploy.git` | over http, on this machine only |
/// | `ssh://git@host:2222/group/deploy.git`, `git@host:group/deploy.git` | over ssh |
/// | `file:///srv/deploy.git`, `/srv/deploy.git` | a folder on this machine |
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Remote {
    text: String,
    pub(super) address: Address,
}

/// A [`Remote`] in its parts.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Address {
    /// The address without a slash at its end.
    Http(Url),
    Ssh(SshAddress),
    Local(PathBuf),
}

/// A repository behind ssh. Every part has passed an allow-list of characters.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct SshAddress {
    pub user: String,
    pub host: String,
    pub port: Option<u16>,
    /// With a leading slash from `ssh://`, without one from `host:path`.
    pub path: String,
}

impl Remote {
    /// Reads an address as `FromStr` does, and lets plain http to other machines through.
    ///
    /// # Errors
    /// A `Setup` problem when it is no address.
    pub fn parse_insecure(text: &str) -> Result<Remote, Problem> {
        Remote::read(text, true)
    }

    /// The name or number of the host. `None` for a folder on this machine.
    pub fn host(&self) -> Option<&str> {
        match &self.address {
            Address::Http(url) => url.host_str(),
            Address::Ssh(ssh) => Some(&ssh.host),
            Address::Local(_) => None,
        }
    }

    /// The path on the host, without slashes around it and without `.git` at its end: `group/deploy`.
    pub fn path(&self) -> &str {
        let path = match &self.address {
            Address::Http(url) => url.path(),
            Address::Ssh(ssh) => &ssh.path,
            Address::Local(path) => path.to_str().unwrap_or_default(),
        };
        let path = path.trim_matches('/');
        path.strip_suffix(".git").unwrap_or(path)
    }

    /// Whether it is the same repository, as far as addresses tell.
    pub fn is_same(&self, other: &Remote) -> bool {
        (self.host(), self.path()) == (other.host(), other.path())
    }

    /// The folder, where the repository is one on this machine: it can be watched instead of polled.
    pub fn folder(&self) -> Option<&std::path::Path> {
        match &self.address {
            Address::Local(path) => Some(path),
            Address::Http(_) | Address::Ssh(_) => None,
        }
    }

    fn read(text: &str, insecure: bool) -> Result<Remote, Problem> {
        let address = read_address(text, insecure).map_err(|refusal| {
            let shown = clean_line(&without_login(text), 200);
            let problem = Problem::setup(format!("{shown:?} is no address of a repository: {}", refusal.why));
            problem.hint(refusal.hint.unwrap_or("use https://host/path, ssh://git@host/path or an absolute path"))
        })?;
        Ok(Remote { text: text.to_owned(), address })
    }
}

impl FromStr for Remote {
    type Err = Problem;

    /// Reads an address. Plain http is taken for this machine only.
    fn from_str(text: &str) -> Result<Remote, Problem> {
        Remote::read(text, false)
    }
}

impl fmt::Display for Remote {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

struct Refusal {
    why: &'static str,
    hint: Option<&'static str>,
}

fn refuse<T>(why: &'static str) -> Result<T, Refusal> {
    Err(Refusal { why, hint: None })
}

fn read_address(text: &str, insecure: bool) -> Result<Address, Refusal> {
    if text.is_empty() || text.len() > MAX_ADDRESS_BYTES {
        return refuse("it is empty or too long");
    }
    if !text.bytes().all(|byte| byte.is_ascii_graphic()) {
        return refuse("it has a blank, a control character or a letter outside ASCII");
    }
    match text.split_once("://") {
        Some(("https", rest)) => read_http(text, rest, true),
        Some(("http", rest)) => read_http(text, rest, insecure),
        Some(("ssh", rest)) => read_ssh_url(rest),
        Some(("file", rest)) if rest.starts_with('/') => read_local(rest),
        Some(("file", _)) => refuse("a file address names no host: three slashes"),
        Some(_) => refuse("its scheme is none of https, http, ssh, file"),
        None if text.starts_with('/') => read_local(text),
        None => read_scp(text),
    }
}

fn read_http(text: &str, rest: &str, may_leave_this_machine: bool) -> Result<Address, Refusal> {
    // `Url` mends what it reads (`https:///host`, backslashes, dots), so the raw text is judged first.
    if !text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b":/.-_~%@[]+,=".contains(&byte)) {
        return refuse("a character that no address of a repository needs");
    }
    let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
    if authority.is_empty() {
        return refuse("it names no host");
    }
    if authority.contains('@') {
        return Err(Refusal {
            why: "it holds a login",
            hint: Some("put user and password into the Secret that the Repository names"),
        });
    }
    if authority.contains('%') {
        return refuse("an escaped character in the host");
    }
    check_path(path)?;
    let Ok(mut url) = Url::parse(text.trim_end_matches('/')) else { return refuse("it cannot be read") };
    let loopback = match url.host() {
        Some(Host::Domain(name)) => name == "localhost",
        Some(Host::Ipv4(ip)) if is_odd_v4(ip) => return refuse("an address that no server has"),
        Some(Host::Ipv6(ip)) if is_odd_v6(ip) => return refuse("an address that no server has"),
        Some(Host::Ipv4(ip)) => ip.is_loopback(),
        Some(Host::Ipv6(ip)) => ip.is_loopback(),
        None => return refuse("it names no host"),
    };
    if !loopback && !may_leave_this_machine {
        return Err(Refusal { why: "plain http to another machine", hint: Some("use https") });
    }
    if url.path().len() <= 1 {
        return refuse("it names no repository");
    }
    url.set_fragment(None);
    Ok(Address::Http(url))
}

/// The metadata service of clouds, and addresses that stand for "any" or "all".
fn is_odd_v4(ip: Ipv4Addr) -> bool {
    ip.is_link_local() || ip.is_unspecified() || ip.is_multicast() || ip.is_broadcast()
}

fn is_odd_v6(ip: Ipv6Addr) -> bool {
    ip.is_unicast_link_local()
        || ip.is_unspecified()
        || ip.is_multicast()
        || ip.to_ipv4_mapped().is_some_and(|ip| is_odd_v4(ip) || ip.is_loopback())
}

/// A path in an http address: no `.` or `..`, and no escape that would become one, a slash or a control character.
fn check_path(path: &str) -> Result<(), Refusal> {
    let mut rest = path;
    while let Some((_, after)) = rest.split_once('%') {
        let escaped = after.get(..2).and_then(|digits| u8::from_str_radix(digits, 16).ok());
        match escaped {
            Some(byte) if byte > b' ' && byte != 0x7f && !b"./\\%".contains(&byte) => rest = &after[2..],
            Some(b' ') => rest = &after[2..],
            _ => return refuse("an escaped character in the path that hides something"),
        }
    }
    check_parts(path)
}

fn check_parts(path: &str) -> Result<(), Refusal> {
    let path = path.trim_matches('/');
    if path.split('/').any(|part| part == "." || part == ".." || (part.is_empty() && !path.is_empty())) {
        return refuse("an empty part, . or .. in the path");
    }
    Ok(())
}

fn read_ssh_url(rest: &str) -> Result<Address, Refusal> {
    let Some((authority, path)) = rest.split_once('/') else { return refuse("it names no repository") };
    let (user, host_and_port) = split_user(authority)?;
    let (host, port) = match host_and_port.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((host, "")) => (host, None),
        Some((host, port)) => (host, Some(port.strip_prefix(':').unwrap_or(port))),
        None => match host_and_port.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (host_and_port, None),
        },
    };
    let port = match port.map(str::parse::<u16>) {
        None => None,
        Some(Ok(port)) if port != 0 => Some(port),
        Some(_) => return refuse("the port is no number"),
    };
    read_ssh(user, host, port, format!("/{path}"))
}

fn read_scp(text: &str) -> Result<Address, Refusal> {
    let Some((authority, path)) = text.split_once(':') else { return refuse("it is neither a URL nor a path from /") };
    if authority.contains('/') || path.starts_with(':') {
        return refuse("it is neither a URL nor host:path");
    }
    let (user, host) = split_user(authority)?;
    read_ssh(user, host, None, path.to_owned())
}

fn split_user(authority: &str) -> Result<(&str, &str), Refusal> {
    match authority.rsplit_once('@') {
        None => Ok(("git", authority)),
        Some((user, _)) if user.contains(':') => Err(Refusal {
            why: "it holds a password",
            hint: Some("put the private key into the Secret that the Repository names"),
        }),
        Some(parts) => Ok(parts),
    }
}

/// What reaches the arguments of `ssh` and the command line on the server.
fn read_ssh(user: &str, host: &str, port: Option<u16>, path: String) -> Result<Address, Refusal> {
    let made_of = |text: &str, more: &[u8]| {
        let good = |byte: u8| byte.is_ascii_alphanumeric() || more.contains(&byte);
        !text.is_empty() && !text.starts_with('-') && text.bytes().all(good)
    };
    if !made_of(user, b"._-") {
        return refuse("a user with other characters than letters, digits and ._-");
    }
    let is_v6 = host.contains(':') && host.parse::<Ipv6Addr>().is_ok();
    if !is_v6 && (!made_of(host, b".-") || host.starts_with('.')) {
        return refuse("a host with other characters than letters, digits and .-");
    }
    let bare = path.strip_prefix('/').unwrap_or(&path);
    if !made_of(bare, b"._~/+@-") {
        return refuse("a path with other characters than letters, digits and ._~/+@-");
    }
    check_parts(bare)?;
    Ok(Address::Ssh(SshAddress { user: user.to_owned(), host: host.to_owned(), port, path }))
}

fn read_local(path: &str) -> Result<Address, Refusal> {
    if path.trim_matches('/').is_empty() {
        return refuse("it names no repository");
    }
    check_parts(path)?;
    Ok(Address::Local(PathBuf::from(path)))
}

/// A refused address as it may be shown: what stands before an `@` could be a login.
fn without_login(text: &str) -> String {
    match (text.split_once("://"), text.rsplit_once('@')) {
        (Some((scheme, _)), Some((_, after))) => format!("{scheme}://…@{after}"),
        (None, Some((login, after))) if login.contains(':') => format!("…@{after}"),
        _ => text.to_owned(),
    }
}

/// What proves to the server that we may read, or write. `Debug` shows no secret.
#[derive(Clone, Debug, Default)]
pub struct Credentials {
    /// The proof itself.
    pub login: Login,
    /// PEM of certificate authorities that are trusted for this repository beside the machine's own.
    pub certificate_authorities: Option<String>,
}

/// The proof itself.
#[derive(Clone, Debug, Default)]
pub enum Login {
    /// Nothing is shown.
    #[default]
    None,
    /// User and password, or what a forge asks for in their place (`oauth2` and a token).
    Basic {
        /// The user.
        username: String,
        /// The password or token.
        password: SecretString,
    },
    /// A token in the `Authorization` header.
    Bearer(SecretString),
    /// For addresses with ssh.
    SshKey {
        /// The private key as `ssh-keygen` writes it, without a passphrase.
        private_key: SecretString,
        /// Lines as in `~/.ssh/known_hosts`. Without them no host is trusted.
        known_hosts: String,
    },
}

impl From<Login> for Credentials {
    fn from(login: Login) -> Self {
        Credentials { login, certificate_authorities: None }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_that_people_write_are_read() {
        for (text, host, path) in [
            ("https://git.example.org/group/deploy.git", Some("git.example.org"), "group/deploy"),
            ("https://git.example.org:8443/group/deploy/", Some("git.example.org"), "group/deploy"),
            ("https://git.example.org/~me/deploy%20two", Some("git.example.org"), "~me/deploy%20two"),
            ("http://127.0.0.1:3000/deploy", Some("127.0.0.1"), "deploy"),
            ("http://localhost/deploy", Some("localhost"), "deploy"),
            ("http://[::1]:80/deploy", Some("[::1]"), "deploy"),
            ("ssh://git@git.example.org:2222/group/deploy.git", Some("git.example.org"), "group/deploy"),
            ("ssh://[::1]:22/deploy", Some("::1"), "deploy"),
            ("git@git.example.org:group/deploy.git", Some("git.example.org"), "group/deploy"),
            ("git.example.org:~me/deploy", Some("git.example.org"), "~me/deploy"),
            ("file:///srv/deploy.git", None, "srv/deploy"),
            ("/srv/deploy.git", None, "srv/deploy"),
        ] {
            let remote: Remote = text.parse().unwrap_or_else(|problem| panic!("{text}: {problem}"));
            assert_eq!((remote.host(), remote.path()), (host, path), "{text}");
            assert_eq!(remote.to_string(), text);
        }
    }

    #[test]
    fn what_could_fool_ssh_a_shell_or_a_browser_of_the_web_is_refused() {
        for text in [
            "",
            "-oProxyCommand=touch${IFS}/tmp/x",
            "ssh://-oProxyCommand=x/y",
            "ssh://git@-host/y",
            "ssh://-git@host/y",
            "ssh://host/-x",
            "ssh://host",
            "ssh://host:0/x",
            "ssh://host:99999/x",
            "ssh://host/a'b",
            "ssh://host/a;b",
            "ssh://host/a|b",
            "ssh://host/$(id)",
            "ssh://host/`id`",
            "ssh://host/a\nb",
            "ssh://host/a b",
            "ssh://host/a/../b",
            "git@host:-x",
            "git@host:a'b",
            "git@host::x",
            "-host:path",
            "ext::sh -c id",
            "ext::sh",
            "git://host/x",
            "ftp://host/x",
            "javascript://host/x",
            "https:///evil/x",
            "https://",
            "https://host",
            "https://host/",
            "https://ho%0ast/x",
            "https://host/a/../b",
            "https://host/a/%2e%2e/b",
            "https://host/a%2fb",
            "https://host/a%0ab",
            "https://host/a?b=c",
            "https://host/a#b",
            "https://host\\evil/x",
            "https://h\u{f6}st/x",
            "https://169.254.169.254/latest",
            "https://0.0.0.0/x",
            "https://[fe80::1]/x",
            "https://[::ffff:127.0.0.1]/x",
            "http://git.example.org/x",
            "http://2130706434.example/x",
            "file://host/x",
            "file://relative",
            "/",
            "/a/../b",
            "relative/path",
            "HTTPS://host/x",
        ] {
            let problem = text.parse::<Remote>().expect_err(text);
            assert_eq!(problem.fault, towpath_core::fault::Fault::Setup, "{text}");
            assert!(problem.hint.is_some(), "{text}");
        }
    }

    #[test]
    fn plain_http_to_another_machine_must_be_said() {
        assert!("http://git.example.org/x".parse::<Remote>().is_err());
        assert!(Remote::parse_insecure("http://git.example.org/x").is_ok());
        assert!(Remote::parse_insecure("http://169.254.169.254/x").is_err());
    }

    #[test]
    fn a_password_in_an_address_is_refused_and_not_repeated() {
        for text in ["https://me:hunter2@host/x", "https://hunter2@host/x", "ssh://git:hunter2@host/x"] {
            let problem = text.parse::<Remote>().expect_err(text).to_string();
            assert!(problem.contains("Secret") && !problem.contains("hunter2"), "{problem}");
        }
    }

    #[test]
    fn credentials_do_not_show_in_debug_output() {
        let secret = || SecretString::from("hunter2");
        for login in [
            Login::Basic { username: "me".into(), password: secret() },
            Login::Bearer(secret()),
            Login::SshKey { private_key: secret(), known_hosts: String::new() },
        ] {
            assert!(!format!("{:?}", Credentials::from(login)).contains("hunter2"));
        }
    }
}

//! `.gitmodules`: what git knows of submodules, read strictly.

use std::collections::{BTreeMap, BTreeSet};

use crate::fault::{Place, Problem};
use crate::lane;
use crate::limits;
use crate::tree::Tree;

/// The file in which git keeps what it knows of submodules.
pub const GITMODULES: &str = ".gitmodules";

/// One submodule as `.gitmodules` has it. The address is only read; nothing is contacted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Submodule {
    /// Its name.
    pub name: String,
    /// Its folder.
    pub path: String,
    /// Where its commits come from: https, ssh, `user@host:path`, or a path relative to the deploy repository's own
    /// address.
    pub url: String,
    /// The branch that it follows.
    pub branch: Option<String>,
}

impl Submodule {
    /// The branch of the component that goes with a branch of the deploy repository: the one that is named here, else the
    /// one of the same name.
    pub fn branch_for<'a>(&'a self, lane: &'a str) -> &'a str {
        self.branch.as_deref().filter(|branch| *branch != ".").unwrap_or(lane)
    }
}

/// The submodules that a revision names.
///
/// # Errors
/// As [`read_gitmodules`], and where the file cannot be read.
pub fn submodules_of(tree: &Tree) -> Result<Vec<Submodule>, Vec<Problem>> {
    let text = tree.text(GITMODULES).map_err(|problem| vec![problem])?;
    read_gitmodules(text.unwrap_or_default())
}

/// Reads `.gitmodules`: strictly, for git's own reader has been the way in for more than one attack.
///
/// What git does with `update`, `fetchRecurseSubmodules`, `ignore` and `shallow` does not concern a reader of objects;
/// these are passed over.
///
/// # Errors
/// Every name, path, address or branch that is not plain.
pub fn read_gitmodules(text: &str) -> Result<Vec<Submodule>, Vec<Problem>> {
    let problem = |line: usize, message: String| {
        Problem::content(message).at(Place::line(GITMODULES, u32::try_from(line).unwrap_or(u32::MAX)))
    };
    if text.len() > limits::MAX_GITMODULES_BYTES {
        let limit = limits::MAX_GITMODULES_BYTES;
        return Err(vec![Problem::content(format!("more than {limit} bytes")).at(Place::file(GITMODULES))]);
    }
    let mut problems = Vec::new();
    let mut sections: Vec<(String, usize, BTreeMap<String, String>)> = Vec::new();
    for (index, raw) in text.split('\n').enumerate() {
        let number = index + 1;
        let line = raw.trim_matches([' ', '\t']);
        if line.chars().any(char::is_control) {
            problems.push(problem(number, "a control character".to_owned()).hint("save the file with plain line ends"));
            continue;
        }
        if line.is_empty() || line.starts_with(['#', ';']) {
            continue;
        }
        if line.starts_with('[') {
            let name = line.strip_prefix("[submodule \"").and_then(|rest| rest.strip_suffix("\"]"));
            match name {
                Some(name) if is_submodule_path(name) => {
                    if sections.iter().any(|(other, ..)| other.eq_ignore_ascii_case(name)) {
                        problems.push(problem(number, format!("submodule {name:?} is there twice")));
                    }
                    sections.push((name.to_owned(), number, BTreeMap::new()));
                }
                Some(name) => problems.push(problem(number, format!("refused name of a submodule: {name:?}"))),
                None => problems.push(problem(number, "not a section of the form [submodule \"name\"]".to_owned())),
            }
            if sections.len() > limits::MAX_SUBMODULES {
                let limit = limits::MAX_SUBMODULES;
                problems.push(problem(number, format!("more than {limit} submodules")));
                return Err(problems);
            }
            continue;
        }
        let Some((key, value)) = line.split_once('=') else {
            problems.push(problem(number, "not of the form `key = value`".to_owned()));
            continue;
        };
        let key = key.trim().to_ascii_lowercase();
        let value = value.trim();
        let value = value.strip_prefix('"').and_then(|value| value.strip_suffix('"')).unwrap_or(value);
        if value.contains(['"', '\\', '#', ';']) {
            problems.push(problem(number, format!("the value of {key} has quotes, comments or escapes in it")));
            continue;
        }
        let Some((name, _, section)) = sections.last_mut() else {
            problems.push(problem(number, "a value before the first section".to_owned()));
            continue;
        };
        let verdict = match &*key {
            "path" if !is_submodule_path(value) => Err("a path that leaves its place"),
            "url" => check_url(value),
            "branch" if value != "." && !lane::is_branch_name(value) => Err("no name of a branch"),
            "path" | "branch" => Ok(()),
            "update" | "fetchrecursesubmodules" | "ignore" | "shallow" => continue,
            _ => Err("an unknown key"),
        };
        if let Err(why) = verdict {
            // An address can hold a password, so it is not repeated.
            problems.push(problem(number, format!("submodule {name:?}: refused {key}: {why}")));
        } else if section.insert(key.clone(), value.to_owned()).is_some() {
            problems.push(problem(number, format!("submodule {name:?}: {key} is said twice")));
        }
    }
    let mut paths = BTreeSet::new();
    let mut submodules = Vec::new();
    for (name, line, mut section) in sections {
        let branch = section.remove("branch");
        match (section.remove("path"), section.remove("url")) {
            (Some(path), Some(url)) => {
                if !paths.insert(path.to_lowercase()) {
                    problems.push(problem(line, format!("two submodules at the path {path}")));
                }
                submodules.push(Submodule { name, path, url, branch });
            }
            _ if problems.is_empty() => {
                problems.push(problem(line, format!("submodule {name:?} needs a path and a url")));
            }
            _ => {}
        }
    }
    if problems.is_empty() { Ok(submodules) } else { Err(problems) }
}

/// A relative path of plain folder names.
fn is_submodule_path(path: &str) -> bool {
    let good = |part: &str| {
        let folded = part.to_lowercase();
        !part.is_empty()
            && !matches!(part, "." | "..")
            && !part.starts_with('-')
            && !part.ends_with(['.', ' '])
            && folded != ".git"
            && !folded.starts_with("git~")
            && part.chars().all(|c| !c.is_control() && !matches!(c, '\\' | ':' | '"' | '\u{200b}'..='\u{200f}'))
    };
    path.len() <= 4096 && path.split('/').all(good)
}

/// The grammar of addresses: https and ssh with plain hosts and paths, `user@host:path`, or a relative path.
fn check_url(url: &str) -> Result<(), &'static str> {
    let is_path = |path: &str| {
        !path.is_empty()
            && path.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"/._~-+".contains(&byte))
            && path.split('/').all(|part| !part.starts_with('-'))
    };
    let is_plain_path = |path: &str| is_path(path) && path.split('/').all(|part| !matches!(part, "." | ".."));
    let is_host = |host: &str| {
        let (host, port) = host.split_once(':').map_or((host, None), |(host, port)| (host, Some(port)));
        let is_port = |port: &str| port.parse::<u16>().is_ok_and(|port| port > 0);
        !host.is_empty()
            && !host.starts_with(['-', '.'])
            && host.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-'))
            && port.is_none_or(is_port)
    };
    let is_user = |user: &str| {
        !user.is_empty()
            && !user.starts_with('-')
            && user.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'.'))
    };
    if url.len() > 2048 {
        return Err("longer than 2048 bytes");
    }
    if let Some(rest) = url.strip_prefix("https://") {
        let (host, path) = rest.split_once('/').ok_or("no path")?;
        if host.contains('@') {
            return Err("a user or password within");
        }
        return if is_host(host) && is_plain_path(path) { Ok(()) } else { Err("no plain host and path") };
    }
    if let Some(rest) = url.strip_prefix("ssh://") {
        let (host, path) = rest.split_once('/').ok_or("no path")?;
        let (user, host) = host.split_once('@').map_or((None, host), |(user, host)| (Some(user), host));
        let is_plain = user.is_none_or(is_user) && is_host(host) && is_plain_path(path);
        return if is_plain { Ok(()) } else { Err("no plain user, host and path") };
    }
    if url.starts_with("./") || url.starts_with("../") {
        let below = url.trim_start_matches("./").trim_start_matches("../");
        return if is_plain_path(below) { Ok(()) } else { Err("no plain relative path") };
    }
    if url.contains("://") || url.contains("::") {
        return Err("only https and ssh are taken");
    }
    if let Some((at, path)) = url.split_once(':') {
        let (user, host) = at.split_once('@').ok_or("only https and ssh are taken")?;
        let is_plain = is_user(user) && is_host(host) && is_plain_path(path.trim_start_matches('/'));
        return if is_plain { Ok(()) } else { Err("no plain user, host and path") };
    }
    Err("a path on a disk")
}

/// The whole address of a submodule. One that begins with `./` or `../` counts from the deploy repository's own address, as
/// git-submodule(1) says: each `../` takes its last part away.
///
/// # Errors
/// `Content` where it goes up beyond the host or the root.
pub fn address(deploy: &str, url: &str) -> Result<String, Problem> {
    if !url.starts_with("./") && !url.starts_with("../") {
        return Ok(url.to_owned());
    }
    let too_far = || {
        Problem::content(format!("the address {url} goes up beyond {deploy}"))
            .at(Place::file(GITMODULES))
            .hint("count the ../ again, or write the whole address")
    };
    // What must stay: the host, and the slash that a path on a disk begins with.
    let scheme = deploy.find("://").map_or(0, |at| at + 3);
    let after_scheme = &deploy[scheme..];
    let fixed = match (scheme, after_scheme.find('/'), after_scheme.find(':')) {
        // A path from the root stays one.
        (0, _, Some(colon)) => colon + 1 + usize::from(deploy[colon + 1..].starts_with('/')),
        (_, Some(slash), _) => scheme + slash + 1,
        _ => return Err(too_far()),
    };
    let (host, path) = deploy.split_at(fixed);
    let mut parts: Vec<&str> = path.split('/').filter(|part| !part.is_empty()).collect();
    for part in url.split('/') {
        match part {
            "." | "" => {}
            ".." => drop(parts.pop().ok_or_else(too_far)?),
            part => parts.push(part),
        }
    }
    if parts.is_empty() { Err(too_far()) } else { Ok(format!("{host}{}", parts.join("/"))) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn messages(problems: Vec<Problem>) -> Vec<String> {
        problems.into_iter().map(|problem| problem.to_string()).collect()
    }

    #[test]
    fn gitmodules_as_git_writes_them_are_read() {
        let text = "# ours\n[submodule \"components/web\"]\n\tpath = components/web\n\turl = ../web.git\n\tbranch = develop\n\tupdate = !touch /tmp/pwn\n\
                    [submodule \"api\"]\n\tpath = components/api\n\turl = \"git@git.example:shop/api.git\"\n";
        let submodules = read_gitmodules(text).unwrap();
        assert_eq!(submodules.len(), 2);
        assert_eq!(submodules[0].branch.as_deref(), Some("develop"));
        assert_eq!(submodules[1].url, "git@git.example:shop/api.git");
    }

    #[test]
    fn hostile_names_and_paths_are_refused() {
        let with = |name: &str, path: &str| format!("[submodule \"{name}\"]\npath = {path}\nurl = ../web.git\n");
        assert!(read_gitmodules(&with("web", "components/web")).is_ok());
        for bad in [
            "../x", "a/../b", "-x", "a/-x", ".git", "a/.GIT/x", "git~1", "/etc", "a//b", "x\r", "a\\b", "a.", "x\u{1b}",
        ] {
            assert!(read_gitmodules(&with(bad, "ok")).is_err(), "name {bad:?}");
            assert!(read_gitmodules(&with("ok", bad)).is_err(), "path {bad:?}");
        }
    }

    #[test]
    fn a_relative_address_counts_from_the_deploy_repository() {
        for (deploy, url, whole) in [
            ("https://git.example/shop/deploy.git", "../web.git", "https://git.example/shop/web.git"),
            ("https://git.example:8443/shop/deploy.git/", "../../libs/web", "https://git.example:8443/libs/web"),
            ("ssh://git@git.example:2222/shop/deploy.git", "../web.git", "ssh://git@git.example:2222/shop/web.git"),
            ("git@git.example:shop/deploy.git", "../web.git", "git@git.example:shop/web.git"),
            ("git@git.example:deploy.git", "../web.git", "git@git.example:web.git"),
            ("git@git.example:/srv/git/deploy.git", "../web.git", "git@git.example:/srv/git/web.git"),
            ("/srv/git/deploy.git", "../web.git", "/srv/git/web.git"),
            ("file:///srv/git/deploy.git", "./web.git", "file:///srv/git/deploy.git/web.git"),
            ("https://git.example/deploy.git", "git@other.example:x.git", "git@other.example:x.git"),
        ] {
            assert_eq!(address(deploy, url).as_deref(), Ok(whole));
        }
        for deploy in ["https://git.example/deploy.git", "git@git.example:deploy.git", "/deploy.git"] {
            assert!(address(deploy, "../../web.git").is_err(), "{deploy}");
            assert!(address(deploy, "../").is_err(), "{deploy}");
        }
    }

    #[test]
    fn addresses_that_run_or_reach_something_are_refused() {
        let with = |url: &str| format!("[submodule \"web\"]\npath = web\nurl = {url}\n");
        for good in [
            "https://git.example/shop/web.git",
            "https://git.example:8443/web",
            "ssh://git@git.example:2222/shop/web.git",
            "git@git.example:shop/web.git",
            "../web.git",
            "../../group/web",
            "./web",
        ] {
            assert!(read_gitmodules(&with(good)).is_ok(), "{good}");
        }
        for bad in [
            "-oProxyCommand=touch${IFS}/tmp/pwn",
            "ssh://-oX/y",
            "ssh://git@-oX/y",
            "ssh://git.example/a;b",
            "ssh://git.example/$(id)",
            "ssh://git.example/`id`",
            "ssh://git.example/a'b",
            "ssh://git.example/a|b",
            "file:///etc",
            "/etc/passwd",
            "web",
            "ext::sh -c id",
            "http://169.254.169.254/",
            "http://127.0.0.1:8080/x",
            "https:///evil/x",
            "https://user:secret@git.example/x",
            "https://git.example%0a.evil/x",
            "https://git.example/x/../../y",
            "https://git.example/%2e%2e/x",
            "../x/../../y",
            "git@host:-x/y",
            "-u@host:x",
        ] {
            assert!(read_gitmodules(&with(bad)).is_err(), "{bad}");
        }
        let said = messages(read_gitmodules(&with("https://user:secret@git.example/x")).unwrap_err());
        assert!(!said[0].contains("secret"), "{said:?}");
    }

    #[test]
    fn what_is_there_twice_or_unknown_is_refused() {
        let one = "[submodule \"web\"]\npath = web\nurl = ../web.git\n";
        for bad in [
            format!("{one}{one}"),
            format!("{one}{}", one.replace("\"web\"", "\"other\"")),
            format!("{one}path = again\n"),
            format!("{one}branch = --upload-pack=x\n"),
            format!("{one}wat = x\n"),
            "[core]\nx = y\n".to_owned(),
            "path = x\n".to_owned(),
            "[submodule \"web\"]\npath = web\n".to_owned(),
            one.replace('\n', "\r\n"),
        ] {
            assert!(read_gitmodules(&bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn number_and_size_have_limits() {
        let many = |count: usize| {
            (0..count).map(|n| format!("[submodule \"m{n}\"]\npath=p{n}\nurl=../x\n")).collect::<String>()
        };
        assert!(read_gitmodules(&many(limits::MAX_SUBMODULES)).is_ok());
        assert!(read_gitmodules(&many(limits::MAX_SUBMODULES + 1)).is_err());
        assert!(read_gitmodules(&"#".repeat(limits::MAX_GITMODULES_BYTES)).is_ok());
        assert!(read_gitmodules(&"#".repeat(limits::MAX_GITMODULES_BYTES + 1)).is_err());
    }
}

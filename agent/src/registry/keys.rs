//! Logins of registries, from Secrets of the type `kubernetes.io/dockerconfigjson`.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use secrecy::{ExposeSecret, SecretString};
use serde_json::Value;
use sha2::{Digest, Sha256};
use towpath_core::fault::Problem;

use super::{Identity, ImageName, image};
use crate::clients::Authority;

/// The key of such a Secret that holds the logins.
const DOCKER_CONFIG: &str = ".dockerconfigjson";
/// Entries of one Secret.
const MAX_ENTRIES: usize = 1000;
/// Bytes of what an entry is for: the longest name of a host (RFC 1035, 2.3.4) and a folder.
const MAX_PLACE: usize = 300;
/// Bytes of one part of a host (RFC 1035, 2.3.4).
const MAX_LABEL: usize = 63;

/// The logins that an environment names.
#[derive(Debug, Default)]
pub struct Keys(Vec<Result<Key, (Place, Problem)>>);

/// What is known of one registry, or of one folder in it.
#[derive(Debug)]
pub(super) struct Key {
    place: Place,
    /// `None` where the registry is only named, as for the sake of its authority.
    pub(super) login: Option<Login>,
    /// The authority that vouches for the registry, in PEM: `ca.crt` of the same Secret.
    authority: Option<String>,
    /// The Secret that it comes from.
    pub(super) secret: String,
}

/// Who asks. A robot account has a user name like any other: `robot$shop+towpath`.
#[derive(Debug)]
pub(super) struct Login {
    pub(super) user: String,
    pub(super) password: SecretString,
}

/// Where a login is for.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Place {
    /// With its port where one is named; `*` stands for any letters of one part.
    host: String,
    /// A folder, `""` for all.
    path: String,
}

impl Keys {
    /// Takes the logins of a Secret, as the API server gives it.
    ///
    /// # Errors
    /// `Setup` when it is of another type or cannot be read. The error never quotes what is in it.
    pub fn add(&mut self, name: &str, secret: &Value) -> Result<(), Problem> {
        let refuse = |why: &str| {
            Problem::setup(format!("Secret {name}: {why}")).hint(
                "make it with kubectl create secret docker-registry; ca.crt beside the logins is the authority to trust",
            )
        };
        let text = |key: &str| {
            let Some(encoded) = secret["data"][key].as_str() else { return Ok(None) };
            let bytes = STANDARD.decode(encoded).map_err(|_not_base64| refuse(&format!("{key} is not text")))?;
            String::from_utf8(bytes).map(Some).map_err(|_not_text| refuse(&format!("{key} is not text")))
        };
        let config = text(DOCKER_CONFIG)?.ok_or_else(|| refuse(&format!("there is no {DOCKER_CONFIG} in it")))?;
        let config: Value = serde_json::from_str(&config).unwrap_or_default();
        let entries = config["auths"].as_object().filter(|entries| entries.len() <= MAX_ENTRIES);
        let entries = entries.ok_or_else(|| refuse(&format!("{DOCKER_CONFIG} has no map `auths`")))?;
        let authority = text("ca.crt")?;
        for (at, entry) in entries {
            let place = Place::read(at);
            self.0.push(match place.check().and_then(|()| login(entry)) {
                Ok(login) => Ok(Key { place, login, authority: authority.clone(), secret: name.to_owned() }),
                Err(why) => Err((place, refuse(&format!("the login for {}: {why}", clean(at))))),
            });
        }
        Ok(())
    }

    /// What is known for an image: by the longest path, then the most exact host, then the order of the Secrets.
    pub(super) fn of(&self, image: &ImageName) -> Option<Result<&Key, &Problem>> {
        let place = |key: &Result<Key, (Place, Problem)>| match key {
            Ok(key) => key.place.clone(),
            Err((place, _)) => place.clone(),
        };
        let fitting = self.0.iter().rev().map(|key| (place(key), key)).filter(|(place, _)| place.covers(image));
        let best = fitting.max_by_key(|(place, _)| (place.path.len(), !place.host.contains('*')));
        best.map(|(_, key)| key.as_ref().map_err(|(_, problem)| problem))
    }
}

impl Key {
    pub(super) fn authority(&self) -> Option<Authority<'_>> {
        self.authority.as_deref().map(|pem| Authority { pem, secret: &self.secret })
    }

    /// Tells this login from others, without having it: the Secret, the authority, user and password.
    pub(super) fn identity(&self) -> Identity {
        let login = self.login.as_ref().map(|login| (login.user.as_str(), login.password.expose_secret()));
        let (user, password) = login.unwrap_or_default();
        let mut hash = Sha256::new();
        for part in [&self.secret, self.authority.as_deref().unwrap_or_default(), user, password] {
            hash.update((part.len() as u64).to_be_bytes());
            hash.update(part);
        }
        hash.finalize().into()
    }
}

fn clean(text: &str) -> String {
    towpath_core::revision::clean_line(text, 100)
}

/// The login of an entry: `auth`, or `username` and `password`.
fn login(entry: &Value) -> Result<Option<Login>, &'static str> {
    let given = |name: &str| entry[name].as_str().filter(|text| !text.is_empty());
    if let Some(auth) = given("auth") {
        let decoded = STANDARD.decode(auth.trim()).ok().and_then(|bytes| String::from_utf8(bytes).ok());
        let decoded = decoded.ok_or("auth is not base64 of user:password")?;
        let (user, password) = decoded.split_once(':').ok_or("auth is not base64 of user:password")?;
        // Some tools pad it with zeros.
        let (user, password) = (user.to_owned(), password.trim_end_matches('\0').to_owned().into());
        return Ok(Some(Login { user, password }));
    }
    match (given("username"), given("password")) {
        (Some(user), Some(password)) => Ok(Some(Login { user: user.to_owned(), password: password.to_owned().into() })),
        (None, None) if given("identitytoken").is_some() || given("registrytoken").is_some() => {
            Err("identity tokens are not supported: give a user and a password")
        }
        (None, None) => Ok(None),
        _ => Err("there is a user without a password, or a password without a user"),
    }
}

impl Place {
    /// Reads `https://index.docker.io/v1/`, `harbor.example:5000` or `harbor.example/shop`.
    fn read(text: &str) -> Place {
        let text = text.trim();
        let text = text.strip_prefix("https://").or(text.strip_prefix("http://")).unwrap_or(text);
        let (host, path) = text.split_once('/').unwrap_or((text, ""));
        let path = path.trim_matches('/');
        let is_version = |part: &str| part == "v1" || part == "v2";
        let path = match path.split_once('/') {
            Some((first, rest)) if is_version(first) => rest,
            None if is_version(path) => "",
            _ => path,
        };
        Place { host: image::one_host(host), path: path.to_owned() }
    }

    /// Whether it can be the place of a registry at all.
    fn check(&self) -> Result<(), &'static str> {
        if self.host.len() + self.path.len() > MAX_PLACE {
            return Err("it is for a place of more than 300 bytes");
        }
        let has_long_part = self.host.split('.').any(|part| part.len() > MAX_LABEL);
        if has_long_part { Err("it is for a host with a part of more than 63 bytes") } else { Ok(()) }
    }

    fn covers(&self, image: &ImageName) -> bool {
        let rest = image.path().strip_prefix(&self.path);
        let is_below = self.path.is_empty() || rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
        is_below && host_fits(&self.host, image.host())
    }
}

/// Whether a host is meant: part by part, and the same port.
fn host_fits(pattern: &str, host: &str) -> bool {
    let with_port = |text: &str| {
        let (name, port) = text.rsplit_once(':').unwrap_or((text, ""));
        (name.to_owned(), port.to_owned())
    };
    if !pattern.contains('*') {
        return pattern == host;
    }
    let ((pattern, pattern_port), (name, port)) = (with_port(pattern), with_port(host));
    let (patterns, names): (Vec<&str>, Vec<&str>) = (pattern.split('.').collect(), name.split('.').collect());
    let mut parts = patterns.iter().zip(&names);
    pattern_port == port && patterns.len() == names.len() && parts.all(|(pattern, name)| part_fits(pattern, name))
}

/// Whether a part of a host is meant. The text before the first `*` begins it, the one after the last ends it, and what is
/// between is looked for from left to right: nothing is tried twice.
fn part_fits(pattern: &str, name: &str) -> bool {
    let Some((first, rest)) = pattern.split_once('*') else { return pattern == name };
    let (between, last) = rest.rsplit_once('*').unwrap_or(("", rest));
    let middle = name.strip_prefix(first).and_then(|name| name.strip_suffix(last));
    let found = |name: &str, piece: &str| name.find(piece).map(|at| at + piece.len());
    middle.is_some_and(|middle| {
        let mut pieces = between.split('*');
        let end = pieces.try_fold(0, |from, piece| Some(from + found(&middle[from..], piece)?));
        end.is_some()
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn keys(auths: Value) -> Keys {
        let mut keys = Keys::default();
        let config = STANDARD.encode(json!({ "auths": auths }).to_string());
        keys.add("pull", &json!({"data": {DOCKER_CONFIG: config}})).unwrap();
        keys
    }

    fn user(keys: &Keys, image: &str) -> Option<String> {
        let image = ImageName::parse(image).unwrap();
        keys.of(&image)?.unwrap().login.as_ref().map(|login| login.user.clone())
    }

    fn entry(user: &str) -> Value {
        json!({"auth": STANDARD.encode(format!("{user}:pass:word"))})
    }

    #[test]
    fn a_login_is_found_by_host_and_the_longest_path() {
        let keys = keys(json!({
            "harbor.example": entry("all"),
            "https://harbor.example/shop": entry("robot$shop+towpath"),
            "*.example": entry("any"),
            "harbor.example:5000": entry("port"),
            "https://index.docker.io/v1/": entry("hub"),
        }));
        for (image, expected) in [
            ("harbor.example/shop/web:1", Some("robot$shop+towpath")),
            ("harbor.example/shop:1", Some("robot$shop+towpath")),
            ("harbor.example/shopping/web:1", Some("all")),
            ("harbor.example:5000/shop/web:1", Some("port")),
            ("harbor.example:5001/shop/web:1", None),
            ("other.example/web:1", Some("any")),
            ("a.b.example/web:1", None),
            ("harbor.example.evil.org/web:1", None),
            ("nginx:1", Some("hub")),
        ] {
            assert_eq!(user(&keys, image).as_deref(), expected, "{image}");
        }
        let image = ImageName::parse("harbor.example/web:1").unwrap();
        let login = keys.of(&image).unwrap().unwrap().login.as_ref().unwrap();
        assert_eq!(login.password.expose_secret(), "pass:word");
    }

    #[test]
    fn a_star_stands_for_letters_of_one_part_and_costs_no_time() {
        for (pattern, name, fits) in [
            ("*", "", true),
            ("*", "a", true),
            ("a*", "a", true),
            ("a*a", "a", false),
            ("a*b*c", "axbxbxc", true),
            ("a*b*c", "acb", false),
            ("*ab*ab*", "abab", true),
            ("*ab*ab*", "abxa", false),
            ("**", "abc", true),
            ("a*bc", "abbc", true),
            ("*é*", "é", true),
        ] {
            assert_eq!(part_fits(pattern, name), fits, "{pattern} {name}");
        }
        // Each star by itself would be tried at each letter.
        assert!(!part_fits(&("*a".repeat(30) + "*b"), &"a".repeat(60)));
    }

    #[test]
    fn a_place_that_no_registry_can_be_at_is_no_login() {
        let long = "*".repeat(MAX_LABEL + 1) + ".example";
        let deep = format!("harbor.example/{}", "a".repeat(MAX_PLACE));
        for (at, image, said) in [
            (long.as_str(), "harbor.example/web:1", "more than 63 bytes"),
            (deep.as_str(), &format!("{deep}:1"), "more than 300 bytes"),
        ] {
            let keys = keys(json!({at: entry("any")}));
            let problem = keys.of(&ImageName::parse(image).unwrap()).unwrap().unwrap_err();
            assert!(problem.message.contains(said), "{problem}");
        }
    }

    #[test]
    fn one_registry_has_one_login_however_it_is_written() {
        for (at, image) in [
            ("https://registry-1.docker.io/v2/", "docker.io/nginx:1"),
            ("docker.io:443", "registry-1.docker.io/library/nginx:1"),
            ("Harbor.Example:443", "harbor.example/web:1"),
            ("harbor.example", "HARBOR.example:443/web:1"),
        ] {
            assert_eq!(user(&keys(json!({at: entry("one")})), image).as_deref(), Some("one"), "{at} {image}");
        }
    }

    #[test]
    fn a_login_may_be_in_two_fields_or_lack() {
        let keys = keys(json!({"a.example": {"username": "u", "password": "p"}, "b.example": {}}));
        assert_eq!(user(&keys, "a.example/web:1").as_deref(), Some("u"));
        assert_eq!(user(&keys, "b.example/web:1"), None);
        assert!(keys.of(&ImageName::parse("b.example/web:1").unwrap()).is_some());
    }

    #[test]
    fn what_cannot_be_read_is_said_only_where_it_is_needed_and_never_quoted() {
        let keys = keys(json!({"a.example": {"auth": "c2VjcmV0"}, "b.example": {"identitytoken": "secret"}}));
        for (image, said) in
            [("a.example/web:1", "not base64 of user:password"), ("b.example/web:1", "identity tokens")]
        {
            let problem = keys.of(&ImageName::parse(image).unwrap()).unwrap().unwrap_err();
            assert!(problem.message.contains(said) && !problem.to_string().contains("secret\""), "{problem}");
            assert!(!problem.to_string().contains("c2VjcmV0"));
        }
        let mut none = Keys::default();
        for secret in [json!({}), json!({"data": {DOCKER_CONFIG: "e30="}}), json!({"data": {DOCKER_CONFIG: "?"}})] {
            assert!(none.add("pull", &secret).is_err(), "{secret}");
        }
    }
}

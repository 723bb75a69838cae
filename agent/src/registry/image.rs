//! The name of an image, as containers have it: `[host[:port]/]path[:tag][@digest]`.

use std::fmt;

use towpath_core::fault::Problem;
use towpath_core::revision::clean_line;
use url::Url;

/// The registry of an image whose name has no host, and the one that answers for it.
const DOCKER_HUB: &str = "docker.io";
const DOCKER_HUB_API: &str = "registry-1.docker.io";
/// An old name of it.
const DOCKER_HUB_INDEX: &str = "index.docker.io";
/// Bytes of a name.
const MAX_BYTES: usize = 512;

/// The name of an image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImageName {
    host: String,
    path: String,
    tag: Option<String>,
    digest: Option<String>,
}

impl ImageName {
    /// Reads a name with Docker's defaults: a first part without a dot or a port is no host but a folder of Docker Hub.
    ///
    /// # Errors
    /// `Content` when it is no name of an image, or names neither a tag nor a digest.
    pub fn parse(text: &str) -> Result<ImageName, Problem> {
        let refuse = || {
            Problem::content(format!("{:?} is no name of an image with a tag", clean_line(text, 200)))
                .hint("write host/path:tag; a path has lower-case letters, digits, and . _ - between them")
        };
        if text.len() > MAX_BYTES {
            return Err(refuse());
        }
        let (name, digest) = text.split_once('@').map_or((text, None), |(name, digest)| (name, Some(digest)));
        let (name, tag) = match name.rsplit_once(':') {
            Some((name, tag)) if !tag.contains('/') => (name, Some(tag)),
            _ => (name, None),
        };
        let is_host_part = |first: &str| first.contains(['.', ':']) || first.eq_ignore_ascii_case("localhost");
        let (host, path) = match name.split_once('/') {
            Some((first, path)) if is_host_part(first) => (first, path),
            _ => (DOCKER_HUB, name),
        };
        let is_official = one_host(host) == DOCKER_HUB && !path.contains('/');
        let path = if is_official { format!("library/{path}") } else { path.to_owned() };
        let is_good = path.split('/').all(is_path_part)
            && tag.is_none_or(is_tag)
            && digest.is_none_or(is_digest)
            && (tag.is_some() || digest.is_some())
            && is_host(host);
        if !is_good {
            return Err(refuse());
        }
        let (tag, digest) = (tag.map(str::to_owned), digest.map(str::to_owned));
        Ok(ImageName { host: one_host(host), path, tag, digest })
    }

    /// The registry, with its port where one is named.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The repository in the registry.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// Whether its registry is on this machine.
    pub(super) fn is_local(&self) -> bool {
        is_loopback(self.host.rsplit_once(':').map_or(&self.host, |(name, _)| name))
    }

    /// Where its manifest is. Loopback is asked over http, unless there is an authority to trust.
    pub(super) fn manifest(&self, has_authority: bool) -> Result<Url, Problem> {
        let host = if self.host == DOCKER_HUB { DOCKER_HUB_API } else { &self.host };
        let scheme = if self.is_local() && !has_authority { "http" } else { "https" };
        let reference = self.digest.as_ref().or(self.tag.as_ref()).map_or("", String::as_str);
        let address = format!("{scheme}://{host}/v2/{}/manifests/{reference}", self.path);
        Url::parse(&address).map_err(|error| Problem::content(format!("{self} cannot be looked up: {error}")))
    }
}

impl fmt::Display for ImageName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.host, self.path)?;
        if let Some(tag) = &self.tag {
            write!(f, ":{tag}")?;
        }
        self.digest.as_ref().map_or(Ok(()), |digest| write!(f, "@{digest}"))
    }
}

/// The one spelling of a registry that can be written in several ways: in small letters, without the port of https, and
/// Docker Hub by one of its names. On loopback the port stays, for there http is spoken.
pub(super) fn one_host(host: &str) -> String {
    let mut host = host.to_ascii_lowercase();
    if let Some(name) = host.strip_suffix(":443").filter(|name| !is_loopback(name)) {
        host = name.to_owned();
    }
    let is_docker_hub = [DOCKER_HUB_API, DOCKER_HUB_INDEX].contains(&host.as_str());
    if is_docker_hub { DOCKER_HUB.to_owned() } else { host }
}

/// Whether a host is this machine.
pub(super) fn is_loopback(host: &str) -> bool {
    let host = host.trim_start_matches('[').trim_end_matches(']');
    host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
}

/// Whether a text is a digest that registries know.
pub(super) fn is_digest(text: &str) -> bool {
    let is_hex = |text: &str| text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    match text.split_once(':') {
        Some(("sha256", hash)) => hash.len() == 64 && is_hex(hash),
        Some(("sha512", hash)) => hash.len() == 128 && is_hex(hash),
        _ => false,
    }
}

fn is_host(text: &str) -> bool {
    let (name, port) = text.rsplit_once(':').map_or((text, None), |(name, port)| (name, Some(port)));
    let is_name = !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b".-".contains(&byte));
    let is_v6 = text.starts_with('[') && text.contains(']') && text.bytes().all(|byte| byte.is_ascii_graphic());
    is_v6 || (is_name && port.is_none_or(|port| port.parse::<u16>().is_ok()))
}

fn is_path_part(part: &str) -> bool {
    let is_word = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let bytes = part.as_bytes();
    let ends = bytes.first().is_some_and(|byte| is_word(*byte)) && bytes.last().is_some_and(|byte| is_word(*byte));
    ends && bytes.iter().all(|byte| is_word(*byte) || b"._-".contains(byte))
}

fn is_tag(tag: &str) -> bool {
    let good = |byte: u8| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte);
    (1..=128).contains(&tag.len()) && tag.bytes().all(good) && !tag.starts_with(['.', '-'])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_has_dockers_defaults() {
        for (text, full, url) in [
            (
                "nginx:1.27",
                "docker.io/library/nginx:1.27",
                "https://registry-1.docker.io/v2/library/nginx/manifests/1.27",
            ),
            ("shop/web:v1", "docker.io/shop/web:v1", "https://registry-1.docker.io/v2/shop/web/manifests/v1"),
            (
                "index.docker.io/shop/web:v1",
                "docker.io/shop/web:v1",
                "https://registry-1.docker.io/v2/shop/web/manifests/v1",
            ),
            (
                "harbor.example:5000/a/b/web:v1",
                "harbor.example:5000/a/b/web:v1",
                "https://harbor.example:5000/v2/a/b/web/manifests/v1",
            ),
            (
                "Registry-1.Docker.IO:443/nginx:1.27",
                "docker.io/library/nginx:1.27",
                "https://registry-1.docker.io/v2/library/nginx/manifests/1.27",
            ),
            (
                "docker.io/nginx:1.27",
                "docker.io/library/nginx:1.27",
                "https://registry-1.docker.io/v2/library/nginx/manifests/1.27",
            ),
            ("Harbor.example:443/web:v1", "harbor.example/web:v1", "https://harbor.example/v2/web/manifests/v1"),
            ("127.0.0.1:443/web:v1", "127.0.0.1:443/web:v1", "http://127.0.0.1:443/v2/web/manifests/v1"),
            ("localhost/web:v1", "localhost/web:v1", "http://localhost/v2/web/manifests/v1"),
            ("127.0.0.1:5000/web:v1", "127.0.0.1:5000/web:v1", "http://127.0.0.1:5000/v2/web/manifests/v1"),
            ("[::1]:5000/web:v1", "[::1]:5000/web:v1", "http://[::1]:5000/v2/web/manifests/v1"),
        ] {
            let name = ImageName::parse(text).unwrap();
            assert_eq!((name.to_string().as_str(), name.manifest(false).unwrap().as_str()), (full, url));
        }
        assert_eq!(ImageName::parse("127.0.0.1:5000/web:v1").unwrap().manifest(true).unwrap().scheme(), "https");
    }

    #[test]
    fn a_digest_is_asked_for_rather_than_its_tag() {
        let digest = format!("sha256:{}", "a".repeat(64));
        let name = ImageName::parse(&format!("harbor.example/web:v1@{digest}")).unwrap();
        assert!(name.manifest(false).unwrap().path().ends_with(&format!("/manifests/{digest}")));
    }

    #[test]
    fn what_could_lead_elsewhere_is_no_name() {
        for bad in [
            "",
            "web",
            "harbor.example/web",
            "harbor.example/../web:v1",
            "harbor.example/web:v1/..",
            "harbor.example/Web:v1",
            "user@harbor.example/web:v1",
            "harbor.example/web:v1?x=y",
            "harbor.example/web#:v1",
            "harbor.example/we b:v1",
            "harbor.example:port/web:v1",
            "harbor.example/web:-v1",
            "harbor.example/web@sha256:abc",
            "harbor.example//web:v1",
        ] {
            assert!(ImageName::parse(bad).is_err(), "{bad}");
        }
        assert!(ImageName::parse(&format!("harbor.example/{}:v1", "a".repeat(MAX_BYTES))).is_err());
    }
}

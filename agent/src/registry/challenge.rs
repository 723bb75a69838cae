//! What a registry asks for with 401: the header `www-authenticate` (RFC 9110, 11.6.1; Docker's token specification).

/// Characters of a challenge that are read.
const MAX_CHARACTERS: usize = 4096;

/// How a registry wants to know who asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Challenge {
    /// By user and password.
    Basic,
    /// By a token of another server.
    Bearer(Realm),
}

/// Where a token is had.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Realm {
    pub(super) address: String,
    pub(super) service: Option<String>,
    pub(super) scope: Option<String>,
}

impl Challenge {
    /// Reads the headers; where both are offered, a token shows the password to one server less often.
    pub(super) fn read<'h>(headers: impl Iterator<Item = &'h str>) -> Option<Challenge> {
        let read: Vec<Challenge> = headers.filter_map(Challenge::of).collect();
        let bearer = read.iter().find(|challenge| matches!(challenge, Challenge::Bearer(_)));
        bearer.or(read.first()).cloned()
    }

    fn of(header: &str) -> Option<Challenge> {
        let header = header.trim();
        let (scheme, parameters) = header.split_once(' ').unwrap_or((header, ""));
        if header.len() > MAX_CHARACTERS {
            return None;
        }
        if scheme.eq_ignore_ascii_case("basic") {
            return Some(Challenge::Basic);
        }
        if !scheme.eq_ignore_ascii_case("bearer") {
            return None;
        }
        let mut realm = Realm::default();
        for (name, value) in parameters_of(parameters) {
            match name.to_ascii_lowercase().as_str() {
                "realm" => realm.address = value,
                "service" => realm.service = Some(value),
                "scope" => realm.scope = Some(value),
                _ => {}
            }
        }
        (!realm.address.is_empty()).then_some(Challenge::Bearer(realm))
    }
}

/// `name="value"` and `name=value`, with commas between them.
fn parameters_of(text: &str) -> Vec<(String, String)> {
    let mut found = Vec::new();
    let mut rest = text.trim_start();
    while let Some((name, after)) = rest.split_once('=') {
        let mut value = String::new();
        let mut characters = after.trim_start().char_indices();
        let after = after.trim_start();
        let mut end = after.len();
        if after.starts_with('"') {
            characters.next();
            while let Some((at, character)) = characters.next() {
                match character {
                    '"' => {
                        end = at + 1;
                        break;
                    }
                    '\\' => value.extend(characters.next().map(|(_, character)| character)),
                    character => value.push(character),
                }
            }
        } else {
            end = after.find(',').unwrap_or(after.len());
            after[..end].trim().clone_into(&mut value);
        }
        found.push((name.trim().trim_start_matches(',').trim().to_owned(), value));
        rest = after[end..].trim_start().trim_start_matches(',').trim_start();
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn realm(address: &str, service: Option<&str>, scope: Option<&str>) -> Option<Challenge> {
        let text = |text: Option<&str>| text.map(str::to_owned);
        Some(Challenge::Bearer(Realm { address: address.to_owned(), service: text(service), scope: text(scope) }))
    }

    #[test]
    fn a_challenge_is_read_as_it_is_written_by_registries() {
        let read = |headers: &[&str]| Challenge::read(headers.iter().copied());
        let harbor =
            r#"Bearer realm="https://h/service/token",service="harbor-registry",scope="repository:a/b:pull,push""#;
        let expected = realm("https://h/service/token", Some("harbor-registry"), Some("repository:a/b:pull,push"));
        assert_eq!(read(&[harbor]), expected);
        assert_eq!(read(&["Basic realm=\"x\"", harbor]), expected);
        assert_eq!(
            read(&[r#"bearer scope=pull , realm="https://h/\"t\"""#]),
            realm("https://h/\"t\"", None, Some("pull"))
        );
        assert_eq!(read(&["Basic realm=\"x\""]), Some(Challenge::Basic));
        for none in ["", "Bearer", "Bearer service=\"x\"", "Negotiate", "Bearer realm=\"\""] {
            assert_eq!(read(&[none]), None, "{none}");
        }
        assert_eq!(read(&[&format!("Bearer realm=\"{}\"", "x".repeat(MAX_CHARACTERS))]), None);
    }
}

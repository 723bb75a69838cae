//! Encodings and hashes.

use std::fmt::Write as _;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use sha2::{Digest as _, Sha256};

use super::{Arguments, Helper, Item};

pub(super) const HELPERS: &[Helper] = &[
    Helper::new("b64enc", "b64enc text", (1, 1), |mut arguments| Ok(Item::string(STANDARD.encode(arguments.text(0)?)))),
    Helper::new("b64dec", "b64dec text", (1, 1), |mut arguments| {
        let bytes = STANDARD.decode(arguments.text(0)?.trim()).map_err(|_| "the text is no base64")?;
        Ok(Item::string(String::from_utf8(bytes).map_err(|_| "what is encoded is no text")?))
    }),
    Helper::new("sha256", "sha256 text", (1, 1), |mut arguments| {
        Ok(Item::string(hex::encode(Sha256::digest(arguments.text(0)?))))
    }),
    Helper::new("urlencode", "urlencode text", (1, 1), urlencode),
];

fn urlencode(mut arguments: Arguments<'_>) -> Result<Item<'_>, String> {
    let mut encoded = String::new();
    for byte in arguments.text(0)?.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.' | b'~') {
            encoded.push(char::from(byte));
        } else {
            let _ = write!(encoded, "%{byte:02X}");
        }
    }
    Ok(Item::string(encoded))
}

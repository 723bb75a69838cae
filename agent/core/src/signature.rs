//! Ed25519 keys and signatures as OpenSSH has them, so that `ssh-keygen -Y verify` and `git verify-commit` say the same
//! as Towpath.
//!
//! It takes bytes and texts and gives bytes and texts. A new key is made of 32 random bytes that somebody else brings.
//! The formats are those of OpenSSH's `PROTOCOL.sshsig` and `PROTOCOL.key`; the mathematics is ring's.

use std::fmt;
use std::str::FromStr;

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD};
use ring::signature::{ED25519, Ed25519KeyPair, KeyPair, UnparsedPublicKey};
use sha2::{Digest, Sha256, Sha512};

use crate::fault::Problem;

/// The namespace in which git signs commits. A signature for one namespace is none for another.
pub const GIT: &str = "git";
/// Bytes of a signature in its armour: one by Ed25519 has about 300.
pub const MAX_SIGNATURE_BYTES: usize = 4 << 10;
/// Bytes of a private key in its armour.
pub const MAX_PRIVATE_KEY_BYTES: usize = 16 << 10;

const KIND: &[u8] = b"ssh-ed25519";
const MAGIC: &[u8] = b"SSHSIG";
const SIGNATURE: (&str, &str) = ("-----BEGIN SSH SIGNATURE-----", "-----END SSH SIGNATURE-----");
const PRIVATE_MAGIC: &[u8] = b"openssh-key-v1\0";
const PRIVATE: (&str, &str) = ("-----BEGIN OPENSSH PRIVATE KEY-----", "-----END OPENSSH PRIVATE KEY-----");
/// Characters of a line of armour.
const ARMOUR_WIDTH: usize = 70;
/// Blocks of the private part of a key without a passphrase.
const PRIVATE_BLOCK: usize = 8;

/// The public half of a key. In text it is the line `ssh-ed25519 AAAA…` of an `id_ed25519.pub`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PublicKey([u8; 32]);

/// A key that signs.
pub struct SigningKey {
    seed: [u8; 32],
    pair: Ed25519KeyPair,
}

impl SigningKey {
    /// A new key out of 32 random bytes, which nobody else may ever see.
    pub fn from_seed(seed: [u8; 32]) -> SigningKey {
        let pair = Ed25519KeyPair::from_seed_unchecked(&seed).expect("every 32 bytes are a seed");
        SigningKey { seed, pair }
    }

    /// Reads what `ssh-keygen -t ed25519 -N ''` writes.
    ///
    /// # Errors
    /// `Setup` when it is another kind of key, has a passphrase, or is damaged. The key is never in the message.
    pub fn from_openssh(text: &str) -> Result<SigningKey, Problem> {
        let refuse = |why: &str| {
            Problem::setup(format!("the signing key cannot be read: {why}"))
                .hint("make one with `towpath key`, or with `ssh-keygen -t ed25519 -N ''`")
        };
        let damaged = || refuse("it is damaged");
        let bytes = unarmour(text, PRIVATE, MAX_PRIVATE_KEY_BYTES)
            .ok_or_else(|| refuse("it is no private key as OpenSSH writes it"))?;
        let mut rest = bytes.strip_prefix(PRIVATE_MAGIC).ok_or_else(damaged)?;
        for expected in [b"none".as_slice(), b"none", b""] {
            // The cipher, how its key is made of a passphrase, and what else that needs.
            if take_string(&mut rest).ok_or_else(damaged)? != expected {
                return Err(refuse("it has a passphrase"));
            }
        }
        if take_number(&mut rest) != Some(1) {
            return Err(refuse("it holds more than one key"));
        }
        let public = take_string(&mut rest).ok_or_else(damaged)?;
        let mut private = take_string(&mut rest).ok_or_else(damaged)?;
        let checks = (take_number(&mut private), take_number(&mut private));
        if take_string(&mut private).ok_or_else(damaged)? != KIND {
            return Err(refuse("it is no Ed25519 key"));
        }
        let own = take_string(&mut private).ok_or_else(damaged)?;
        let both = take_string(&mut private).ok_or_else(damaged)?;
        let _comment = take_string(&mut private).ok_or_else(damaged)?;
        let is_padded = private.iter().zip(1..).all(|(byte, number)| *byte == number);
        let seed: [u8; 32] = both.get(..32).and_then(|seed| seed.try_into().ok()).ok_or_else(damaged)?;
        let key = SigningKey::from_seed(seed);
        let PublicKey(expected) = key.public();
        let is_whole = rest.is_empty() && is_padded && checks.0 == checks.1 && private.len() < PRIVATE_BLOCK;
        if !is_whole || own != expected || both[32..] != expected || public != key.public().blob() {
            return Err(damaged());
        }
        Ok(key)
    }

    /// The key as `ssh-keygen` writes it without a passphrase. The comment is for people: a line of plain text.
    pub fn to_openssh(&self, comment: &str) -> String {
        let public = self.public();
        // OpenSSH compares two equal numbers to see whether it has decrypted well; random ones are of no use here.
        let check = &Sha256::digest(public.0)[..4];
        let mut private = [check, check].concat();
        put_string(&mut private, KIND);
        put_string(&mut private, &public.0);
        put_string(&mut private, &[self.seed, public.0].concat());
        put_string(&mut private, comment.as_bytes());
        let padding = private.len().next_multiple_of(PRIVATE_BLOCK) - private.len();
        private.extend((1u8..).take(padding));

        let mut bytes = PRIVATE_MAGIC.to_vec();
        for part in [b"none".as_slice(), b"none", b""] {
            put_string(&mut bytes, part);
        }
        bytes.extend(1u32.to_be_bytes());
        put_string(&mut bytes, &public.blob());
        put_string(&mut bytes, &private);
        armour(&bytes, PRIVATE)
    }

    /// The public half.
    pub fn public(&self) -> PublicKey {
        PublicKey(self.pair.public_key().as_ref().try_into().expect("a public key has 32 bytes"))
    }

    /// Signs bytes for a namespace. Gives the signature in its armour, with a line end.
    pub fn sign(&self, namespace: &str, bytes: &[u8]) -> String {
        let signed = signed_data(namespace, b"sha512", &Sha512::digest(bytes));
        let mut signature = Vec::new();
        put_string(&mut signature, KIND);
        put_string(&mut signature, self.pair.sign(&signed).as_ref());

        let mut whole = MAGIC.to_vec();
        whole.extend(1u32.to_be_bytes());
        for part in [self.public().blob().as_slice(), namespace.as_bytes(), b"", b"sha512", &signature] {
            put_string(&mut whole, part);
        }
        armour(&whole, SIGNATURE)
    }
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("SigningKey").field(&self.public()).finish()
    }
}

impl PublicKey {
    /// `SHA256:…`, as `ssh-keygen -l` shows it.
    pub fn fingerprint(&self) -> String {
        format!("SHA256:{}", STANDARD_NO_PAD.encode(Sha256::digest(self.blob())))
    }

    fn blob(&self) -> Vec<u8> {
        let mut blob = Vec::new();
        put_string(&mut blob, KIND);
        put_string(&mut blob, &self.0);
        blob
    }

    fn from_blob(mut blob: &[u8]) -> Option<PublicKey> {
        let kind = take_string(&mut blob)?;
        let key = take_string(&mut blob)?.try_into().ok()?;
        (kind == KIND && blob.is_empty()).then_some(PublicKey(key))
    }
}

impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ssh-ed25519 {}", STANDARD.encode(self.blob()))
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.fingerprint())
    }
}

impl FromStr for PublicKey {
    type Err = Problem;

    /// Reads the line of a public key, with or without a comment.
    fn from_str(text: &str) -> Result<PublicKey, Problem> {
        let mut words = text.split_ascii_whitespace();
        let is_one_line = text.trim().lines().count() == 1;
        let key = match (words.next(), words.next()) {
            (Some("ssh-ed25519"), Some(key)) if is_one_line => {
                STANDARD.decode(key).ok().and_then(|blob| PublicKey::from_blob(&blob))
            }
            _ => None,
        };
        key.ok_or_else(|| {
            Problem::setup("this is no public key of the kind ssh-ed25519")
                .hint("give the line that `towpath key` shows: ssh-ed25519 AAAA…")
        })
    }
}

/// Whether a signature in its armour is this key's, for exactly these bytes and this namespace.
///
/// # Errors
/// `Content`, with what is wrong.
pub fn verify(key: &PublicKey, namespace: &str, bytes: &[u8], armoured: &str) -> Result<(), Problem> {
    let signature = Signature::read(armoured)?;
    if signature.key != *key {
        let found = signature.key.fingerprint();
        return Err(Problem::content(format!("signed by another key: {found} and not {}", key.fingerprint())));
    }
    if signature.namespace != namespace.as_bytes() {
        return Err(Problem::content("the signature was made for another purpose"));
    }
    let digest = match signature.hash.as_slice() {
        b"sha512" => Sha512::digest(bytes).to_vec(),
        b"sha256" => Sha256::digest(bytes).to_vec(),
        _ => return Err(unreadable()),
    };
    UnparsedPublicKey::new(&ED25519, key.0)
        .verify(&signed_data(namespace, &signature.hash, &digest), &signature.bytes)
        .map_err(|_unspecified| Problem::content("the signature does not fit: the content is not what was signed"))
}

/// Whose a signature claims to be. That is not verified.
///
/// # Errors
/// `Content` when it is no signature by an Ed25519 key.
pub fn signer(armoured: &str) -> Result<PublicKey, Problem> {
    Signature::read(armoured).map(|signature| signature.key)
}

/// A signature without its armour.
struct Signature {
    key: PublicKey,
    namespace: Vec<u8>,
    hash: Vec<u8>,
    bytes: Vec<u8>,
}

impl Signature {
    fn read(armoured: &str) -> Result<Signature, Problem> {
        let bytes = unarmour(armoured, SIGNATURE, MAX_SIGNATURE_BYTES).ok_or_else(unreadable)?;
        Signature::parse(&bytes).ok_or_else(unreadable)
    }

    fn parse(bytes: &[u8]) -> Option<Signature> {
        let mut rest = bytes.strip_prefix(MAGIC)?;
        if take_number(&mut rest)? != 1 {
            return None;
        }
        let key = PublicKey::from_blob(take_string(&mut rest)?)?;
        let namespace = take_string(&mut rest)?.to_vec();
        let reserved = take_string(&mut rest)?;
        let hash = take_string(&mut rest)?.to_vec();
        let mut signature = take_string(&mut rest)?;
        let kind = take_string(&mut signature)?;
        let bytes = take_string(&mut signature)?.to_vec();
        let is_plain = reserved.is_empty() && kind == KIND && signature.is_empty() && rest.is_empty();
        is_plain.then_some(Signature { key, namespace, hash, bytes })
    }
}

fn unreadable() -> Problem {
    Problem::content("this is no SSH signature by an Ed25519 key")
}

/// What the key really signs: the digest, bound to the namespace.
fn signed_data(namespace: &str, hash: &[u8], digest: &[u8]) -> Vec<u8> {
    let mut data = MAGIC.to_vec();
    for part in [namespace.as_bytes(), b"", hash, digest] {
        put_string(&mut data, part);
    }
    data
}

fn armour(bytes: &[u8], (begin, end): (&str, &str)) -> String {
    let encoded = STANDARD.encode(bytes);
    let mut text = format!("{begin}\n");
    for line in encoded.as_bytes().chunks(ARMOUR_WIDTH) {
        text.extend(line.iter().copied().map(char::from));
        text.push('\n');
    }
    text + end + "\n"
}

fn unarmour(text: &str, (begin, end): (&str, &str), limit: usize) -> Option<Vec<u8>> {
    if text.len() > limit {
        return None;
    }
    let body = text.trim().strip_prefix(begin)?.strip_suffix(end)?;
    if !body.starts_with(['\n', '\r']) || !body.ends_with('\n') {
        return None;
    }
    let encoded: String = body.chars().filter(|c| !matches!(c, '\n' | '\r')).collect();
    STANDARD.decode(encoded).ok()
}

fn put_string(to: &mut Vec<u8>, bytes: &[u8]) {
    let length = u32::try_from(bytes.len()).expect("no part is longer than a name or a key");
    to.extend(length.to_be_bytes());
    to.extend(bytes);
}

fn take_number(from: &mut &[u8]) -> Option<u32> {
    let (number, rest) = from.split_at_checked(4)?;
    *from = rest;
    Some(u32::from_be_bytes(number.try_into().expect("these are four bytes")))
}

fn take_string<'a>(from: &mut &'a [u8]) -> Option<&'a [u8]> {
    let length = take_number(from)? as usize;
    let (bytes, rest) = from.split_at_checked(length)?;
    *from = rest;
    Some(bytes)
}

#[cfg(test)]
mod tests;

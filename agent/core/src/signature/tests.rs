//! Keys and signatures by `ssh-keygen` of OpenSSH 9.2, and the same with one thing wrong.

use super::*;
use crate::fault::Fault;

/// Written by `ssh-keygen -t ed25519 -N '' -C 'towpath test'`, for this test only. Its frame is put around it below.
const KEY: &str = "b3BlbnNzaC1rZXktdjEAAAAABG5vbmUAAAAEbm9uZQAAAAAAAAABAAAAMwAAAAtzc2gtZW
QyNTUxOQAAACD5HOmaOErDokKLRep4KOW9RpT5Ks5u3/n7hZpTpBosTQAAAJCffSwqn30s
KgAAAAtzc2gtZWQyNTUxOQAAACD5HOmaOErDokKLRep4KOW9RpT5Ks5u3/n7hZpTpBosTQ
AAAECZ8lX8ioTHvIlZbqa8sqvabwJJv3v8ePOVt7HM9429iPkc6Zo4SsOiQotF6ngo5b1G
lPkqzm7f+fuFmlOkGixNAAAADHRvd3BhdGggdGVzdAE=";
const PUBLIC: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIPkc6Zo4SsOiQotF6ngo5b1GlPkqzm7f+fuFmlOkGixN towpath test\n";
const FINGERPRINT: &str = "SHA256:Lr0cb6A89PI3Y7HFmR7z6XIBQwCYMqEuMJ/G2mLjfC0";
const MESSAGE: &[u8] = b"a record\n";
/// Written by `ssh-keygen -Y sign -n git`.
const SIGNED: &str = "-----BEGIN SSH SIGNATURE-----
U1NIU0lHAAAAAQAAADMAAAALc3NoLWVkMjU1MTkAAAAg+RzpmjhKw6JCi0XqeCjlvUaU+S
rObt/5+4WaU6QaLE0AAAADZ2l0AAAAAAAAAAZzaGE1MTIAAABTAAAAC3NzaC1lZDI1NTE5
AAAAQKJSAqIUK+qF0VqaMSV4ifYwuQxOKkGffsuO1nSsyrLxB6Rc1FZm0o3cJVpoV8JdHM
ZNBkvN2CgOjS5Dr8+PWgo=
-----END SSH SIGNATURE-----
";
/// The same with `-O hashalg=sha256`.
const SIGNED_SHA256: &str = "-----BEGIN SSH SIGNATURE-----
U1NIU0lHAAAAAQAAADMAAAALc3NoLWVkMjU1MTkAAAAg+RzpmjhKw6JCi0XqeCjlvUaU+S
rObt/5+4WaU6QaLE0AAAADZ2l0AAAAAAAAAAZzaGEyNTYAAABTAAAAC3NzaC1lZDI1NTE5
AAAAQDYOO02eW0T/FqbaE/qLpYUjEL36ChZD1I/cXlSB63fVbVAlduCK0iyEGh6xXm8pEf
CI0fzzgz6ISK73IOqjjwc=
-----END SSH SIGNATURE-----
";
/// A key with a passphrase.
const LOCKED: &str = "b3BlbnNzaC1rZXktdjEAAAAACmFlczI1Ni1jdHIAAAAGYmNyeXB0AAAAGAAAABC+WCAGt7
RUfvw2O4bolXdTAAAAEAAAAAEAAAAzAAAAC3NzaC1lZDI1NTE5AAAAIKjkSKuv0Jj7b87H
/stalSVmkxANKK/WSbkUZlJ9V6qRAAAAkF8Pzcbuz0D3L33KljNAAmKFWlojTfJUx2W7Pq
YowJY0o4bcviGMPcl8AOQYTN06PQu3XTMWGS01LZ5/XOwtpRAHz+FqxmbIBR5Hyu17dZce
eER5MlXGl4YZgvxxMZ/lzrC8WBjK5vTZnz2mjLN86vxp23kXZRJ47PuQHImcOOiUmBnJwu
HXqIW7v7mMuYLWmw==";

fn framed(body: &str) -> String {
    format!("{}\n{body}\n{}\n", PRIVATE.0, PRIVATE.1)
}

fn key() -> SigningKey {
    SigningKey::from_openssh(&framed(KEY)).unwrap()
}

fn public() -> PublicKey {
    PUBLIC.parse().unwrap()
}

#[test]
fn a_key_of_ssh_keygen_is_read_with_its_public_half() {
    assert_eq!(key().public(), public());
    assert_eq!(public().fingerprint(), FINGERPRINT);
    assert_eq!(public().to_string(), PUBLIC.trim_end().strip_suffix(" towpath test").unwrap());
}

#[test]
fn a_key_reads_back_as_it_was_written() {
    for comment in ["", "a", "towpath in test", "123456"] {
        let text = SigningKey::from_seed([7; 32]).to_openssh(comment);
        assert_eq!(SigningKey::from_openssh(&text).unwrap().public(), SigningKey::from_seed([7; 32]).public());
    }
}

#[test]
fn a_signature_is_to_the_byte_that_of_ssh_keygen() {
    assert_eq!(key().sign(GIT, MESSAGE), SIGNED);
}

#[test]
fn a_signature_of_ssh_keygen_is_verified() {
    for signed in [SIGNED, SIGNED_SHA256] {
        verify(&public(), GIT, MESSAGE, signed).unwrap();
        assert_eq!(signer(signed).unwrap(), public());
    }
}

#[test]
fn a_signature_is_for_one_key_one_namespace_and_these_bytes() {
    let other = SigningKey::from_seed([7; 32]);
    for (key, namespace, bytes, why) in [
        (other.public(), GIT, MESSAGE, "by another key"),
        (public(), "file", MESSAGE, "another purpose"),
        (public(), GIT, b"a record", "does not fit"),
        (public(), GIT, b"", "does not fit"),
    ] {
        let problem = verify(&key, namespace, bytes, SIGNED).unwrap_err();
        assert!(problem.fault == Fault::Content && problem.message.contains(why), "{problem}");
    }
    let forged = other.sign(GIT, MESSAGE);
    assert!(verify(&public(), GIT, MESSAGE, &forged).is_err());
}

#[test]
fn no_other_bit_makes_a_good_signature() {
    let bytes = unarmour(SIGNED, SIGNATURE, MAX_SIGNATURE_BYTES).unwrap();
    for at in 0..bytes.len() {
        for bit in 0..8 {
            let mut bad = bytes.clone();
            bad[at] ^= 1 << bit;
            assert!(verify(&public(), GIT, MESSAGE, &armour(&bad, SIGNATURE)).is_err(), "byte {at}, bit {bit}");
        }
        assert!(verify(&public(), GIT, MESSAGE, &armour(&bytes[..at], SIGNATURE)).is_err(), "{at}");
    }
    let longer = [bytes.as_slice(), b"\0"].concat();
    assert!(verify(&public(), GIT, MESSAGE, &armour(&longer, SIGNATURE)).is_err());
}

#[test]
fn what_is_no_armour_is_refused() {
    let whole = SIGNED.trim_end();
    for bad in [
        "",
        "x",
        SIGNATURE.0,
        &format!("{}\n{}", SIGNATURE.0, SIGNATURE.1),
        &whole[..whole.len() - 1],
        &format!("x{whole}"),
        &format!("{whole}\nx"),
        &format!("{whole}\n{whole}"),
        &whole.replace('\n', ""),
        &whole.replace("U1N", "U=N"),
        &whole.replace("U1N", "U1\u{e9}"),
        &format!("{whole}{}", "\n".repeat(MAX_SIGNATURE_BYTES)),
    ] {
        assert!(signer(bad).is_err(), "{bad}");
    }
    let at_the_limit = format!("{whole}{}", "\n".repeat(MAX_SIGNATURE_BYTES - whole.len()));
    assert!(signer(&at_the_limit).is_ok());
    assert!(signer(&whole.replace('\n', "\r\n")).is_ok());
}

#[test]
fn keys_of_other_kinds_say_what_they_are() {
    for (text, why) in [
        (framed(LOCKED), "it has a passphrase"),
        (framed("AAAA"), "it is damaged"),
        (framed(&KEY.replace("AAAAMwAAAAtzc2gtZW\n", "AAAAMwAAAAtzc2gtZX\n")), "it is damaged"),
        ("-----BEGIN PRIVATE KEY-----\nMC4=\n-----END PRIVATE KEY-----\n".to_owned(), "no private key as OpenSSH"),
        (String::new(), "no private key as OpenSSH"),
    ] {
        let problem = SigningKey::from_openssh(&text).unwrap_err();
        assert!(problem.fault == Fault::Setup && problem.message.contains(why), "{why}: {problem}");
    }
}

#[test]
fn no_damage_to_a_key_goes_unnoticed_or_panics() {
    let bytes = unarmour(&framed(KEY), PRIVATE, MAX_PRIVATE_KEY_BYTES).unwrap();
    let comment = bytes.windows(12).position(|window| window == b"towpath test").unwrap();
    for at in 0..bytes.len() {
        assert!(SigningKey::from_openssh(&armour(&bytes[..at], PRIVATE)).is_err(), "{at}");
        let mut bad = bytes.clone();
        bad[at] ^= 0x40;
        // The comment is for people, and nothing hangs on it.
        let is_comment = (comment..comment + 12).contains(&at);
        assert_eq!(SigningKey::from_openssh(&armour(&bad, PRIVATE)).is_ok(), is_comment, "{at}");
    }
}

#[test]
fn only_the_line_of_an_ed25519_key_is_a_public_key() {
    let line = PUBLIC.trim_end();
    for bad in [
        "",
        "ssh-ed25519",
        "ssh-ed25519 AAAA",
        &line.replace("ssh-ed25519", "ssh-rsa"),
        &line.replace("AAAAC3N", "AAAAC3M"),
        &format!("{line}\n{line}"),
        &format!("restrict {line}"),
    ] {
        assert_eq!(bad.parse::<PublicKey>().unwrap_err().fault, Fault::Setup, "{bad}");
    }
    assert_eq!(public().to_string().parse::<PublicKey>().unwrap(), public());
}

#[test]
fn a_key_is_not_shown_by_accident() {
    assert_eq!(format!("{:?}", key()), format!("SigningKey({FINGERPRINT})"));
}

//! JSON with the digest of its own text in front, so that a damaged file is told from a whole one: `{"sha256":"…","saved":…}`.

use crate::api::digest::sha256_hex;

const BEFORE_DIGEST: &str = "{\"sha256\":\"";
const BEFORE_TEXT: &str = "\",\"saved\":";
const END: &str = "}";

/// The text under its digest.
pub(crate) fn seal(text: &str) -> String {
    format!("{BEFORE_DIGEST}{}{BEFORE_TEXT}{text}{END}", sha256_hex(text.as_bytes()))
}

/// The text, when it is what was sealed.
pub(crate) fn open(bytes: &[u8]) -> Result<&str, String> {
    let parts = || {
        let text = std::str::from_utf8(bytes).ok()?;
        let (digest, text) = text.strip_prefix(BEFORE_DIGEST)?.split_once(BEFORE_TEXT)?;
        Some((digest, text.strip_suffix(END)?))
    };
    match parts() {
        Some((digest, text)) if sha256_hex(text.as_bytes()) == digest => Ok(text),
        _ => Err("it is damaged".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_sealed_is_json_and_opens_and_nothing_else_does() {
        let sealed = seal("{\"a\":[1,2]}");
        let value: serde_json::Value = serde_json::from_str(&sealed).unwrap();
        assert_eq!(value["saved"]["a"][1], 2);
        assert_eq!(open(sealed.as_bytes()).unwrap(), "{\"a\":[1,2]}");
        for cut in 0..sealed.len() {
            assert!(open(&sealed.as_bytes()[..cut]).is_err(), "cut at {cut}");
            let mut flipped = sealed.clone().into_bytes();
            flipped[cut] ^= 1;
            assert!(open(&flipped).is_err(), "a bit of byte {cut}");
        }
    }
}

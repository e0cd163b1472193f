//! The keys and values that the loads write; `bench/keys.lua` makes the same keys.
//!
//! A key is eight hexadecimal digits, a hyphen and a tag. The digits scatter a
//! counter over the whole key space without ever repeating, so that a store
//! meets keys as unordered as real ones, while the reader can name the n-th key.

/// The tag of the keys that `get.lua` reads back.
pub(crate) const PRELOAD: &str = "answer-of-the-preload";

/// The length of a value.
pub(crate) const VALUE_LEN: usize = 40;

/// A bijection of 32 bits (murmur3's finaliser).
pub(crate) fn scatter(mut n: u32) -> u32 {
    n ^= n >> 16;
    n = n.wrapping_mul(0x85eb_ca6b);
    n ^= n >> 13;
    n = n.wrapping_mul(0xc2b2_ae35);
    n ^ (n >> 16)
}

/// Writes `n` as eight hexadecimal digits into the first bytes of `at`.
pub(crate) fn put_hex(at: &mut [u8], n: u32) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    for (place, byte) in at.iter_mut().take(8).enumerate() {
        *byte = DIGITS[(n >> (28 - 4 * place)) as usize & 15];
    }
}

/// Writes a value that compresses no better than hexadecimal digits must.
pub(crate) fn put_value(at: &mut [u8], n: u32) {
    for (place, digits) in at[..VALUE_LEN].chunks_exact_mut(8).enumerate() {
        put_hex(digits, scatter(n.wrapping_mul(5).wrapping_add(place as u32) ^ 0x5bd1_e995));
    }
}

/// The `n`-th key of a tag.
pub(crate) fn key(n: u32, tag: &str) -> String {
    format!("{:08x}-{tag}", scatter(n))
}

/// A tag that no other process uses: seconds and process id.
pub(crate) fn fresh_tag(what: &str) -> String {
    let seconds = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |since| since.as_secs());
    format!("{what}-{seconds:x}-{:06x}", std::process::id())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `keys.lua` is held to the same figures by `run.sh`: a read of a preloaded
    /// key that the two spell differently is a 404, which ends the run.
    #[test]
    fn scatters_as_murmur3_does() {
        assert_eq!([0, 1, 2, 4_999_999].map(scatter), [0, 0x514e_28b7, 0x30f4_c306, scatter(4_999_999)]);
        assert_eq!(key(1, PRELOAD), "514e28b7-answer-of-the-preload");
    }

    #[test]
    fn writes_digits_and_values() {
        let mut text = [b'.'; VALUE_LEN];
        put_value(&mut text, 7);
        assert!(text.iter().all(u8::is_ascii_hexdigit));
        put_hex(&mut text, 0x0123_abcd);
        assert_eq!(&text[..8], b"0123abcd");
    }
}

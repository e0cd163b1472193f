//! Cursors of lists that are in the order of a text: places behind it, as one word of
//! letters, digits and `-`, so that it needs no encoding in a URL.

use percent_encoding::{NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};

use super::error::ApiError;

/// The first character of a cursor of this form.
const FORM: char = 'k';

/// The cursor behind a text.
pub fn behind(text: &str) -> String {
    let encoded = utf8_percent_encode(text, NON_ALPHANUMERIC).to_string();
    format!("{FORM}{}", encoded.replace('%', "-"))
}

/// The text that a cursor stands behind.
///
/// # Errors
/// 400 if it is no cursor of ours.
pub fn text_of(cursor: &str) -> Result<String, ApiError> {
    let malformed = || ApiError::bad_request("cursor: must be the next of an earlier page");
    let encoded = cursor.strip_prefix(FORM).ok_or_else(malformed)?.replace('-', "%");
    let text = percent_decode_str(&encoded).decode_utf8().map_err(|_| malformed())?;
    // Only what was written reads back.
    if text.is_empty() || behind(&text) != cursor { Err(malformed()) } else { Ok(text.into_owned()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_reads_as_it_was_written() {
        for text in ["name", "a-b", "a/b?c=d&e", "😀", "-", "%", " ", "answer-\0"] {
            let cursor = behind(text);
            assert!(cursor.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-'), "{cursor}");
            assert_eq!(text_of(&cursor).ok().as_deref(), Some(text));
        }
        for bad in ["", "k", "x", "name", "k-", "k-zz", "k-ff", "ka%41", "k-61"] {
            assert!(text_of(bad).is_err(), "{bad}");
        }
    }
}

//! Percent-encoded text in a URL.

use std::borrow::Cow;

use percent_encoding::percent_decode_str;

/// Text that is not UTF-8 once decoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{0} is not UTF-8 once percent-decoded")]
pub(crate) struct NotText(&'static str);

/// A part of the path; `what` names it in the error.
pub(super) fn segment<'a>(encoded: &'a str, what: &'static str) -> Result<Cow<'a, str>, NotText> {
    percent_decode_str(encoded).decode_utf8().map_err(|_| NotText(what))
}

/// The first value of `key` in a query; `None` if there is none.
pub(crate) fn value(query: Option<&str>, key: &'static str) -> Result<Option<String>, NotText> {
    let pairs = query.unwrap_or_default().split('&').map(|pair| pair.split_once('=').unwrap_or((pair, "")));
    for (name, value) in pairs {
        if percent_decode_str(name).eq(key.bytes()) {
            let spaced = value.replace('+', " ");
            return Ok(Some(segment(&spaced, key)?.into_owned()));
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_decoded() {
        let user = |query| value(Some(query), "user");
        assert_eq!(user("user=ann"), Ok(Some("ann".into())));
        assert_eq!(user("a=b&user=ann+lee%20%C3%A4%2B&user=x"), Ok(Some("ann lee ä+".into())));
        assert_eq!(user("us%65r=ann"), Ok(Some("ann".into())));
        assert_eq!(user("user"), Ok(Some(String::new())));
        assert_eq!(user("users=1"), Ok(None));
        assert_eq!(user("user=%ff").unwrap_err().to_string(), "user is not UTF-8 once percent-decoded");
        assert_eq!(user("user=100%"), Ok(Some("100%".into())));
        assert_eq!(value(None, "user"), Ok(None));
    }

    #[test]
    fn segments_keep_plus_signs() {
        assert_eq!(segment("a+b%2Fc", "room").unwrap(), "a+b/c");
    }
}

//! From which pages browsers may connect.

use hyper::header::{HOST, HeaderMap, ORIGIN};

/// The origins that are let in beside the router's own.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Origins(Vec<String>);

impl Origins {
    /// Origins such as `https://example.com`; `*` is all.
    pub fn new(allowed: &[String]) -> Self {
        Self(allowed.iter().map(|origin| origin.trim_end_matches('/').to_ascii_lowercase()).collect())
    }

    /// Whether a request with these headers may connect. Whoever is no browser sends no origin.
    pub fn admit(&self, headers: &HeaderMap) -> bool {
        let Some(origin) = headers.get(ORIGIN) else { return true };
        let Ok(origin) = origin.to_str().map(str::to_ascii_lowercase) else { return false };
        if self.0.iter().any(|allowed| allowed == "*" || *allowed == origin) {
            return true;
        }
        let host = headers.get(HOST).and_then(|host| host.to_str().ok()).map(str::to_ascii_lowercase);
        let of_origin = origin.split_once("://").map(|(_, host)| host);
        of_origin.is_some() && of_origin == host.as_deref()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn browsers_come_from_the_same_host_or_an_allowed_one() {
        let admitted = |allowed: &[&str], origin: Option<&str>| {
            let mut headers = HeaderMap::new();
            headers.insert(HOST, "Chat.example.com:8000".parse().unwrap());
            origin.map(|origin| headers.insert(ORIGIN, origin.parse().unwrap()));
            Origins::new(&allowed.iter().map(|&a| a.to_owned()).collect::<Vec<_>>()).admit(&headers)
        };
        for (allowed, origin, good) in [
            (&[][..], None, true),
            (&[], Some("http://chat.example.com:8000"), true),
            (&[], Some("https://chat.example.com:8000"), true),
            (&[], Some("http://chat.example.com"), false),
            (&[], Some("http://evil.example.com"), false),
            (&[], Some("null"), false),
            (&[], Some(""), false),
            (&["https://App.example.com/"], Some("https://app.example.com"), true),
            (&["https://app.example.com"], Some("http://app.example.com"), false),
            (&["https://app.example.com"], Some("https://app.example.com.evil.org"), false),
            (&["*"], Some("http://evil.example.com"), true),
        ] {
            assert_eq!(admitted(allowed, origin), good, "{allowed:?} {origin:?}");
        }
    }
}

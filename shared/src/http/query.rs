//! Query parameters: each at most once, or for clients that have always been forgiven,
//! the last that was given.

use std::ops::RangeInclusive;

use percent_encoding::percent_decode_str;

use super::error::ApiError;

/// The parameters of a request. Names that nobody asks for are ignored.
pub struct Query(Vec<(String, String)>);

impl Query {
    /// Reads the part of a URL behind `?`.
    ///
    /// # Errors
    /// 400 if it is not UTF-8.
    pub fn parse(query: Option<&str>) -> Result<Self, ApiError> {
        let query = query.unwrap_or_default();
        if percent_decode_str(query).decode_utf8().is_err() {
            return Err(ApiError::bad_request("the query is not UTF-8"));
        }
        Ok(Self(form_urlencoded::parse(query.as_bytes()).into_owned().collect()))
    }

    /// Refuses what a path does not know, and what is given twice.
    ///
    /// # Errors
    /// 400 with the name.
    pub fn only(&self, known: &[&str]) -> Result<(), ApiError> {
        for (name, _) in &self.0 {
            if !known.contains(&name.as_str()) {
                let name: String = name.chars().take(64).collect();
                return Err(ApiError::bad_request(format!("{name}: is no parameter here")));
            }
            self.get(name)?;
        }
        Ok(())
    }

    /// The value of a parameter.
    ///
    /// # Errors
    /// 400 if it is given twice.
    pub fn get(&self, name: &str) -> Result<Option<&str>, ApiError> {
        let mut values = self.0.iter().filter(|(given, _)| given == name).map(|(_, value)| value.as_str());
        let first = values.next();
        match values.next() {
            Some(_) => Err(ApiError::bad_request(format!("{name}: must not be given twice"))),
            None => Ok(first),
        }
    }

    /// The value of a parameter; where it is given repeatedly, the last.
    pub fn last(&self, name: &str) -> Option<&str> {
        self.0.iter().rev().find(|(given, _)| given == name).map(|(_, value)| value.as_str())
    }

    /// A parameter that is a whole number within a range.
    ///
    /// # Errors
    /// 400 if it is not, or is given twice.
    pub fn number(&self, name: &str, range: RangeInclusive<u64>) -> Result<Option<u64>, ApiError> {
        self.get(name)?.map(|text| number(name, text, range)).transpose()
    }

    /// The same of the last that is given.
    ///
    /// # Errors
    /// 400 if it is not.
    pub fn last_number(&self, name: &str, range: RangeInclusive<u64>) -> Result<Option<u64>, ApiError> {
        self.last(name).map(|text| number(name, text, range)).transpose()
    }

    /// The number of a page, from 1 on, as the last that is given says; one that is too large
    /// for any list is the largest.
    ///
    /// # Errors
    /// 400 if it is none.
    pub fn last_page(&self, name: &str) -> Result<Option<u64>, ApiError> {
        let is_beyond = |text: &str| is_whole(text) && text.parse::<u64>().is_err();
        match self.last(name) {
            Some(text) if is_beyond(text) => Ok(Some(u64::MAX)),
            _ => self.last_number(name, 1..=u64::MAX),
        }
    }

    /// A parameter that is one of some words.
    ///
    /// # Errors
    /// 400 if it is another one, or is given twice.
    pub fn word<T: Copy>(&self, name: &str, words: &[(&str, T)]) -> Result<Option<T>, ApiError> {
        let Some(text) = self.get(name)? else { return Ok(None) };
        let known = || words.iter().map(|(word, _)| *word).collect::<Vec<_>>().join(" or ");
        let found = words.iter().find(|(word, _)| *word == text).map(|(_, meaning)| Some(*meaning));
        found.ok_or_else(|| ApiError::bad_request(format!("{name}: must be {}", known())))
    }
}

fn number(name: &str, text: &str, range: RangeInclusive<u64>) -> Result<u64, ApiError> {
    let bad = || {
        let (start, end) = (range.start(), range.end());
        let upto = if *end == u64::MAX { String::new() } else { format!(" to {end}") };
        ApiError::bad_request(format!("{name}: must be a whole number from {start}{upto}"))
    };
    let digits = is_whole(text).then(|| text.parse().ok());
    digits.flatten().filter(|number| range.contains(number)).ok_or_else(bad)
}

fn is_whole(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_are_read_once() {
        let query = Query::parse(Some("a=1&b=%C3%A4+b&c&a=2")).expect("valid");
        assert_eq!(query.get("b").expect("once"), Some("ä b"));
        assert_eq!(query.get("c").expect("once"), Some(""));
        assert_eq!(query.get("d").expect("never"), None);
        assert!(query.get("a").is_err());
        assert_eq!(query.last("a"), Some("2"));
        assert_eq!(query.last("d"), None);
        assert!(Query::parse(Some("a=%FF")).is_err());
    }

    #[test]
    fn what_nobody_knows_is_refused() {
        let only =
            |text: &str| Query::parse(Some(text)).and_then(|q| q.only(&["a", "b"])).map_err(|e| e.message().to_owned());
        assert_eq!(only("b=1&a=2"), Ok(()));
        assert_eq!(only("a=1&c=2"), Err("c: is no parameter here".into()));
        assert_eq!(only("a=1&a=1"), Err("a: must not be given twice".into()));
    }

    #[test]
    fn numbers_have_ranges() {
        let number = |text: &str| {
            Query::parse(Some(text)).and_then(|q| q.number("n", 1..=10)).map_err(|e| e.message().to_owned())
        };
        assert_eq!(number("n=10"), Ok(Some(10)));
        assert_eq!(number(""), Ok(None));
        for bad in ["n=0", "n=11", "n=", "n=%2B1", "n=1.0", "n=x", "n=99999999999999999999"] {
            assert_eq!(number(bad), Err("n: must be a whole number from 1 to 10".into()), "{bad}");
        }
        let page = |text: &str| Query::parse(Some(text)).and_then(|query| query.last_page("n")).ok();
        assert_eq!(page("n=3&n=99999999999999999999"), Some(Some(u64::MAX)));
        assert_eq!((page("n=3&n=4"), page(""), page("n=0"), page("n=-1")), (Some(Some(4)), Some(None), None, None));
    }
}

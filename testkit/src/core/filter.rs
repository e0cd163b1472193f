//! Which events of the whole log a reader asks for.

use regex::Regex;

use super::Fault;
use super::record::Record;

/// What a filter looks at.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Subject {
    Stream,
    EventType,
}

#[derive(Clone, Debug)]
enum Pattern {
    Regex(Regex),
    Prefixes(Vec<String>),
}

#[derive(Clone, Debug)]
pub(crate) struct Filter {
    subject: Subject,
    pattern: Pattern,
}

impl Filter {
    /// The expression counts unless it is empty, then any of the prefixes; none
    /// matches nothing.
    pub(crate) fn new(subject: Subject, regex: &str, prefixes: Vec<String>) -> Result<Self, Fault> {
        let pattern = if regex.is_empty() {
            Pattern::Prefixes(prefixes)
        } else {
            Pattern::Regex(Regex::new(regex).map_err(|error| Fault::Invalid(error.to_string()))?)
        };
        Ok(Self { subject, pattern })
    }

    pub(crate) fn matches(&self, record: &Record) -> bool {
        let subject: &str = match self.subject {
            Subject::Stream => &record.stream,
            Subject::EventType => &record.event.kind,
        };
        match &self.pattern {
            Pattern::Regex(regex) => regex.is_match(subject),
            Pattern::Prefixes(prefixes) => prefixes.iter().any(|prefix| subject.starts_with(prefix.as_str())),
        }
    }
}

//! Filters as text that is parsed to the same filter.

use std::fmt::{Display, Formatter, Result};

use super::parser::is_bare;
use super::{Comparison, Field, Filter, Literal, Op, Test};

impl Display for Filter {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        match self {
            Self::Any => Ok(()),
            Self::Test(test) => test.fmt(f),
            Self::And(filters) => joined(f, filters, " AND ", |inner| matches!(inner, Self::And(_) | Self::Or(_))),
            // Nothing is always false in so many words, but this is.
            Self::Or(filters) if filters.is_empty() => f.write_str("id ct null"),
            Self::Or(filters) => joined(f, filters, " OR ", |inner| matches!(inner, Self::Or(_))),
            Self::Not(filter) => match &**filter {
                Self::And(_) => write!(f, "NOT ({filter})"),
                Self::Or(filters) if !filters.is_empty() => write!(f, "NOT ({filter})"),
                _ => write!(f, "NOT {filter}"),
            },
        }
    }
}

fn joined(f: &mut Formatter<'_>, filters: &[Filter], word: &str, bracketed: impl Fn(&Filter) -> bool) -> Result {
    for (at, filter) in filters.iter().enumerate() {
        if at > 0 {
            f.write_str(word)?;
        }
        if bracketed(filter) { write!(f, "({filter})")? } else { filter.fmt(f)? }
    }
    Ok(())
}

impl Display for Test {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        let Self { field, op } = self;
        match op {
            Op::Compare(comparison, value) => write!(f, "{field} {comparison} {value}"),
            Op::Contains(part) => write!(f, "{field} ct {}", Quoted(part)),
            Op::StartsWith(start) => write!(f, "{field} sw {}", Quoted(start)),
            Op::In(values) => {
                write!(f, "{field} in (")?;
                for (at, value) in values.iter().enumerate() {
                    write!(f, "{}{value}", if at > 0 { ", " } else { "" })?;
                }
                f.write_str(")")
            }
        }
    }
}

impl Display for Field {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        f.write_str(self.name())?;
        let Self::Data(names) = self else { return Ok(()) };
        names.iter().try_for_each(|name| {
            let bare = !name.is_empty() && name.chars().all(is_bare);
            if bare { write!(f, ".{name}") } else { write!(f, ".{}", Quoted(name)) }
        })
    }
}

impl Display for Comparison {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        f.write_str(match self {
            Self::Eq => "eq",
            Self::Ne => "ne",
            Self::Gt => "gt",
            Self::Gte => "gte",
            Self::Lt => "lt",
            Self::Lte => "lte",
        })
    }
}

impl Display for Literal {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        match self {
            Self::Null => f.write_str("null"),
            Self::Bool(value) => value.fmt(f),
            Self::Number(number) => number.fmt(f),
            Self::String(text) => Quoted(text).fmt(f),
            Self::Time(moment) => write!(f, "'{moment}'"),
        }
    }
}

struct Quoted<'a>(&'a str);

impl Display for Quoted<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        write!(f, "'{}'", self.0.replace('\'', "''"))
    }
}

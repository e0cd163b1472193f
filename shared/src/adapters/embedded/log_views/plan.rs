//! How a filter is looked for: in which segments, by which index, for which values.
//!
//! A fresh file has no figures that SQLite's planner could go by, so the choice is
//! made here: a member that is asked for by equality leads to its index, in which
//! events with the same value are in the order of time; else the order's own index
//! is walked and the filter looks at each event.

use rusqlite::types::Value;

use super::condition::{Sql, equal_to};
use super::segments::{Segment, Span};
use super::tables::EQUALITIES;
use super::text;
use crate::domain::filter::{Comparison, Field, Filter, Literal, Op, Test};

/// With more values than this, an index is not asked for each.
const MOST_VALUES: usize = 16;

/// What a filter comes to.
pub(super) struct Plan {
    /// The column that has to equal one of the values; none: every event is looked at.
    pub(super) equality: Option<(&'static str, Vec<Value>)>,
    /// What else has to hold.
    pub(super) rest: Filter,
    /// The trigrams that a text of an event must have.
    pub(super) trigrams: Option<String>,
    /// When events that can match happened.
    pub(super) times: Span,
    /// Nothing has to hold but the time.
    pub(super) is_time_only: bool,
}

impl Plan {
    pub(super) fn new(filter: &Filter) -> Self {
        let mut all = Vec::new();
        conjuncts(filter, &mut all);
        let best = all.iter().enumerate().filter_map(|(at, filter)| {
            let Filter::Test(test) = filter else { return None };
            let (column, values) = equal_to(test).filter(|(_, values)| values.len() <= MOST_VALUES)?;
            Some((rank(column)?, at, column, values))
        });
        let best = best.min_by_key(|(rank, at, ..)| (*rank, *at));
        let times = all.iter().filter_map(|filter| time_bound(filter)).fold(Span::ALL, Span::and);
        let is_time_only = all.iter().all(|filter| time_bound(filter).is_some());
        let left = |(at, filter): (usize, &&Filter)| {
            let is_taken = best.as_ref().is_some_and(|best| best.1 == at);
            (!is_taken).then(|| (*filter).clone())
        };
        let rest = Filter::And(all.iter().enumerate().filter_map(left).collect());
        let equality = best.map(|(_, _, column, values)| (column, values));
        let trigrams = all.iter().filter_map(|filter| text::expression(filter)).max_by_key(String::len);
        Self { equality, rest, trigrams, times, is_time_only }
    }

    /// What to ask of each index: a value to equal, or none for all of it.
    pub(super) fn values(&self) -> Vec<Option<&Value>> {
        match &self.equality {
            Some((_, values)) => values.iter().map(Some).collect(),
            None => vec![None],
        }
    }

    /// Whether a segment can hold anything that matches.
    pub(super) fn concerns(&self, segment: &Segment) -> bool {
        !segment.times.and(self.times).is_empty()
    }
}

/// The filters that all have to hold.
fn conjuncts<'a>(filter: &'a Filter, found: &mut Vec<&'a Filter>) {
    match filter {
        Filter::Any => {}
        Filter::And(all) => all.iter().for_each(|filter| conjuncts(filter, found)),
        other => found.push(other),
    }
}

/// Which equality is worth most: that which is likely to leave least.
fn rank(column: &str) -> Option<usize> {
    if column == "id" { Some(0) } else { EQUALITIES.iter().position(|known| *known == column).map(|at| at + 1) }
}

/// When events that pass a filter can have happened, if it is about that alone.
fn time_bound(filter: &Filter) -> Option<Span> {
    let Filter::Test(Test { field: Field::Timestamp, op: Op::Compare(comparison, Literal::Time(time)) }) = filter
    else {
        return None;
    };
    let at = time.micros();
    let (first, last) = match comparison {
        Comparison::Eq => (at, at),
        Comparison::Gt => (at + 1, i64::MAX),
        Comparison::Gte => (at, i64::MAX),
        Comparison::Lt => (i64::MIN, at - 1),
        Comparison::Lte => (i64::MIN, at),
        Comparison::Ne => return None,
    };
    Some(Span { first, last })
}

/// The index for a column that has to equal something.
pub(super) fn index(column: &str, ordinal: usize) -> String {
    if column == "id" { format!("INDEXED BY by_id_{ordinal}") } else { format!("INDEXED BY equal_{column}_{ordinal}") }
}

impl Sql {
    /// That the column of a plan has a value.
    pub(super) fn equality(&mut self, plan: &Plan, value: Option<&Value>) {
        if let (Some((column, _)), Some(value)) = (&plan.equality, value) {
            let value = self.bind(value.clone());
            self.push(&format!("{column} = {value} AND "));
        }
    }
}

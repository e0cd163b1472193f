//! Latencies, kept one by one: the loads that use this make at most a few
//! hundred thousand of them.

use std::time::Duration;

#[derive(Default)]
pub(crate) struct Latencies(Vec<u64>);

impl Latencies {
    pub(crate) fn record(&mut self, latency: Duration) {
        self.0.push(latency.as_nanos() as u64);
    }

    pub(crate) fn merge(&mut self, other: Self) {
        self.0.extend(other.0);
    }

    /// `count= p50_us= p99_us= p999_us= max_us=`
    pub(crate) fn report(mut self) -> String {
        self.0.sort_unstable();
        let at = |share: f64| {
            let place = (self.0.len() as f64 * share).ceil() as usize;
            let nanos = self.0.get(place.max(1) - 1).copied().unwrap_or_default();
            nanos as f64 / 1000.0
        };
        format!(
            "count={} p50_us={:.1} p99_us={:.1} p999_us={:.1} max_us={:.1}",
            self.0.len(),
            at(0.5),
            at(0.99),
            at(0.999),
            at(1.0)
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn takes_the_nearest_rank() {
        let mut latencies = Latencies::default();
        (1..=100).for_each(|n| latencies.record(Duration::from_micros(n)));
        assert_eq!(latencies.report(), "count=100 p50_us=50.0 p99_us=99.0 p999_us=100.0 max_us=100.0");
        assert!(Latencies::default().report().starts_with("count=0 "));
    }
}

//! The embedded store against the memory one: whatever is done to both, they
//! answer alike, across closings, reopenings and kills.
//!
//! `QASERVICE_MODEL_CASES` sets how many random histories are tried,
//! `QASERVICE_MODEL_KILLS` how many of those with kills.

mod child;
pub(crate) mod pair;
mod steps;

use proptest::prelude::*;
use proptest::test_runner::Config;

use super::support::{env_number, runtime};
use child::Child;
use pair::Pair;
use steps::{Step, Write, deed, steps};

fn cases(variable: &str, or: u32) -> Config {
    Config { cases: env_number(variable, or), max_shrink_iters: 200, failure_persistence: None, ..Config::default() }
}

proptest! {
    #![proptest_config(cases("QASERVICE_MODEL_CASES", 40))]

    #[test]
    fn the_embedded_store_answers_as_the_memory_one(steps in steps(60)) {
        runtime().block_on(async {
            let mut pair = Pair::new();
            for step in steps {
                pair.take(step).await;
            }
            pair.take(Step::Reopen).await;
            pair.take(Step::Project(usize::MAX)).await;
            pair.agree().await;
        });
    }
}

/// A life of the embedded store in a process of its own: so many writes are
/// acknowledged, then one more is sent, and some time later it is killed.
#[derive(Clone, Debug)]
struct Life {
    acknowledged: Vec<Write>,
    in_flight: Write,
    microseconds: u64,
}

fn life() -> impl Strategy<Value = Life> {
    // A group takes about a millisecond: kills before, in the middle and after.
    (prop::collection::vec(deed(), 0..12), deed(), prop_oneof![0..1_000_u64, 0..8_000_u64, 0..30_000_u64])
        .prop_map(|(acknowledged, in_flight, microseconds)| Life { acknowledged, in_flight, microseconds })
}

proptest! {
    #![proptest_config(cases("QASERVICE_MODEL_KILLS", 12))]

    #[test]
    fn a_kill_loses_nothing_that_was_acknowledged(lives in prop::collection::vec(life(), 1..5)) {
        runtime().block_on(async {
            let mut pair = Pair::new();
            for life in lives {
                live(&mut pair, life).await;
            }
            pair.take(Step::Project(usize::MAX)).await;
            pair.agree().await;
        });
    }
}

async fn live(pair: &mut Pair, life: Life) {
    pair.close();
    let mut child = Child::start(pair.folder());
    for write in life.acknowledged {
        let (order, expected) = pair.order(write).await;
        let answer = child.ask(&order);
        assert_eq!(answer, expected, "the answer to {order:?}");
    }
    let (before, order) = (pair.model_state().await, pair.plan(life.in_flight).await);
    child.tell(&order);
    std::thread::sleep(std::time::Duration::from_micros(life.microseconds));
    let last_words = child.kill();
    pair.open();
    // What was acknowledged in the last moment counts as any other.
    let stored = pair.embedded_state().await;
    if last_words.is_some() || stored != before {
        let expected = pair.carry_out(&order).await;
        if let Some(answer) = last_words {
            assert_eq!(answer, expected, "the last answer, to {order:?}");
        }
    }
    // Views may be behind what was applied, and go on from there.
    pair.take(Step::Project(usize::MAX)).await;
    pair.agree().await;
}

/// Not a test: the process that is killed.
#[test]
#[ignore = "run by the tests above in a process of its own"]
fn child_process() {
    child::run();
}

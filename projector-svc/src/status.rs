//! How the projector is doing: what stands in its way, and whether the views move.

use std::time::Duration;

use parking_lot::Mutex;
use shared::domain::stream::Position;
use shared::ports::Checkpoint;
use tokio::time::Instant;

/// An event that has waited longer without the checkpoint moving is a stall.
const STALL: Duration = Duration::from_secs(30);

/// How the projector is doing, for those who watch it.
pub(crate) struct Status(Mutex<State>);

struct State {
    /// What it cannot get past, if anything.
    trouble: Option<Trouble>,
    /// When the checkpoint last moved, or had nothing to move for.
    moved: Instant,
    /// As far as known.
    head: Option<Position>,
    views: Option<Checkpoint>,
    /// What the last look at log and views failed with.
    silent: Option<String>,
    looked: Option<Instant>,
}

/// What stands in the projector's way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Trouble {
    /// This event; it will not go away.
    Event(String),
    /// The views are another log's; an operator has to put it right.
    Foreign(String),
    /// A store; it is tried again.
    Store(String),
}

impl State {
    fn is_behind(&self) -> bool {
        matches!((self.head, self.views), (Some(head), Some(views)) if !views.has_reached(head))
    }
}

impl Status {
    pub(crate) fn new() -> Self {
        let moved = Instant::now();
        Self(Mutex::new(State { trouble: None, moved, head: None, views: None, silent: None, looked: None }))
    }

    /// It is this projector's turn, and the views are its log's.
    pub(crate) fn resumed(&self) {
        let mut state = self.0.lock();
        // An event is past only when it has been projected.
        state.trouble.take_if(|trouble| !matches!(trouble, Trouble::Event(_)));
    }

    /// The checkpoint moved, and nothing stands in the way.
    pub(crate) fn applied(&self, now: Instant) {
        let mut state = self.0.lock();
        state.trouble = None;
        state.moved = now;
    }

    /// Notes what stands in the way; tells whether that is news.
    pub(crate) fn held_up(&self, by: Trouble) -> bool {
        let mut state = self.0.lock();
        let news = state.trouble.as_ref() != Some(&by);
        state.trouble = Some(by);
        news
    }

    /// Somebody looked where the log ends and how far the views are. Where one does
    /// not answer, what was known of it stays.
    pub(crate) fn looked(&self, head: Result<Position, String>, views: Result<Checkpoint, String>, now: Instant) {
        let mut state = self.0.lock();
        let (was_behind, before) = (state.is_behind(), state.views);
        state.silent = head.as_ref().err().or(views.as_ref().err()).cloned();
        state.head = head.ok().or(state.head);
        state.views = views.ok().or(state.views);
        if !was_behind || state.views != before {
            state.moved = now;
        }
        state.looked = Some(now);
    }

    /// How long ago somebody looked.
    pub(crate) fn age(&self) -> Option<Duration> {
        self.0.lock().looked.map(|looked| looked.elapsed())
    }

    /// Where the log ends and how far the views are, as far as known.
    pub(crate) fn known(&self) -> Option<(Position, Checkpoint)> {
        let state = self.0.lock();
        state.head.zip(state.views)
    }

    /// Whether it works: log and views answer, nothing stands in the way for good, and
    /// no event has waited half a minute without the checkpoint moving.
    pub(crate) fn check(&self, now: Instant) -> Result<(), String> {
        let state = self.0.lock();
        match &state.trouble {
            Some(Trouble::Event(what)) => return Err(format!("the projector stopped: {what}")),
            Some(Trouble::Foreign(what)) => return Err(format!("the projector does not write: {what}")),
            Some(Trouble::Store(_)) | None => {}
        }
        if let Some(silent) = &state.silent {
            return Err(silent.clone());
        }
        if state.is_behind() && now.saturating_duration_since(state.moved) > STALL {
            return Err(match &state.trouble {
                Some(Trouble::Store(what)) => format!("the projector is held up: {what}"),
                _ => "events wait and the projection does not move".into(),
            });
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A status, seconds after its start.
    struct Timed(Status, Instant);

    impl Timed {
        fn new() -> Self {
            Self(Status::new(), Instant::now())
        }

        fn at(&self, seconds: u64) -> Instant {
            self.1 + Duration::from_secs(seconds)
        }

        fn look(&self, seconds: u64, head: u64, views: Result<u64, &str>) {
            let views = views.map(|views| Checkpoint::at(Position(views))).map_err(str::to_owned);
            self.0.looked(Ok(Position(head)), views, self.at(seconds));
        }

        fn is_well(&self, seconds: u64) -> bool {
            self.0.check(self.at(seconds)).is_ok()
        }
    }

    #[test]
    fn an_event_that_waits_half_a_minute_is_a_stall() {
        let status = Timed::new();
        status.look(0, 5, Ok(5));
        assert!(status.is_well(3600), "idle is well");
        status.look(3600, 6, Ok(5));
        status.look(3629, 9, Ok(5));
        assert!(status.is_well(3629));
        assert!(!status.is_well(3631), "the first event counts, not the last");
        status.look(3632, 1000, Ok(6));
        assert!(status.is_well(3632), "whoever moves is well, however far behind");
        assert!(!status.is_well(3663));
        status.look(3664, 1000, Ok(1000));
        assert!(status.is_well(7200));
    }

    #[test]
    fn what_others_wrote_to_the_log_is_not_waited_for() {
        let status = Timed::new();
        // The checkpoint is right behind the last event of ours, far from the log's end.
        status.0.looked(Ok(Position(5)), Ok(Checkpoint { commit: 6, prepare: 0 }), status.at(0));
        assert!(status.is_well(3600));
    }

    #[test]
    fn a_store_that_does_not_answer_is_told_and_forgotten() {
        let status = Timed::new();
        status.look(0, 5, Ok(5));
        status.look(2, 6, Err("no views"));
        assert_eq!(status.0.check(status.at(2)), Err("no views".into()));
        status.look(3600, 6, Ok(5));
        assert!(!status.is_well(3600), "the event has waited for an hour");
        status.look(3602, 6, Ok(6));
        assert!(status.is_well(3602));
    }

    #[test]
    fn trouble_ends_with_what_it_was_about() {
        let status = Timed::new();
        let foreign = Trouble::Foreign("another log's".into());
        assert!(status.0.held_up(foreign.clone()));
        assert!(!status.0.held_up(foreign), "no news");
        assert!(!status.is_well(0));
        status.0.resumed();
        assert!(status.is_well(0));
        status.0.held_up(Trouble::Event("no JSON".into()));
        status.0.resumed();
        assert!(!status.is_well(0), "it will not go away by itself");
        status.0.applied(status.at(0));
        assert!(status.is_well(0));
    }
}

//! What must hold of the scheduler between events.

use std::collections::{HashMap, HashSet};

use super::*;
use crate::scheduler::task::job::Need;

impl<P: Payload> TaskScheduler<P> {
    /// Each job is in exactly one place, loads are what is pending, no engine has more than the high water mark, and
    /// nothing waits for an engine that has room.
    pub(super) fn sanity_check(&self) {
        assert!(self.ready.is_empty() && self.doomed.is_empty());
        self.roster.sanity_check();
        self.queues.sanity_check(&self.jobs, &self.roster);
        self.check_places();
        self.check_graph();
    }

    fn check_places(&self) {
        assert_eq!(self.live.len(), self.jobs.len());
        let (mut on_engines, mut clocks) = (0, 0);
        for (here, job) in self.jobs.iter() {
            let msg_id = job.payload.msg_id();
            assert_eq!(self.find(self.hasher.hash(msg_id), msg_id), Some(here));
            let deadline = job.terms.as_ref().and_then(|terms| terms.deadline);
            clocks += usize::from(deadline.is_some());
            assert!(deadline.is_none_or(|deadline| self.deadlines.contains(deadline, here)));
            match job.state {
                State::Running { engine, place } => {
                    on_engines += 1;
                    assert_eq!(self.roster[engine].running[place as usize], here);
                    assert!(deadline.is_none());
                }
                State::Blocked => {
                    let terms = job.terms.as_ref().expect("it waits for something");
                    assert!(!terms.are_met());
                    assert_eq!(deadline.is_some(), terms.timeout.is_some());
                    assert!(
                        !self.is_empty(job.class),
                        "it waits for an engine that is gone"
                    );
                }
                State::Ready { .. } => {
                    assert!(job.terms.as_ref().is_none_or(|terms| terms.are_met()));
                    assert_eq!(deadline.is_some(), job.timeout().is_some());
                    assert!(
                        !self.is_empty(job.class),
                        "it waits for an engine that is gone"
                    );
                    let holds_out = job.class == self.queues.any() && job.timeout().is_some();
                    assert!(holds_out || !self.is_cornered(here), "it waits for nothing");
                    for (slot, engine) in self.roster.iter() {
                        let may = self
                            .queues
                            .members(job.class)
                            .is_none_or(|members| members.contains(&slot));
                        assert!(
                            !may || !self.roster.has_room(slot) || job.excludes(engine.serial),
                            "{} waits though {} has room",
                            msg_id,
                            engine.uuid
                        );
                    }
                }
                State::Moving | State::Doomed => panic!("{msg_id} is nowhere"),
            }
        }
        let running = self.roster.iter().map(|(_, engine)| engine.running.len());
        assert_eq!(on_engines, running.sum::<usize>());
        assert_eq!(clocks, self.deadlines.len());
    }

    fn check_graph(&self) {
        let mut edges = HashMap::new();
        for (on, job) in self.jobs.iter() {
            let (mut next, mut previous) = (job.first_dependent, None);
            while let Some(here) = next {
                let edge = &self.edges[here];
                assert_eq!((edge.on, edge.previous), (Some(on), previous));
                edges.insert(here, edge.dependent);
                (next, previous) = (edge.next, Some(here));
            }
            assert_eq!(job.last_dependent, previous);
        }
        let mut needs = HashSet::new();
        for (here, job) in self.jobs.iter() {
            let Some(terms) = &job.terms else {
                continue;
            };
            let mut open = [0, 0];
            let mut next = terms.needs;
            while let Some(need) = next {
                let edge = &self.edges[need];
                assert_eq!(edge.dependent, here);
                assert_eq!(edge.on.is_some(), edges.contains_key(&need));
                open[usize::from(edge.kind == Kind::Follow)] += u32::from(edge.on.is_some());
                needs.insert(need);
                next = edge.next_need;
            }
            let counted = |need: Option<Need>, open| need.is_none_or(|need| need.open == open);
            assert!(counted(terms.after, open[0]));
            assert!(counted(terms.follow.map(|follow| follow.need), open[1]));
            if matches!(job.state, State::Running { .. }) {
                assert!(terms.needs.is_none() || terms.follow.is_some());
            }
        }
        assert_eq!(needs.len(), self.edges.len());
    }
}

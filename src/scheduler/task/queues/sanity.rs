//! What must hold of the queues between events.

use super::*;
use crate::scheduler::task::job::{Job, State};
use crate::scheduler::task::roster::Roster;

impl Queues {
    /// Nothing is kept of what was here.
    pub(in crate::scheduler::task) fn is_idle(&self) -> bool {
        self.clients.len() == 0
            && self.lanes.len() == 0
            && self.classes.len() == 1
            && self.interned.is_empty()
            && self.lane_of.is_empty()
            && self.ring.is_empty()
            && self.stands.iter().all(|stand| stand.classes.is_empty())
    }

    pub(in crate::scheduler::task) fn sanity_check<P>(
        &self,
        jobs: &Slab<JobIx, Job<P>>,
        roster: &Roster,
    ) {
        self.check_lanes(jobs, roster);
        self.check_classes(jobs, roster);
        self.check_stands();
        self.check_clients(jobs);
    }

    fn check_lanes<P>(&self, jobs: &Slab<JobIx, Job<P>>, roster: &Roster) {
        let mut queued = 0;
        for (here, lane) in self.lanes.iter() {
            for (order, job) in &lane.jobs {
                queued += 1;
                let ready = State::Ready {
                    lane: here,
                    order: *order,
                };
                let job = &jobs[*job];
                assert_eq!(job.state, ready);
                assert_eq!((job.class, job.client), (lane.class, lane.client));
                assert_eq!(job.excludes_any(), lane.picky);
                if lane.picky {
                    let attempts = job.attempts.as_ref().map_or(0, |attempts| attempts.len());
                    assert!(attempts <= lane.most_attempts);
                } else {
                    assert_eq!(*order, job.sequence);
                }
            }
            for (serial, cursor) in &lane.cursors {
                if roster.present_with(*serial).is_some() {
                    let passed = lane.jobs.range(..cursor);
                    assert!(
                        passed
                            .into_iter()
                            .all(|(_, job)| jobs[*job].excludes(*serial))
                    );
                }
            }
            if lane.class == self.any {
                let own = self.clients[lane.client].lanes[usize::from(lane.picky)];
                assert_eq!(own, Some(here));
            } else {
                let key = (lane.class, lane.client, lane.picky);
                assert_eq!(self.lane_of[&key], here);
                assert!(self.classes[lane.class].lanes.contains(&here));
            }
        }
        let ready = jobs
            .iter()
            .filter(|(_, job)| matches!(job.state, State::Ready { .. }));
        assert_eq!(queued, ready.count());
    }

    fn check_classes<P>(&self, jobs: &Slab<JobIx, Job<P>>, roster: &Roster) {
        for (here, class) in self.classes.iter() {
            let lanes = self.lanes.iter().filter(|(_, lane)| lane.class == here);
            let waiting: usize = lanes
                .filter(|(_, lane)| !lane.picky)
                .map(|(_, lane)| lane.jobs.len())
                .sum();
            assert_eq!(waiting, class.waiting as usize);
            if here == self.any {
                continue;
            }
            assert!(class.members.is_sorted());
            let holders: usize = jobs
                .iter()
                .map(|(_, job)| {
                    let targets = job.terms.as_ref().map(|terms| terms.targets);
                    usize::from(job.class == here) + usize::from(targets == Some(here))
                })
                .sum();
            assert!(holders > 0, "a class that nobody holds");
            assert_eq!(holders, class.jobs as usize);
            let blocked: HashSet<_> = jobs
                .iter()
                .filter(|(_, job)| job.class == here && job.state == State::Blocked)
                .map(|(job, _)| job)
                .collect();
            assert_eq!(blocked, class.blocked);
            for slot in &class.members {
                assert!(roster.is_present(*slot));
                assert!(self.stands[slot.index() as usize].classes.contains(&here));
            }
            let hash = self.hasher.hash_one(&class.members[..]);
            let found = self.interned.find(hash, |found| *found == here);
            assert_eq!(found.is_some(), class.interned);
            for lane in &class.lanes {
                let unlisted = &self.lanes[*lane].unlisted;
                for slot in &class.members {
                    let stand = &self.stands[slot.index() as usize];
                    assert_ne!(stand.turns.contains_key(lane), unlisted.contains(slot));
                    assert!(self.lanes[*lane].jobs.is_empty() || !unlisted.contains(slot));
                }
                assert!(unlisted.iter().all(|slot| class.members.contains(slot)));
            }
        }
    }

    fn check_stands(&self) {
        for (stand, index) in self.stands.iter().zip(0..) {
            assert_eq!(stand.lanes.len(), stand.turns.len());
            for (client, turn, lane) in &stand.lanes {
                assert_eq!(stand.turns[lane], *turn);
                assert_eq!(self.lanes[*lane].client, *client);
                assert!(stand.classes.contains(&self.lanes[*lane].class));
            }
            for class in &stand.classes {
                assert!(self.classes[*class].members.contains(&Slot::new(index)));
            }
        }
    }

    fn check_clients<P>(&self, jobs: &Slab<JobIx, Job<P>>) {
        assert_eq!(self.clients.len(), self.by_identity.len());
        let mut in_ring = 0;
        for (here, client) in self.clients.iter() {
            assert_eq!(self.by_identity[&client.identity], here);
            let own = || jobs.iter().filter(|(_, job)| job.client == here);
            assert_eq!(own().count(), client.jobs as usize);
            let blocked = own().filter(|(_, job)| job.state == State::Blocked);
            assert_eq!(blocked.count(), client.blocked as usize);
            let ready = own().filter(|(_, job)| matches!(job.state, State::Ready { .. }));
            assert_eq!(ready.count(), client.ready as usize);
            let waits = client
                .lanes
                .into_iter()
                .flatten()
                .any(|lane| !self.lanes[lane].jobs.is_empty());
            assert_eq!(waits, self.ring.contains(&(client.served, here)));
            in_ring += usize::from(waits);
        }
        assert_eq!(in_ring, self.ring.len());
    }
}

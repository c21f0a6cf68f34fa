//! Carries out what an elastic cluster's [`Elastic`](crate::launch::elastic::Elastic) orders: which sets are started for
//! it, and what their ends mean.

use std::time::Instant;

use super::ends::KERNELS_DIED;
use super::{Action, Member, Phase, Process, Set, SetNo, Status, Supervisor};
use crate::launch::elastic::{Look, Order, Pending};
use crate::launch::report::Report;

impl Supervisor {
    /// What the hub says of engines and queue.
    pub fn on_look(&mut self, now: Instant, look: &Look, out: &mut Vec<Action>) {
        if self.phase != Phase::Up {
            return;
        }
        for engine in &look.engines {
            if let Some(set) = engine.set.and_then(|number| self.sets.get_mut(&number)) {
                set.seen.insert(engine.id);
            }
        }
        let pending = self.pending(now);
        let look = &self.of_those_that_may_end(look);
        let Some(elastic) = &mut self.elastic else {
            return;
        };
        let mut orders = Vec::new();
        elastic.on_look(now, look, &pending, &mut orders);
        for order in orders {
            match order {
                Order::Start(count) => self.grow(now, count, look, out),
                Order::Retire(engines) => {
                    self.retiring.extend(&engines);
                    out.push(Action::Report(Report::Retiring(engines.clone())));
                    out.push(Action::Retire(engines));
                }
                Order::Withdraw(number) => {
                    if let Some(set) = self.sets.get_mut(&number) {
                        set.withdrawn = true;
                        out.push(Action::Report(Report::Withdrawing(set.engines)));
                        out.push(Action::Terminate(Member::Engines(number)));
                    }
                }
            }
        }
    }

    /// The same, where engines of sets that stay count as somebody else's.
    fn of_those_that_may_end(&self, look: &Look) -> Look {
        let mut look = look.clone();
        if self.plan.inseparable {
            for engine in &mut look.engines {
                engine.set = engine.set.filter(|set| self.engines_of(*set) <= 1);
            }
        }
        look
    }

    /// Engines that are to be expected: those of jobs that wait, and for a while those of what has been started.
    fn pending(&self, now: Instant) -> Vec<Pending> {
        let is_young = |set: &Set| {
            let age = set.began.map(|began| now.saturating_duration_since(began));
            age.is_some_and(|age| age < self.plan.engine_timeout)
        };
        let sets = self.sets.iter();
        sets.filter(|(_, set)| set.process != Process::Absent || set.restart_at.is_some())
            .filter(|(_, set)| !set.withdrawn && (set.queued || is_young(set)))
            .map(|(number, set)| {
                let seen = u32::try_from(set.seen.len()).unwrap_or(u32::MAX);
                Pending {
                    set: *number,
                    engines: set.engines.saturating_sub(seen),
                    queued: set.queued,
                }
            })
            .filter(|pending| pending.engines > 0)
            .collect()
    }

    /// Starts as many more, where there is room.
    fn grow(&mut self, now: Instant, count: u32, look: &Look, out: &mut Vec<Action>) {
        let mut left = count;
        let mut starting = Vec::new();
        if self.plan.inseparable {
            starting.extend((0..left).map(|_| (None, 1)));
            left = 0;
        } else if self.plan.machines.is_empty() {
            starting.push((None, left));
            left = 0;
        }
        for (machine, room) in self.plan.machines.iter().enumerate() {
            let engines = room.saturating_sub(self.occupied(machine, look)).min(left);
            if engines > 0 {
                starting.push((Some(machine), engines));
                left -= engines;
            }
        }
        if starting.is_empty() {
            return;
        }
        out.push(Action::Report(Report::Growing {
            count: count - left,
            waiting: look.waiting,
        }));
        for (machine, engines) in starting {
            let number = SetNo(self.sets.keys().next_back().map_or(0, |last| last.0 + 1));
            let set = Set {
                engines,
                machine,
                ..Set::default()
            };
            self.sets.insert(number, set);
            self.spawn(now, Member::Engines(number), out);
        }
    }

    /// Engines that a machine has, those that are on their way included.
    fn occupied(&self, machine: usize, look: &Look) -> u32 {
        let sets = self.sets.iter();
        sets.filter(|(_, set)| set.machine == Some(machine) && set.process != Process::Absent)
            .map(|(number, set)| {
                let engines = look.engines.iter();
                let there = engines.filter(|engine| engine.set == Some(*number)).count();
                let gone = set.seen.len().saturating_sub(there);
                set.engines
                    .saturating_sub(u32::try_from(gone).unwrap_or(u32::MAX))
            })
            .sum()
    }

    /// A set of an elastic cluster has ended: by and by its engines were asked to, or they died.
    pub(super) fn on_elastic_set_exited(
        &mut self,
        now: Instant,
        number: SetNo,
        status: Status,
        out: &mut Vec<Action>,
    ) {
        out.push(Action::WriteFiles);
        let set = self.sets.remove(&number);
        if status.is_orderly() || set.is_some_and(|set| set.withdrawn) {
            return;
        }
        if status == KERNELS_DIED {
            // Their ends were told one by one, and no other start would mend what killed them.
            out.push(Action::Report(Report::KernelsDied));
            return self.on_elastic_failure(now);
        }
        out.push(Action::Report(Report::EnginesLost {
            status,
            elastic: true,
        }));
        out.push(Action::ShowLog(Member::Engines(number)));
        self.on_elastic_failure(now);
    }

    /// The next start waits for longer.
    pub(super) fn on_elastic_failure(&mut self, now: Instant) {
        if let Some(elastic) = &mut self.elastic {
            elastic.on_failure(now);
        }
    }
}

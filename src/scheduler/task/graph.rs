//! Tasks that need other tasks.
//!
//! Every need of a task that has not ended is an edge, and every task counts the needs that are open: when a task ends,
//! only those that need it are looked at. Cycles cannot come about, since a task may only need tasks that are known when
//! it is submitted. What ends or becomes ready on the way goes into lists, not onto the stack, so a chain may be of any
//! length.

use super::ids::{Ended, JobIx};
use super::job::{Edge, EdgeIx, Follow, Job, Kind, Need, State};
use super::queues::ClassIx;
use super::request::Dependency;
use super::roster::Serial;
use super::{Payload, TaskError, TaskScheduler};

/// What is known of a task that another one names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Known {
    Live(JobIx),
    Ended(Ended),
    Never,
}

/// A dependency that can still be met, with what is known of each of its tasks.
pub(super) struct Checked<'a> {
    dependency: Dependency<'a>,
    tasks: Vec<Known>,
}

impl Checked<'_> {
    fn live(&self) -> impl Iterator<Item = JobIx> {
        self.tasks.iter().filter_map(|task| match task {
            Known::Live(job) => Some(*job),
            Known::Ended(_) | Known::Never => None,
        })
    }

    pub(super) fn need(&self) -> Need {
        let open = u32::try_from(self.live().count()).unwrap_or(u32::MAX);
        Need::new(&self.dependency, open)
    }
}

/// Some of the ids that a message speaks of.
pub(super) fn some_of(ids: &[&str]) -> String {
    const SHOWN: usize = 3;
    let text = ids[..ids.len().min(SHOWN)].join(", ");
    match ids.len().saturating_sub(SHOWN) {
        0 => text,
        more => format!("{text} and {more} more"),
    }
}

fn how(ok: bool) -> &'static str {
    if ok { "succeeded" } else { "failed" }
}

impl<P: Payload> TaskScheduler<P> {
    fn known(&self, msg_id: &str) -> Known {
        let hash = self.hasher.hash(msg_id);
        if let Some(job) = self.find(hash, msg_id) {
            return Known::Live(job);
        }
        self.finished.get(hash).map_or(Known::Never, Known::Ended)
    }

    pub(super) fn is_unknown(&self, msg_id: &str) -> bool {
        self.known(msg_id) == Known::Never
    }

    /// Whether the task `own` may depend on that; none if it is met already. The order of the tests is ipyparallel's:
    /// an `after` that is met is never invalid, and invalid goes before impossible.
    pub(super) fn check<'a>(
        &self,
        own: &str,
        dependency: Dependency<'a>,
        kind: Kind,
    ) -> Result<Option<Checked<'a>>, TaskError> {
        let ids = &dependency.ids;
        let tasks: Vec<_> = ids.iter().map(|id| self.known(id)).collect();
        let need = Need::new(&dependency, 0);
        let is_met = |task: &Known| matches!(task, Known::Ended(end) if need.accepts(end.ok));
        let met = tasks.iter().filter(|task| is_met(task)).count();
        if kind == Kind::After && (met == ids.len() || (met > 0 && !need.all)) {
            return Ok(None);
        }
        let of = |wanted: &dyn Fn(&str, &Known) -> bool| -> Vec<&str> {
            let pairs = ids.iter().copied().zip(&tasks);
            pairs
                .filter(|(id, task)| wanted(id, task))
                .map(|(id, _)| id)
                .collect()
        };
        let invalid = of(&|id, task| {
            let done_with = kind == Kind::After && is_met(task);
            !done_with && (id == own || *task == Known::Never)
        });
        if invalid.contains(&own) {
            return Err(TaskError::Invalid(format!("task {own} depends on itself")));
        }
        if !invalid.is_empty() {
            return Err(TaskError::Invalid(format!(
                "no task of the task queue has this id: {}. Only tasks of load-balanced views can be depended upon, and \
                 of those that have finished the last {} are remembered",
                some_of(&invalid),
                self.finished.limit()
            )));
        }
        let failed = of(&|_, task| matches!(task, Known::Ended(end) if !need.accepts(end.ok)));
        if !failed.is_empty() && (need.all || failed.len() == ids.len()) {
            let ok = need.accepts(false);
            return Err(TaskError::Impossible(format!(
                "it depends on tasks that have {} already: {}",
                how(ok),
                some_of(&failed)
            )));
        }
        Ok(Some(Checked { dependency, tasks }))
    }

    /// Enters a new job's needs into the graph.
    pub(super) fn connect(&mut self, job: JobIx, checked: &Checked<'_>, kind: Kind) {
        for on in checked.live() {
            let previous = self.jobs[on].last_dependent;
            let terms = self.jobs[job].terms.as_mut();
            let needs = &mut terms.expect("a job with needs has terms").needs;
            let edge = self.edges.insert(Edge {
                on: Some(on),
                dependent: job,
                kind,
                previous,
                next: None,
                next_need: needs.take(),
            });
            *needs = Some(edge);
            match previous {
                Some(previous) => self.edges[previous].next = Some(edge),
                None => self.jobs[on].first_dependent = Some(edge),
            }
            self.jobs[on].last_dependent = Some(edge);
        }
    }

    /// Counts in those tasks that a new job follows and that have ended.
    pub(super) fn follow_ended(
        &mut self,
        job: JobIx,
        checked: &Checked<'_>,
    ) -> Result<(), TaskError> {
        let need = checked.need();
        for task in &checked.tasks {
            if let Known::Ended(end) = task
                && need.accepts(end.ok)
            {
                self.follow_to(job, end.engine)?;
            }
        }
        self.follow_is_possible(job)
    }

    /// Takes a job's needs out of the graph: it needs nothing more, or ends.
    pub(super) fn disconnect(&mut self, job: JobIx) {
        let Some(terms) = self.jobs[job].terms.as_mut() else {
            return;
        };
        terms.after = None;
        terms.follow = None;
        let mut needs = terms.needs.take();
        while let Some(need) = needs {
            let edge = self.edges.remove(need);
            needs = edge.next_need;
            let Some(on) = edge.on else {
                continue;
            };
            match edge.previous {
                Some(previous) => self.edges[previous].next = edge.next,
                None => self.jobs[on].first_dependent = edge.next,
            }
            match edge.next {
                Some(next) => self.edges[next].previous = edge.previous,
                None => self.jobs[on].last_dependent = edge.previous,
            }
        }
    }

    /// Tells those that need a task how it ended. The job is out of the slab already.
    pub(super) fn tell_dependents(&mut self, ended: &Job<P>, end: Ended) {
        let mut next: Option<EdgeIx> = ended.first_dependent;
        while let Some(edge) = next {
            let edge = &mut self.edges[edge];
            edge.on = None;
            next = edge.next;
            let (job, kind) = (edge.dependent, edge.kind);
            if self.jobs[job].state == State::Doomed {
                continue;
            }
            let told = match kind {
                Kind::After => self.tell_after(job, ended, end.ok),
                Kind::Follow => self.tell_follow(job, ended, end),
            };
            if let Err(error) = told {
                self.doom(job, error, None);
                continue;
            }
            let known = &self.jobs[job];
            if known.state == State::Blocked
                && known.terms.as_ref().is_some_and(|terms| terms.are_met())
            {
                self.detach(job);
                self.requeue(job);
            }
        }
    }

    fn tell_after(&mut self, job: JobIx, ended: &Job<P>, ok: bool) -> Result<(), TaskError> {
        let terms = self.jobs[job].terms.as_mut();
        let after = &mut terms.expect("a job with needs has terms").after;
        let Some(need) = after else {
            // Any one of several was enough.
            return Ok(());
        };
        need.open -= 1;
        let accepted = need.accepts(ok);
        if !accepted && (need.all || need.open == 0) {
            return Err(impossible(ended, ok));
        }
        if accepted && (!need.all || need.open == 0) {
            *after = None;
        }
        Ok(())
    }

    fn tell_follow(&mut self, job: JobIx, ended: &Job<P>, end: Ended) -> Result<(), TaskError> {
        let terms = self.jobs[job].terms.as_mut();
        let Some(follow) = terms.and_then(|terms| terms.follow.as_mut()) else {
            return Ok(());
        };
        follow.need.open -= 1;
        let Follow { need, at } = *follow;
        if need.accepts(end.ok) {
            self.follow_to(job, end.engine)?;
        } else if need.all || (need.open == 0 && at.is_none()) {
            return Err(impossible(ended, end.ok));
        }
        self.follow_is_possible(job)
    }

    /// A task that the job follows ran on this engine. With `all` it is the only one for the job from now on; else it
    /// is one more.
    fn follow_to(&mut self, job: JobIx, engine: Option<Serial>) -> Result<(), TaskError> {
        let terms = self.jobs[job].terms.as_ref();
        let terms = terms.expect("a job that follows has terms");
        let follow = terms.follow.expect("a job that follows knows it");
        let all = follow.need.all;
        let hopeless = |why: String| match all {
            true => Err(TaskError::Impossible(why)),
            false => Ok(()),
        };
        let Some(serial) = engine else {
            return hopeless("a task that it follows has never been on an engine".to_owned());
        };
        if all && let Some(other) = follow.at {
            return if other == serial {
                Ok(())
            } else {
                hopeless(format!(
                    "the tasks that it follows were on different engines: {} and {}",
                    self.roster.name_of(other),
                    self.roster.name_of(serial)
                ))
            };
        }
        let Some(slot) = self.roster.present_with(serial) else {
            return hopeless(format!(
                "the engine of a task that it follows is gone: {}",
                self.roster.name_of(serial)
            ));
        };
        let targets = self.queues.members(terms.targets);
        if targets.is_some_and(|targets| !targets.contains(&slot)) {
            return hopeless(format!(
                "the engine of a task that it follows is not among its targets: {}",
                self.roster.name_of(serial)
            ));
        }
        let mut members = vec![slot];
        if !all && follow.at.is_some() {
            let so_far = self.queues.members(self.jobs[job].class);
            members.extend_from_slice(so_far.unwrap_or_default());
        }
        let class = self.queues.hold_class(members);
        self.set_class(job, class);
        let terms = self.jobs[job].terms.as_mut();
        if let Some(follow) = terms.and_then(|terms| terms.follow.as_mut()) {
            follow.at = Some(serial);
        }
        Ok(())
    }

    fn follow_is_possible(&self, job: JobIx) -> Result<(), TaskError> {
        let terms = self.jobs[job].terms.as_ref();
        match terms.and_then(|terms| terms.follow) {
            Some(follow) if follow.need.open == 0 && follow.at.is_none() => {
                Err(TaskError::Impossible(
                    "no engine that it may run on has had a task that it follows".to_owned(),
                ))
            }
            _ => Ok(()),
        }
    }

    /// All engines of the class of a job that is on none are gone.
    pub(super) fn class_is_empty(&mut self, job: JobIx) {
        if self.jobs[job].state == State::Doomed {
            return;
        }
        self.detach(job);
        if self.follows_more(job) {
            self.make_ready(job);
            return;
        }
        let why = "every engine that it may run on is gone".to_owned();
        self.doom(job, TaskError::Impossible(why), None);
    }

    /// None of the engines where a job has something to follow will do any more, but another of the tasks that it
    /// follows may still end on one that will: then it waits for that.
    pub(super) fn follows_more(&mut self, job: JobIx) -> bool {
        let known = &self.jobs[job];
        let Some(terms) = known.terms.as_ref() else {
            return false;
        };
        let targets = terms.targets;
        if !terms.may_follow_more() || self.is_empty(targets) {
            return false;
        }
        let targets = self.queues.hold_again(targets);
        self.set_class(job, targets);
        let terms = self.jobs[job].terms.as_mut();
        if let Some(follow) = terms.and_then(|terms| terms.follow.as_mut()) {
            follow.at = None;
        }
        true
    }

    /// A class of certain engines, none of which is left.
    pub(super) fn is_empty(&self, class: ClassIx) -> bool {
        self.queues
            .members(class)
            .is_some_and(|members| members.is_empty())
    }

    /// The job is restricted to other engines from now on. It holds the new class already.
    fn set_class(&mut self, job: JobIx, class: ClassIx) {
        let known = &self.jobs[job];
        let (state, before, client) = (known.state, known.class, known.client);
        match state {
            State::Blocked => {
                self.queues.unblock(client, before, job);
                self.queues.block(client, class, job);
            }
            State::Ready { .. } => {
                self.detach(job);
                self.make_ready(job);
            }
            State::Moving | State::Doomed | State::Running { .. } => {}
        }
        self.jobs[job].class = class;
        self.queues.let_go(before);
    }
}

fn impossible<P: Payload>(ended: &Job<P>, ok: bool) -> TaskError {
    TaskError::Impossible(format!(
        "a task that it depends on {}: {}",
        how(ok),
        ended.payload.msg_id()
    ))
}

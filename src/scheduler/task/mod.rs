//! The task queue: which engine gets which task, and when.

mod error;
mod request;
mod types;

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::time::{Duration, Instant};

pub use error::TaskError;
pub use types::{
    DEFAULT_FINISHED_LIMIT, EngineLoad, JobKey, Outcome, TaskAction, TaskConfig, TaskSnapshot,
    TaskStatus, Verdict,
};

use crate::protocol::{EngineUuid, Identity, MsgId, TaskMetadata};
use crate::scheduler::Scheme;
use request::Request;

#[derive(Debug)]
struct Need {
    ids: Vec<MsgId>,
    all: bool,
    success: bool,
    failure: bool,
}

impl Need {
    fn accepts(&self, ok: bool) -> bool {
        if ok { self.success } else { self.failure }
    }
}

#[derive(Debug)]
struct Job<P> {
    key: JobKey,
    msg_id: MsgId,
    client: Identity,
    payload: P,
    targets: Vec<EngineUuid>,
    after: Option<Need>,
    follow: Option<Need>,
    retries: u32,
    timeout: Option<Duration>,
    deadline: Option<Instant>,
    engine: Option<EngineUuid>,
    refused: HashSet<EngineUuid>,
    avoid: HashSet<EngineUuid>,
    had: HashSet<EngineUuid>,
    lost: HashSet<EngineUuid>,
    aborted: bool,
}

#[derive(Debug, Default)]
struct Engine {
    pending: HashSet<MsgId>,
    completed: u64,
    used: u64,
    born: u64,
}

#[derive(Debug)]
struct Done {
    ok: bool,
    engine: Option<EngineUuid>,
}

/// Decides for every task which engine gets it, and when.
#[derive(Debug)]
pub struct TaskScheduler<P> {
    config: TaskConfig,
    jobs: HashMap<MsgId, Job<P>>,
    keys: HashMap<u32, MsgId>,
    next_key: u32,
    queue: VecDeque<MsgId>,
    engines: BTreeMap<EngineUuid, Engine>,
    done: HashMap<MsgId, Done>,
    done_order: VecDeque<MsgId>,
    clock: u64,
}

enum State {
    Ready(EngineUuid),
    Waits,
    Impossible(String),
}

impl<P> TaskScheduler<P> {
    pub fn new(config: TaskConfig) -> Self {
        Self {
            config,
            jobs: HashMap::new(),
            keys: HashMap::new(),
            next_key: 0,
            queue: VecDeque::new(),
            engines: BTreeMap::new(),
            done: HashMap::new(),
            done_order: VecDeque::new(),
            clock: 0,
        }
    }

    /// The engine is there and may be given tasks.
    pub fn on_engine_registered(
        &mut self,
        _now: Instant,
        engine: EngineUuid,
        out: &mut Vec<TaskAction<P>>,
    ) {
        self.clock += 1;
        let born = self.clock;
        self.engines.entry(engine).or_insert_with(|| Engine {
            born,
            ..Engine::default()
        });
        self.run(out);
    }

    /// The engine is gone; `how` is a few words for the user.
    pub fn on_engine_gone(
        &mut self,
        now: Instant,
        engine: &EngineUuid,
        how: &str,
        out: &mut Vec<TaskAction<P>>,
    ) {
        let Some(gone) = self.engines.remove(engine) else {
            return;
        };
        for msg_id in gone.pending {
            let Some(job) = self.jobs.get_mut(&msg_id) else {
                continue;
            };
            if job.retries > 0 && !job.aborted {
                job.retries -= 1;
                job.lost.insert(engine.clone());
                self.wait(now, &msg_id);
            } else {
                let error = TaskError::EngineDied {
                    engine: engine.clone(),
                    msg_id: msg_id.clone(),
                    how: how.to_owned(),
                };
                self.fail(&msg_id, Some(engine.clone()), error, out);
            }
        }
        self.run(out);
    }

    /// A client's request.
    pub fn on_submit(
        &mut self,
        now: Instant,
        client: Identity,
        msg_id: &str,
        metadata: &TaskMetadata,
        payload: P,
        out: &mut Vec<TaskAction<P>>,
    ) {
        let id = MsgId::from(msg_id);
        let refuse = |job_payload, client, error| TaskAction::Fail {
            job_payload,
            client,
            msg_id: MsgId::from(msg_id),
            engine: None,
            error,
        };
        if self.jobs.contains_key(&id) {
            out.push(refuse(payload, client, TaskError::Duplicate(id)));
            return;
        }
        let request = match Request::parse(metadata) {
            Ok(request) => request,
            Err(why) => {
                out.push(refuse(payload, client, TaskError::BadRequest(why)));
                self.remember(id, false, None);
                return;
            }
        };
        let need = |dependency: request::Dependency<'_>| Need {
            ids: dependency.ids.iter().map(|id| MsgId::from(*id)).collect(),
            all: dependency.all,
            success: dependency.success,
            failure: dependency.failure,
        };
        let mut after = request.after.map(need);
        let follow = request.follow.map(need);
        if let Some(need) = &mut after {
            let met = |id: &MsgId| self.done.get(id).is_some_and(|done| need.accepts(done.ok));
            if need.all {
                let left: Vec<_> = need.ids.iter().filter(|id| !met(id)).cloned().collect();
                need.ids = left;
            } else if need.ids.iter().any(met) {
                need.ids.clear();
            }
        }
        let after = after.filter(|need| !need.ids.is_empty());
        let unknown: Vec<_> = [&after, &follow]
            .into_iter()
            .flatten()
            .flat_map(|need| &need.ids)
            .filter(|dep| !self.jobs.contains_key(*dep) && !self.done.contains_key(*dep))
            .map(MsgId::as_str)
            .collect();
        if !unknown.is_empty() {
            let why = format!(
                "no task of this scheduler: {} (finished tasks are remembered up to a limit of {})",
                unknown.join(", "),
                self.config.finished_limit
            );
            out.push(refuse(payload, client, TaskError::Invalid(why)));
            self.remember(id, false, None);
            return;
        }
        let key = JobKey {
            index: self.next_key,
            generation: 0,
        };
        self.next_key += 1;
        self.keys.insert(key.index, id.clone());
        let job = Job {
            key,
            msg_id: id.clone(),
            client,
            payload,
            targets: request
                .targets
                .iter()
                .map(|t| EngineUuid::from(*t))
                .collect(),
            after,
            follow,
            retries: request.retries,
            timeout: request.timeout,
            deadline: None,
            engine: None,
            refused: HashSet::new(),
            avoid: HashSet::new(),
            had: HashSet::new(),
            lost: HashSet::new(),
            aborted: false,
        };
        self.jobs.insert(id.clone(), job);
        self.wait(now, &id);
        self.run(out);
    }

    /// An engine's reply to a task. `engine` is the routing id that it came from.
    pub fn on_reply(
        &mut self,
        now: Instant,
        engine: &[u8],
        msg_id: &str,
        outcome: Outcome,
        out: &mut Vec<TaskAction<P>>,
    ) -> Verdict {
        let Ok(name) = std::str::from_utf8(engine) else {
            return Verdict::Unknown;
        };
        let Some(job) = self.jobs.get_mut(msg_id) else {
            if let Some(engine) = self.engines.get_mut(name)
                && engine.pending.remove(msg_id)
            {
                self.run(out);
            }
            return Verdict::Unknown;
        };
        let holds = job.engine.as_ref().is_some_and(|e| e.as_str() == name);
        if !holds && !job.lost.remove(name) {
            return Verdict::Unknown;
        }
        if holds && let Some(engine) = self.engines.get_mut(name) {
            engine.pending.remove(msg_id);
        }
        let id = MsgId::from(msg_id);
        let uuid = EngineUuid::from(name);
        let again = match outcome {
            Outcome::Ok | Outcome::Aborted => false,
            Outcome::Unmet => {
                job.refused.insert(uuid.clone());
                true
            }
            Outcome::Failed => !holds || (job.retries > 0 && !job.aborted),
        };
        if again {
            if holds {
                if outcome == Outcome::Failed {
                    job.retries -= 1;
                    job.avoid.insert(uuid);
                }
                if job.aborted {
                    self.fail(&id, None, TaskError::Aborted, out);
                } else {
                    self.wait(now, &id);
                }
            }
            self.run(out);
            return Verdict::Requeued;
        }
        let client = job.client.clone();
        if let Some(engine) = self.engines.get_mut(name) {
            engine.completed += 1;
        }
        self.remove(&id);
        self.remember(id, outcome == Outcome::Ok, Some(uuid));
        self.run(out);
        Verdict::Deliver { client }
    }

    /// The engine gives a task back that its kernel has not seen. It goes to another engine, or again to this one when
    /// there is no other; no retry is used up. `false`: that engine does not have that task.
    pub fn on_returned(
        &mut self,
        now: Instant,
        engine: &[u8],
        msg_id: &str,
        out: &mut Vec<TaskAction<P>>,
    ) -> bool {
        let Some(job) = self.jobs.get_mut(msg_id) else {
            return false;
        };
        let Some(holder) = job
            .engine
            .clone()
            .filter(|e| e.as_str().as_bytes() == engine)
        else {
            return false;
        };
        if let Some(engine) = self.engines.get_mut(&holder) {
            engine.pending.remove(msg_id);
        }
        job.avoid.insert(holder);
        let id = job.msg_id.clone();
        if job.aborted {
            self.fail(&id, None, TaskError::Aborted, out);
        } else {
            self.wait(now, &id);
        }
        self.run(out);
        true
    }

    /// Ends those of the tasks that wait; how many. One that runs is the engine's affair, but is not tried again.
    pub fn on_abort(
        &mut self,
        _now: Instant,
        msg_ids: &[&str],
        out: &mut Vec<TaskAction<P>>,
    ) -> usize {
        let mut ended = 0;
        for msg_id in msg_ids {
            let Some(job) = self.jobs.get_mut(*msg_id) else {
                continue;
            };
            if job.engine.is_some() {
                job.aborted = true;
            } else {
                let id = job.msg_id.clone();
                self.fail(&id, None, TaskError::Aborted, out);
                ended += 1;
            }
        }
        self.run(out);
        ended
    }

    /// Ends the tasks whose timeout has passed.
    pub fn on_time(&mut self, now: Instant, out: &mut Vec<TaskAction<P>>) {
        let late: Vec<_> = self
            .queue
            .iter()
            .filter_map(|id| {
                let job = &self.jobs[id];
                job.deadline
                    .filter(|deadline| *deadline <= now)
                    .and(job.timeout)
                    .map(|timeout| (id.clone(), timeout))
            })
            .collect();
        for (id, timeout) in late {
            self.fail(&id, None, TaskError::Timeout(timeout), out);
        }
        self.run(out);
    }

    /// When [`on_time`](Self::on_time) has something to do.
    pub fn next_deadline(&self) -> Option<Instant> {
        self.queue
            .iter()
            .filter_map(|id| self.jobs[id].deadline)
            .min()
    }

    /// The request's frames.
    pub fn payload(&self, job: JobKey) -> Option<&P> {
        let id = self.keys.get(&job.index)?;
        self.jobs.get(id).map(|job| &job.payload)
    }

    pub fn msg_id(&self, job: JobKey) -> Option<&str> {
        self.keys.get(&job.index).map(MsgId::as_str)
    }

    /// Where a task is; none when it was never here or has been forgotten.
    pub fn status(&self, msg_id: &str) -> Option<TaskStatus> {
        if let Some(job) = self.jobs.get(msg_id) {
            return Some(
                job.engine
                    .clone()
                    .map_or(TaskStatus::Waiting, TaskStatus::Running),
            );
        }
        self.done
            .get(msg_id)
            .map(|done| TaskStatus::Finished { ok: done.ok })
    }

    pub fn snapshot(&self) -> TaskSnapshot {
        let mut engines: Vec<_> = self.engines.iter().collect();
        engines.sort_by_key(|(_, engine)| engine.born);
        TaskSnapshot {
            engines: engines
                .into_iter()
                .map(|(uuid, engine)| EngineLoad {
                    uuid: uuid.clone(),
                    pending: engine.pending.len() as u64,
                    completed: engine.completed,
                })
                .collect(),
            waiting: self.queue.len() as u64,
        }
    }

    /// The tasks outstanding on an engine.
    pub fn pending_ids(&self, engine: &EngineUuid) -> Vec<MsgId> {
        self.engines
            .get(engine)
            .map(|engine| engine.pending.iter().cloned().collect())
            .unwrap_or_default()
    }

    /// The tasks that are on no engine.
    pub fn waiting_ids(&self) -> Vec<MsgId> {
        self.queue.iter().cloned().collect()
    }

    fn wait(&mut self, now: Instant, id: &MsgId) {
        if let Some(job) = self.jobs.get_mut(id) {
            if let Some(engine) = job.engine.take() {
                job.had.insert(engine);
            }
            job.deadline = job.timeout.and_then(|timeout| now.checked_add(timeout));
            self.queue.push_back(id.clone());
        }
    }

    fn remove(&mut self, id: &MsgId) -> Option<Job<P>> {
        let job = self.jobs.remove(id)?;
        self.keys.remove(&job.key.index);
        self.queue.retain(|waiting| waiting != id);
        Some(job)
    }

    fn fail(
        &mut self,
        id: &MsgId,
        engine: Option<EngineUuid>,
        error: TaskError,
        out: &mut Vec<TaskAction<P>>,
    ) {
        if let Some(job) = self.remove(id) {
            out.push(TaskAction::Fail {
                job_payload: job.payload,
                client: job.client,
                msg_id: job.msg_id,
                engine,
                error,
            });
            self.remember(id.clone(), false, None);
        }
    }

    fn remember(&mut self, id: MsgId, ok: bool, engine: Option<EngineUuid>) {
        self.done.insert(id.clone(), Done { ok, engine });
        self.done_order.push_back(id);
        if self.done_order.len() > self.config.finished_limit
            && let Some(oldest) = self.done_order.pop_front()
        {
            self.done.remove(&oldest);
        }
    }

    /// Goes through the queue until nothing moves.
    fn run(&mut self, out: &mut Vec<TaskAction<P>>) {
        loop {
            let mut moved = false;
            for id in self.queue.clone() {
                match self.state(&id) {
                    State::Waits => {}
                    State::Impossible(why) => {
                        self.fail(&id, None, TaskError::Impossible(why), out);
                        moved = true;
                    }
                    State::Ready(engine) => {
                        self.clock += 1;
                        self.queue.retain(|waiting| *waiting != id);
                        let (Some(job), Some(chosen)) =
                            (self.jobs.get_mut(&id), self.engines.get_mut(&engine))
                        else {
                            continue;
                        };
                        chosen.used = self.clock;
                        chosen.pending.insert(id.clone());
                        job.engine = Some(engine.clone());
                        job.deadline = None;
                        out.push(TaskAction::Dispatch {
                            job: job.key,
                            resend: job.had.contains(&engine),
                            engine,
                        });
                        moved = true;
                    }
                }
            }
            if !moved {
                return;
            }
        }
    }

    fn state(&mut self, id: &MsgId) -> State {
        let job = &self.jobs[id];
        let mut allowed: Vec<EngineUuid> = self.engines.keys().cloned().collect();
        if !job.targets.is_empty() {
            allowed.retain(|engine| job.targets.contains(engine));
            if allowed.is_empty() {
                return State::Impossible("none of the engines it is meant for is there".into());
            }
        }
        let mut ready = true;
        for need in [&job.after, &job.follow].into_iter().flatten() {
            let done: Vec<_> = need.ids.iter().filter_map(|id| self.done.get(id)).collect();
            let met = done.iter().filter(|done| need.accepts(done.ok)).count();
            let bad = done.len() - met;
            if (need.all && bad > 0) || bad == need.ids.len() {
                return State::Impossible("a task that it depends on ended the wrong way".into());
            }
            ready &= if need.all {
                met == need.ids.len()
            } else {
                met > 0
            };
        }
        if let Some(need) = &job.follow {
            let places: HashSet<_> = need
                .ids
                .iter()
                .filter_map(|id| self.done.get(id))
                .filter(|done| need.accepts(done.ok))
                .map(|done| done.engine.clone())
                .collect();
            if ready {
                allowed.retain(|engine| places.contains(&Some(engine.clone())));
                if allowed.is_empty() || (need.all && places.len() > 1) {
                    return State::Impossible("no engine has run all that it follows".into());
                }
            }
        }
        if !ready {
            return State::Waits;
        }
        let all = allowed.len();
        allowed.retain(|engine| !job.refused.contains(engine));
        if all > 0 && allowed.is_empty() {
            return State::Impossible("every engine that may have it has refused it".into());
        }
        let fresh: Vec<_> = allowed
            .iter()
            .filter(|engine| !job.avoid.contains(*engine))
            .cloned()
            .collect();
        if fresh.is_empty() && job.timeout.is_none() {
            if let Some(job) = self.jobs.get_mut(id) {
                job.avoid.clear();
            }
        } else {
            allowed = fresh;
        }
        let unlimited = self.config.hwm == 0 || self.config.scheme == Scheme::Pure;
        allowed
            .into_iter()
            .filter(|engine| {
                unlimited || self.engines[engine].pending.len() < self.config.hwm as usize
            })
            .min_by_key(|engine| {
                (
                    self.engines[engine].pending.len(),
                    self.engines[engine].used,
                )
            })
            .map_or(State::Waits, State::Ready)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_task_goes_out_and_its_reply_comes_back() {
        let now = Instant::now();
        let mut out = Vec::new();
        let mut scheduler = TaskScheduler::new(TaskConfig::default());
        let client = Identity::from(&b"c"[..]);
        scheduler.on_submit(
            now,
            client.clone(),
            "m1",
            &TaskMetadata::default(),
            7,
            &mut out,
        );
        assert!(out.is_empty());
        scheduler.on_engine_registered(now, "e1".into(), &mut out);
        let [
            TaskAction::Dispatch {
                job, resend: false, ..
            },
        ] = out[..]
        else {
            panic!("{out:?}");
        };
        assert_eq!(scheduler.payload(job), Some(&7));
        assert_eq!(
            scheduler.on_reply(now, b"e1", "m1", Outcome::Ok, &mut out),
            Verdict::Deliver { client }
        );
        assert_eq!(
            scheduler.status("m1"),
            Some(TaskStatus::Finished { ok: true })
        );
    }
}

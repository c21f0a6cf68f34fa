//! Random clients, engines that come, go, stall, refuse and lie, and a plain model that says what may happen.

mod ops;

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::*;
use ops::{Needs, Op, op};

const ENGINES: usize = 5;
const CLIENTS: usize = 3;

#[derive(Clone, Debug, Default)]
struct Task {
    client: String,
    /// Those of its targets that were there, or expected, when it was submitted.
    targets: Option<BTreeSet<usize>>,
    after: Option<(Needs, Vec<String>)>,
    follow: Option<(Needs, Vec<String>)>,
    retries: u32,
    timeout: Option<Duration>,
    submitted: usize,
    waits_since: Option<Instant>,
    running: Option<usize>,
    refused: BTreeSet<usize>,
    had: BTreeSet<usize>,
    lost: BTreeSet<usize>,
    aborted: bool,
    end: Option<End>,
}

#[derive(Clone, Copy, Debug)]
struct End {
    ok: bool,
    engine: Option<usize>,
    step: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Away,
    Expected,
    Here,
}

struct Model {
    world: World,
    hwm: usize,
    step: usize,
    tasks: BTreeMap<String, Task>,
    /// In the order of submission, without those that come again.
    order: Vec<String>,
    places: [Place; ENGINES],
    /// When it came last, or was first expected.
    came: [usize; ENGINES],
    /// What an engine has been given since it registered and has not answered.
    held: [BTreeSet<String>; ENGINES],
    /// What it has in truth.
    inboxes: [Vec<String>; ENGINES],
}

fn name(engine: usize) -> String {
    format!("e{engine}")
}

fn number(engine: &EngineUuid) -> usize {
    engine.as_str()[1..].parse().unwrap()
}

impl Model {
    fn new(config: TaskConfig) -> Self {
        let unlimited = config.hwm == 0 || config.scheme == Scheme::Pure;
        Self {
            hwm: if unlimited {
                usize::MAX
            } else {
                config.hwm as usize
            },
            world: World::new(config),
            step: 0,
            tasks: BTreeMap::new(),
            order: Vec::new(),
            places: [Place::Away; ENGINES],
            came: [0; ENGINES],
            held: Default::default(),
            inboxes: Default::default(),
        }
    }

    fn present(&self) -> BTreeSet<usize> {
        (0..ENGINES)
            .filter(|engine| self.places[*engine] != Place::Away)
            .collect()
    }

    /// Of the ids, how many ended as wanted, how many otherwise.
    fn ends(&self, needs: &Needs, ids: &[String]) -> (usize, usize) {
        let ends: Vec<_> = ids.iter().filter_map(|id| self.tasks[id].end).collect();
        let good = ends.iter().filter(|end| needs.accepts(end.ok)).count();
        (good, ends.len() - good)
    }

    fn is_met(&self, part: Option<&(Needs, Vec<String>)>) -> bool {
        part.is_none_or(|(needs, ids)| {
            let (good, _) = self.ends(needs, ids);
            if needs.all {
                good == ids.len()
            } else {
                good > 0
            }
        })
    }

    fn is_unreachable(&self, part: Option<&(Needs, Vec<String>)>) -> bool {
        part.is_some_and(|(needs, ids)| {
            let (_, bad) = self.ends(needs, ids);
            if needs.all { bad > 0 } else { bad == ids.len() }
        })
    }

    /// The engines that a task may have, with what is known of its dependencies; none for any.
    fn allowed(&self, task: &Task) -> Option<BTreeSet<usize>> {
        let stayed = |engine: usize, since: usize| {
            self.places[engine] != Place::Away && self.came[engine] < since
        };
        let targets = task.targets.as_ref().map(|targets| {
            let targets = targets.iter().copied();
            targets
                .filter(|engine| stayed(*engine, task.submitted))
                .collect::<BTreeSet<_>>()
        });
        let Some((needs, ids)) = &task.follow else {
            return targets;
        };
        let ends = ids.iter().filter_map(|id| self.tasks[id].end);
        let engines: Vec<Option<usize>> = ends
            .filter(|end| needs.accepts(end.ok))
            .map(|end| {
                end.engine.filter(|engine| {
                    stayed(*engine, end.step.max(task.submitted))
                        && targets
                            .as_ref()
                            .is_none_or(|targets| targets.contains(engine))
                })
            })
            .collect();
        let followed: BTreeSet<usize> = engines.iter().copied().flatten().collect();
        if needs.all {
            if engines.is_empty() {
                return targets;
            }
            let one = followed.len() == 1 && !engines.contains(&None);
            return Some(if one { followed } else { BTreeSet::new() });
        }
        let open = ids.iter().any(|id| self.tasks[id].end.is_none());
        if followed.is_empty() && open {
            return targets;
        }
        Some(followed)
    }

    /// Whether nothing can come for a task that waits.
    fn is_hopeless(&self, task: &Task) -> bool {
        if self.is_unreachable(task.after.as_ref()) || self.is_unreachable(task.follow.as_ref()) {
            return true;
        }
        let allowed = self.allowed(task);
        if allowed.as_ref().is_some_and(BTreeSet::is_empty) {
            return true;
        }
        if !self.is_met(task.after.as_ref()) || !self.is_met(task.follow.as_ref()) {
            return false;
        }
        let may_follow_more = task.follow.as_ref().is_some_and(|(needs, ids)| {
            !needs.all && ids.iter().any(|id| self.tasks[id].end.is_none())
        });
        match allowed {
            _ if may_follow_more => false,
            Some(allowed) => allowed.is_subset(&task.refused),
            None => {
                let present = self.present();
                task.timeout.is_none() && !present.is_empty() && present.is_subset(&task.refused)
            }
        }
    }

    fn ended(&mut self, msg_id: &str, ok: bool, engine: Option<usize>) {
        let step = self.step;
        let task = self.tasks.get_mut(msg_id).unwrap();
        assert!(task.end.is_none(), "{msg_id} ends twice");
        task.end = Some(End { ok, engine, step });
        task.running = None;
    }

    /// Looks at everything that the scheduler asked for.
    fn look(&mut self) {
        for action in std::mem::take(&mut self.world.out) {
            match action {
                TaskAction::Dispatch {
                    job,
                    engine,
                    resend,
                } => {
                    let msg_id = self.world.scheduler.msg_id(job).unwrap().to_owned();
                    self.dispatched(&msg_id, number(&engine), resend);
                }
                TaskAction::Fail {
                    client,
                    job_payload,
                    engine,
                    error,
                } => {
                    let msg_id = job_payload.msg_id().to_owned();
                    assert_eq!(client, identity(&self.tasks[&msg_id].client));
                    self.failed(&msg_id, engine.as_ref().map(number), &error);
                }
            }
        }
        for (msg_id, task) in &self.tasks {
            if task.end.is_none() && task.running.is_none() {
                assert!(!self.is_hopeless(task), "{msg_id} waits for nothing");
                let late = task
                    .timeout
                    .zip(task.waits_since)
                    .is_some_and(|(timeout, since)| since + timeout < self.world.now);
                assert!(!late, "{msg_id} should have timed out");
            }
        }
    }

    fn dispatched(&mut self, msg_id: &str, engine: usize, resend: bool) {
        let task = &self.tasks[msg_id];
        assert!(task.end.is_none() && task.running.is_none(), "{msg_id}");
        assert_eq!(self.places[engine], Place::Here);
        assert!(self.held[engine].len() < self.hwm, "high water mark");
        assert!(self.is_met(task.after.as_ref()), "{msg_id} is too early");
        assert!(self.is_met(task.follow.as_ref()), "{msg_id} is too early");
        let allowed = self.allowed(task);
        assert!(allowed.is_none_or(|allowed| allowed.contains(&engine)));
        assert!(!task.refused.contains(&engine), "{engine} refused {msg_id}");
        assert_eq!(resend, task.had.contains(&engine));
        self.held[engine].insert(msg_id.to_owned());
        self.inboxes[engine].push(msg_id.to_owned());
        let task = self.tasks.get_mut(msg_id).unwrap();
        task.had.insert(engine);
        task.running = Some(engine);
        task.waits_since = None;
    }

    fn failed(&mut self, msg_id: &str, engine: Option<usize>, error: &TaskError) {
        let task = &self.tasks[msg_id];
        assert!(task.running.is_none() || matches!(error, TaskError::Duplicate(_)));
        match error {
            TaskError::Duplicate(_) => {
                assert!(task.end.is_none());
                return;
            }
            TaskError::Aborted => assert!(task.aborted),
            TaskError::Timeout { limit: timeout, .. } => {
                assert_eq!(task.timeout, Some(*timeout));
                assert!(task.waits_since.unwrap() + *timeout <= self.world.now);
            }
            TaskError::Impossible(_) => {
                assert!(self.is_hopeless(task), "{msg_id} might have run: {error}");
            }
            TaskError::AnswerLost { .. } => assert!(task.retries == 0 || task.aborted),
            TaskError::EngineDied { .. } => {
                let restricted = task.targets.is_some() || task.follow.is_some();
                assert!(task.retries == 0 || task.aborted || restricted);
            }
            TaskError::Invalid(_) | TaskError::BadRequest(_) => panic!("{error}"),
        }
        self.ended(msg_id, false, engine);
    }

    fn act(&mut self, op: &Op) {
        self.step += 1;
        match op {
            Op::Submit { .. } | Op::SubmitAgain { .. } => self.submit(op),
            Op::Register(engine) => {
                if self.places[*engine] == Place::Away {
                    self.came[*engine] = self.step;
                }
                self.recollect(*engine, usize::MAX);
            }
            Op::Expect(engine) => {
                if self.places[*engine] == Place::Away {
                    self.came[*engine] = self.step;
                    self.places[*engine] = Place::Expected;
                }
                self.world.expect(&name(*engine));
            }
            Op::Recollect { engine, nth } => self.recollect(*engine, *nth),
            Op::Gone(engine) => self.gone(*engine),
            Op::Answer { message, outcome } => {
                if let Some((engine, msg_id)) = self.message(*message) {
                    self.answer(engine, &msg_id, *outcome);
                }
            }
            Op::Return { message } => {
                if let Some((engine, msg_id)) = self.message(*message) {
                    let was_held = self.held[engine].remove(&msg_id);
                    let task = self.tasks.get_mut(&msg_id).unwrap();
                    let runs = was_held && task.running == Some(engine);
                    if runs {
                        task.running = None;
                        task.waits_since = Some(self.world.now);
                    }
                    assert_eq!(self.world.returned(&name(engine), &msg_id), runs);
                }
            }
            Op::LoseAnswer { message } => {
                if let Some((engine, msg_id)) = self.message(*message) {
                    let was_held = self.held[engine].remove(&msg_id);
                    let task = self.tasks.get_mut(&msg_id).unwrap();
                    if was_held && task.running == Some(engine) {
                        task.running = None;
                        task.waits_since = Some(self.world.now);
                        let is_tried_again = task.retries > 0 && !task.aborted;
                        self.world.answer_lost(&name(engine), &msg_id);
                        if is_tried_again {
                            self.tasks.get_mut(&msg_id).unwrap().retries -= 1;
                        } else {
                            self.look();
                            assert!(self.tasks[&msg_id].end.is_some());
                        }
                    } else {
                        self.world.answer_lost(&name(engine), &msg_id);
                    }
                }
            }
            Op::Lie { engine, task } => {
                if let Some(msg_id) = self.order.get(task % self.order.len().max(1)).cloned() {
                    let lost = self.tasks[&msg_id].lost.contains(engine);
                    if !self.held[*engine].contains(&msg_id) && !lost {
                        self.world.unknown(&name(*engine), &msg_id);
                        assert!(self.world.out.is_empty());
                    }
                }
            }
            Op::Abort { tasks } => {
                let ids: Vec<_> = tasks
                    .iter()
                    .filter_map(|task| self.order.get(task % self.order.len().max(1)))
                    .cloned()
                    .collect();
                for msg_id in &ids {
                    self.tasks.get_mut(msg_id).unwrap().aborted = true;
                }
                let ids: Vec<_> = ids.iter().map(String::as_str).collect();
                self.world.abort(&ids);
                // Those that wait end as aborted, not as impossible.
                self.look();
                for msg_id in ids {
                    let task = &self.tasks[msg_id];
                    assert!(task.end.is_some() || task.running.is_some());
                }
            }
            Op::Pass { millis } => {
                let end = self.world.now + Duration::from_millis(u64::from(*millis));
                while let Some(deadline) = self.world.scheduler.next_deadline()
                    && deadline <= end
                {
                    self.world.pass((deadline - self.world.now).as_secs_f64());
                    self.look();
                }
                self.world.now = end;
            }
        }
        self.look();
    }

    fn submit(&mut self, op: &Op) {
        let mut task = Task {
            client: "c0".to_owned(),
            submitted: self.step,
            waits_since: Some(self.world.now),
            ..Task::default()
        };
        let mut metadata = json!({});
        let mut taken_over = None;
        let msg_id = match op {
            Op::Submit {
                client,
                targets,
                after,
                follow,
                retries,
                timeout,
                at,
            } => {
                taken_over = *at;
                task.client = format!("c{client}");
                let named: Vec<_> = (0..ENGINES)
                    .filter(|engine| targets >> engine & 1 == 1)
                    .collect();
                let there = named.iter().copied();
                let there = there.filter(|engine| self.places[*engine] != Place::Away);
                task.targets = (!named.is_empty()).then(|| there.collect());
                let targets: Vec<_> = named.into_iter().map(name).collect();
                task.retries = *retries;
                task.timeout = (*timeout > 0).then(|| Duration::from_millis(u64::from(*timeout)));
                let named = |needs: &Option<Needs>| {
                    let needs = needs.clone()?;
                    let newest_first: Vec<_> = self.order.iter().rev().collect();
                    let ids: BTreeSet<_> = needs
                        .back
                        .iter()
                        .filter_map(|back| newest_first.get(*back))
                        .map(|id| (*id).clone())
                        .collect();
                    (!ids.is_empty()).then(|| (needs, ids.into_iter().collect::<Vec<_>>()))
                };
                (task.after, task.follow) = (named(after), named(follow));
                let json_of = |part: &Option<(Needs, Vec<String>)>| {
                    part.as_ref().map(|(needs, ids)| needs.json(ids))
                };
                metadata = json!({
                    "targets": targets,
                    "after": json_of(&task.after),
                    "follow": json_of(&task.follow),
                    "retries": retries,
                    "timeout": f64::from(*timeout) / 1000.0,
                });
                let msg_id = format!("t{}", self.order.len());
                self.order.push(msg_id.clone());
                msg_id
            }
            Op::SubmitAgain { id } => format!("r{id}"),
            _ => unreachable!(),
        };
        let client = task.client.clone();
        let is_live = self
            .tasks
            .get(&msg_id)
            .is_some_and(|task| task.end.is_none());
        if !is_live {
            self.tasks.insert(msg_id.clone(), task);
        }
        let Some(engine) = taken_over else {
            return self.world.submit_as(&client, &msg_id, &metadata);
        };
        self.world
            .take_over(&client, &msg_id, &metadata, &name(engine));
        let status = self.world.scheduler.status(&msg_id);
        if self.places[engine] == Place::Expected
            && status == Some(TaskStatus::Running(name(engine).as_str().into()))
        {
            let task = &self.tasks[&msg_id];
            assert!(self.is_met(task.after.as_ref()) && self.is_met(task.follow.as_ref()));
            self.held[engine].insert(msg_id.clone());
            self.inboxes[engine].push(msg_id.clone());
            let task = self.tasks.get_mut(&msg_id).unwrap();
            task.had.insert(engine);
            task.running = Some(engine);
            task.waits_since = None;
        } else if self.places[engine] == Place::Expected && self.world.scheduler.is_live(&msg_id) {
            let task = self.tasks.get_mut(&msg_id).unwrap();
            task.had.insert(engine);
            task.lost.insert(engine);
        }
    }

    fn recollect(&mut self, engine: usize, nth: usize) {
        match self.places[engine] {
            Place::Away => self.came[engine] = self.step,
            Place::Here => return self.world.register(&name(engine)),
            Place::Expected => {}
        }
        let ids: Vec<_> = self.held[engine].iter().cloned().collect();
        let forgotten: Vec<_> = ids.into_iter().skip(nth - 1).step_by(nth).collect();
        for msg_id in &forgotten {
            self.held[engine].remove(msg_id);
            let now = self.world.now;
            let task = self.tasks.get_mut(msg_id).unwrap();
            if task.running == Some(engine) {
                task.running = None;
                task.waits_since = Some(now);
                task.lost.insert(engine);
            }
        }
        let has: Vec<String> = self.held[engine].iter().cloned().collect();
        let has: Vec<&str> = has.iter().map(String::as_str).collect();
        self.world.recollect(&name(engine), &has);
        self.look();
        self.places[engine] = Place::Here;
        self.world.register(&name(engine));
    }

    fn gone(&mut self, engine: usize) {
        if self.places[engine] == Place::Away {
            self.world.gone(&name(engine));
            return;
        }
        let never_came = self.places[engine] == Place::Expected;
        self.places[engine] = Place::Away;
        let now = self.world.now;
        let mut ran = Vec::new();
        for msg_id in std::mem::take(&mut self.held[engine]) {
            let task = self.tasks.get_mut(&msg_id).unwrap();
            if task.running == Some(engine) {
                task.running = None;
                task.waits_since = Some(now);
                ran.push((msg_id, task.retries, task.aborted));
            }
        }
        self.world.gone(&name(engine));
        let died: BTreeSet<_> = self
            .world
            .out
            .iter()
            .filter_map(|action| match action {
                TaskAction::Fail {
                    job_payload,
                    error: TaskError::EngineDied { .. },
                    ..
                } => Some(job_payload.msg_id().to_owned()),
                _ => None,
            })
            .collect();
        for (msg_id, retries, aborted) in ran {
            if died.contains(&msg_id) {
                continue;
            }
            let task = self.tasks.get_mut(&msg_id).unwrap();
            task.lost.insert(engine);
            if !never_came {
                assert!(retries > 0 && !aborted);
                task.retries -= 1;
            }
        }
    }

    /// A message that an engine has, gone or not.
    fn message(&mut self, choice: usize) -> Option<(usize, String)> {
        let count: usize = self.inboxes.iter().map(Vec::len).sum();
        let mut at = choice.checked_rem(count)?;
        for (engine, inbox) in self.inboxes.iter_mut().enumerate() {
            if at < inbox.len() {
                return Some((engine, inbox.remove(at)));
            }
            at -= inbox.len();
        }
        None
    }

    fn answer(&mut self, engine: usize, msg_id: &str, outcome: Outcome) {
        let was_held = self.held[engine].remove(msg_id);
        let task = self.tasks.get_mut(msg_id).unwrap();
        let live = task.end.is_none();
        let holds = was_held && live && task.running == Some(engine);
        let late = !was_held && live && task.lost.contains(&engine);
        let (was_running, retries, aborted) = (task.running, task.retries, task.aborted);
        let now = self.world.now;
        if holds {
            task.running = None;
        } else if late {
            task.lost.remove(&engine);
        }
        if (holds || late) && outcome == Outcome::Unmet {
            task.refused.insert(engine);
        }
        if holds {
            task.waits_since = Some(now);
        }
        let client = identity(&task.client);
        let verdict = self.world.reply(&name(engine), msg_id, outcome);
        let expected = match outcome {
            _ if !holds && !late => Verdict::Unknown,
            Outcome::Ok | Outcome::Aborted => Verdict::Deliver { client },
            Outcome::Failed if holds && (retries == 0 || aborted) => Verdict::Deliver { client },
            Outcome::Failed | Outcome::Unmet => Verdict::Requeued,
        };
        assert_eq!(verdict, expected);
        if let Verdict::Deliver { .. } = verdict {
            self.ended(msg_id, outcome == Outcome::Ok, Some(engine));
        } else if holds && outcome == Outcome::Failed {
            self.tasks.get_mut(msg_id).unwrap().retries -= 1;
        } else if late && let Some(elsewhere) = was_running {
            assert!(self.held[elsewhere].contains(msg_id));
        }
    }

    /// With engines that do their work, every task comes to its end and nothing is left.
    fn finish(&mut self) {
        for engine in 0..ENGINES {
            self.act(&Op::Register(engine));
        }
        for _ in 0..10_000 {
            if self.inboxes.iter().all(Vec::is_empty) {
                self.act(&Op::Pass { millis: 1000 });
                if self.inboxes.iter().all(Vec::is_empty) {
                    break;
                }
            }
            self.act(&Op::Answer {
                message: 0,
                outcome: Outcome::Ok,
            });
        }
        for (msg_id, task) in &self.tasks {
            assert!(task.end.is_some(), "{msg_id} never ended: {task:?}");
        }
        let scheduler = &self.world.scheduler;
        assert_eq!(scheduler.jobs.len(), 0);
        assert_eq!(scheduler.edges.len(), 0);
        assert_eq!(scheduler.next_deadline(), None);
        assert!(scheduler.queues.is_idle());
        assert!(
            scheduler
                .snapshot()
                .engines
                .iter()
                .all(|load| load.pending == 0)
        );
    }
}

fn scheme() -> impl Strategy<Value = Scheme> {
    prop_oneof![
        4 => Just(Scheme::LeastLoad),
        1 => prop::sample::select(&Scheme::ALL[..]),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_task_ends_once_and_no_rule_is_broken(
        scheme in scheme(),
        hwm in 0..4_u32,
        seed: u64,
        ops in prop::collection::vec(op(), 1..150),
    ) {
        let mut model = Model::new(TaskConfig { seed, ..config(scheme, hwm) });
        for op in &ops {
            model.act(op);
        }
        model.finish();
    }
}

//! The scheduler under test, with invented time and a short notation for what it does.

mod deaths;
mod dependencies;
mod graphs;
mod original;
mod queueing;
mod retries;
mod sanity;
mod scale;
mod schemes;
mod simulation;
mod takeover;

use std::time::Duration;

use serde_json::{Value, json};

use super::*;
use crate::scheduler::Scheme;

impl Payload for String {
    fn msg_id(&self) -> &str {
        self.strip_prefix("frames of ").unwrap_or(self)
    }
}

/// A scheduler, the time, and what the scheduler asked for since it was last looked at.
struct World {
    scheduler: TaskScheduler<String>,
    now: Instant,
    out: Vec<TaskAction<String>>,
}

fn config(scheme: Scheme, hwm: u32) -> TaskConfig {
    TaskConfig {
        scheme,
        hwm,
        ..TaskConfig::default()
    }
}

fn identity(name: &str) -> Identity {
    Identity::from(name.as_bytes())
}

impl World {
    fn new(config: TaskConfig) -> Self {
        Self {
            scheduler: TaskScheduler::new(config),
            now: some_instant(),
            out: Vec::new(),
        }
    }

    /// With engines that take one task at a time, the first named the first to be used.
    fn with(engines: &[&str]) -> Self {
        let mut world = Self::new(TaskConfig::default());
        for engine in engines.iter().rev() {
            world.register(engine);
        }
        world
    }

    fn register(&mut self, engine: &str) {
        self.scheduler
            .on_engine_registered(self.now, engine.into(), &mut self.out);
        self.scheduler.sanity_check();
    }

    fn expect(&mut self, engine: &str) {
        self.scheduler
            .on_engine_expected(self.now, engine.into(), &mut self.out);
        self.scheduler.sanity_check();
    }

    fn gone(&mut self, engine: &str) {
        self.scheduler
            .on_engine_gone(self.now, &engine.into(), "killed", &mut self.out);
        self.scheduler.sanity_check();
    }

    fn submit_as(&mut self, client: &str, msg_id: &str, metadata: &Value) {
        let metadata = TaskMetadata::parse(metadata.to_string().as_bytes()).unwrap();
        self.scheduler.on_submit(
            self.now,
            identity(client),
            &metadata,
            format!("frames of {msg_id}"),
            &mut self.out,
        );
        self.scheduler.sanity_check();
    }

    fn take_over(&mut self, client: &str, msg_id: &str, metadata: &Value, engine: &str) {
        let metadata = TaskMetadata::parse(metadata.to_string().as_bytes()).unwrap();
        self.scheduler.on_taken_over(
            self.now,
            identity(client),
            &metadata,
            format!("frames of {msg_id}"),
            &engine.into(),
            &mut self.out,
        );
        self.scheduler.sanity_check();
    }

    fn recollect(&mut self, engine: &str, has: &[&str]) {
        let has = has.iter().map(|id| MsgId::from(*id)).collect();
        self.scheduler
            .on_recollected(self.now, &engine.into(), &has, &mut self.out);
        self.scheduler.sanity_check();
    }

    fn submit(&mut self, msg_id: &str, metadata: Value) {
        self.submit_as("client", msg_id, &metadata);
    }

    fn plain(&mut self, msg_ids: &[&str]) {
        for msg_id in msg_ids {
            self.submit(msg_id, json!({}));
        }
    }

    fn reply(&mut self, engine: &str, msg_id: &str, outcome: Outcome) -> Verdict {
        let verdict =
            self.scheduler
                .on_reply(self.now, engine.as_bytes(), msg_id, outcome, &mut self.out);
        self.scheduler.sanity_check();
        verdict
    }

    fn ok(&mut self, engine: &str, msg_id: &str) {
        assert_eq!(self.reply(engine, msg_id, Outcome::Ok), delivered());
    }

    fn failed(&mut self, engine: &str, msg_id: &str) {
        assert_eq!(self.reply(engine, msg_id, Outcome::Failed), delivered());
    }

    fn again(&mut self, engine: &str, msg_id: &str, outcome: Outcome) {
        assert_eq!(self.reply(engine, msg_id, outcome), Verdict::Requeued);
    }

    fn unknown(&mut self, engine: &str, msg_id: &str) {
        let verdict = self.reply(engine, msg_id, Outcome::Ok);
        assert_eq!(verdict, Verdict::Unknown);
    }

    fn returned(&mut self, engine: &str, msg_id: &str) -> bool {
        let known = self
            .scheduler
            .on_returned(self.now, engine.as_bytes(), msg_id, &mut self.out);
        self.scheduler.sanity_check();
        known
    }

    fn answer_lost(&mut self, engine: &str, msg_id: &str) {
        self.scheduler
            .on_answer_lost(self.now, engine.as_bytes(), msg_id, &mut self.out);
        self.scheduler.sanity_check();
    }

    fn abort(&mut self, msg_ids: &[&str]) -> usize {
        let ended = self.scheduler.on_abort(self.now, msg_ids, &mut self.out);
        self.scheduler.sanity_check();
        ended
    }

    /// Time passes; the scheduler is called as soon as it asked to be.
    fn pass(&mut self, seconds: f64) {
        let end = self.now + Duration::from_secs_f64(seconds);
        while let Some(deadline) = self.scheduler.next_deadline()
            && deadline <= end
        {
            assert!(deadline >= self.now);
            self.now = deadline;
            self.scheduler.on_time(self.now, &mut self.out);
            self.scheduler.sanity_check();
        }
        self.now = end;
    }

    /// What happened: `a > e1`, with ` again` behind it when the message is sent a second time, or `a ! TaskTimeout`,
    /// with the engine that is to blame.
    fn seen(&mut self) -> Vec<String> {
        let Self { scheduler, out, .. } = self;
        out.drain(..)
            .map(|action| match action {
                TaskAction::Dispatch {
                    job,
                    engine,
                    resend,
                } => {
                    let msg_id = scheduler.msg_id(job).unwrap();
                    let payload = scheduler.payload(job).unwrap();
                    assert_eq!(*payload, format!("frames of {msg_id}"));
                    let again = if resend { " again" } else { "" };
                    format!("{msg_id} > {engine}{again}")
                }
                TaskAction::Fail {
                    job_payload,
                    engine,
                    error,
                    ..
                } => {
                    let msg_id = job_payload.msg_id();
                    let ename = error.to_remote_error().ename;
                    match engine {
                        Some(engine) => format!("{msg_id} ! {ename} {engine}"),
                        None => format!("{msg_id} ! {ename}"),
                    }
                }
            })
            .collect()
    }

    /// The text of the one failure that happened.
    fn why(&mut self) -> String {
        let [TaskAction::Fail { error, .. }] = &self.out[..] else {
            panic!("{:?}", self.out);
        };
        let why = error.to_remote_error().evalue;
        self.out.clear();
        why
    }

    fn pending(&self, engine: &str) -> Vec<String> {
        let ids = self.scheduler.pending_ids(&engine.into());
        ids.iter().map(ToString::to_string).collect()
    }
}

fn delivered() -> Verdict {
    Verdict::Deliver {
        client: identity("client"),
    }
}

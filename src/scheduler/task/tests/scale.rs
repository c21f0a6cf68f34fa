//! Large numbers, and what is left behind by them. Nothing here looks at a clock: what is not flat takes too long to
//! be overlooked. `measure` (`cargo test --release --lib scheduler -- --ignored --nocapture`) prints times.

// The generator is seeded by an argument; under its own name it looks like one that is not.
use fastrand::Rng;

use super::*;

type Bare = TaskScheduler<String>;

struct Bulk {
    scheduler: Bare,
    now: Instant,
    out: Vec<TaskAction<String>>,
}

impl Bulk {
    fn new(config: TaskConfig, engines: usize) -> Self {
        let mut bulk = Self {
            scheduler: TaskScheduler::new(config),
            now: some_instant(),
            out: Vec::new(),
        };
        for n in 0..engines {
            bulk.register(n);
        }
        bulk
    }

    fn register(&mut self, n: usize) {
        let engine = EngineUuid::from(uuid(n));
        self.scheduler
            .on_engine_registered(self.now, engine, &mut self.out);
    }

    fn submit(&mut self, msg_id: &str, metadata: &TaskMetadata) {
        let client = identity("client");
        self.scheduler
            .on_submit(self.now, client, metadata, msg_id.to_owned(), &mut self.out);
    }

    fn reply(&mut self, engine: &str, msg_id: &str, outcome: Outcome) -> Verdict {
        self.scheduler
            .on_reply(self.now, engine.as_bytes(), msg_id, outcome, &mut self.out)
    }

    /// Everything that was sent out, as (msg_id, engine), and the number of failures.
    fn taken(&mut self) -> (Vec<(String, EngineUuid)>, usize) {
        let mut failures = 0;
        let mut sent = Vec::new();
        for action in self.out.drain(..) {
            match action {
                TaskAction::Dispatch { job, engine, .. } => {
                    sent.push((self.scheduler.msg_id(job).unwrap().to_owned(), engine));
                }
                TaskAction::Fail { .. } => failures += 1,
            }
        }
        (sent, failures)
    }

    /// Engines answer whatever they are sent, until nothing moves. In the order in which things were sent.
    fn run(&mut self, mut outcome: impl FnMut(&str) -> Outcome) -> (Vec<String>, usize) {
        let (mut order, mut failed) = (Vec::new(), 0);
        loop {
            let (sent, failures) = self.taken();
            failed += failures;
            if sent.is_empty() {
                return (order, failed);
            }
            for (msg_id, engine) in sent {
                let outcome = outcome(&msg_id);
                assert_ne!(
                    self.reply(engine.as_str(), &msg_id, outcome),
                    Verdict::Unknown
                );
                order.push(msg_id);
            }
        }
    }

    fn assert_nothing_is_left(&self) {
        let scheduler = &self.scheduler;
        assert_eq!(scheduler.jobs.len(), 0);
        assert!(scheduler.queues.is_idle());
        assert!(scheduler.deadlines.len() == 0);
        assert!(scheduler.jobs.bytes() < 256 << 10);
        assert!(scheduler.edges.bytes() < 64 << 10);
        assert!(scheduler.live.bytes() < 64 << 10);
        scheduler.sanity_check();
    }
}

fn uuid(n: usize) -> String {
    format!("e49c1d4a-55fe2c3a1b0f9f87c0d8{n:04}")
}

fn id(n: usize) -> String {
    format!("6f1c24c0-5a1cbd6d3ef5f5e0b9bd_31337_{n}")
}

fn after(ids: &[String]) -> TaskMetadata {
    TaskMetadata {
        after: Some(json!(ids)),
        ..TaskMetadata::default()
    }
}

#[test]
fn a_long_chain_fails_to_its_end() {
    const LENGTH: usize = 100_000;
    for abort in [true, false] {
        let mut bulk = Bulk::new(TaskConfig::default(), usize::from(!abort));
        bulk.submit(&id(0), &TaskMetadata::default());
        for n in 1..LENGTH {
            bulk.submit(&id(n), &after(&[id(n - 1)]));
        }
        if abort {
            let ended = bulk.scheduler.on_abort(bulk.now, &[&id(0)], &mut bulk.out);
            assert_eq!(ended, 1);
            assert_eq!(bulk.taken().1, LENGTH);
        } else {
            bulk.taken();
            bulk.reply(&uuid(0), &id(0), Outcome::Failed);
            assert_eq!(bulk.taken().1, LENGTH - 1);
        }
        bulk.assert_nothing_is_left();
    }
}

#[test]
fn one_for_many_and_many_for_one() {
    const MANY: usize = 30_000;
    let mut bulk = Bulk::new(TaskConfig::default(), 3);
    bulk.submit("first", &TaskMetadata::default());
    for n in 0..MANY {
        bulk.submit(&id(n), &after(&["first".to_owned()]));
    }
    let all: Vec<_> = (0..MANY).map(id).collect();
    bulk.submit("last", &after(&all));
    bulk.submit(
        "any",
        &TaskMetadata {
            after: Some(json!({"dependencies": all, "all": false})),
            ..TaskMetadata::default()
        },
    );
    let (order, failed) = bulk.run(|_| Outcome::Ok);
    assert_eq!((order.len(), failed), (MANY + 3, 0));
    assert_eq!(order[MANY + 1], "any", "in the order of submission");
    assert_eq!(order[MANY + 2], "last");
    bulk.assert_nothing_is_left();
}

#[test]
fn a_waiting_task_takes_less_than_300_bytes() {
    const TASKS: usize = 100_000;
    let mut bulk = Bulk::new(TaskConfig::default(), 0);
    for n in 0..TASKS {
        bulk.submit(&id(n), &TaskMetadata::default());
    }
    // A node of the lane's map holds 11 entries, or 6 where it was split; everything with what an allocator adds. The
    // frames lie in one more allocation, with some bytes before them.
    const ALLOCATION: usize = 16;
    let node = |entry: usize| (11 * entry + 16 + ALLOCATION).div_ceil(6);
    let lane = node(size_of::<u64>() + size_of::<JobIx>());
    let indices = bulk.scheduler.live.bytes().div_ceil(TASKS);
    let jobs = bulk.scheduler.jobs.bytes().div_ceil(TASKS);
    let frames = ALLOCATION + 20;
    let bytes = jobs + indices + lane + frames;
    assert!(
        bytes < 200,
        "{jobs} + {indices} + {lane} + {frames} = {bytes}"
    );

    let terms = size_of::<Terms>() + ALLOCATION;
    let deadline = node(size_of::<(Nanos, JobIx)>());
    assert!(
        bytes + terms + deadline < 300,
        "{bytes} + {terms} + {deadline}"
    );
    assert!(size_of::<Edge>() + 4 <= 32);
    bulk.register(0);
    let (order, failed) = bulk.run(|_| Outcome::Ok);
    assert_eq!((order.len(), failed), (TASKS, 0));
    assert!(order.iter().enumerate().all(|(n, msg_id)| *msg_id == id(n)));
    bulk.assert_nothing_is_left();
}

#[test]
fn nothing_grows_with_the_number_of_tasks_that_have_ended() {
    let mut bulk = Bulk::new(
        TaskConfig {
            finished_limit: 1000,
            ..TaskConfig::default()
        },
        4,
    );
    let mut sizes = Vec::new();
    for n in 0..60_000 {
        let metadata = match n % 5 {
            0 => TaskMetadata {
                targets: Some(json!([uuid(n % 4), uuid((n + 1) % 4)])),
                timeout: Some(json!(1.5)),
                retries: Some(json!(1)),
                ..TaskMetadata::default()
            },
            1 => after(&[id(n - 1)]),
            _ => TaskMetadata::default(),
        };
        let client = Identity::from(format!("client {}", n / 50).as_bytes());
        bulk.scheduler
            .on_submit(bulk.now, client, &metadata, id(n), &mut bulk.out);
        if n % 10 == 9 {
            bulk.run(|msg_id| {
                if msg_id.ends_with('3') {
                    Outcome::Failed
                } else {
                    Outcome::Ok
                }
            });
        }
        if n % 20_000 == 19_999 {
            let scheduler = &bulk.scheduler;
            sizes.push([
                scheduler.jobs.bytes(),
                scheduler.edges.bytes(),
                scheduler.live.bytes(),
                scheduler.finished.bytes(),
            ]);
        }
    }
    assert_eq!(sizes[1], sizes[0]);
    assert_eq!(sizes[2], sizes[0]);
    bulk.assert_nothing_is_left();
}

#[test]
fn one_task_does_not_wait_for_all_that_another_client_has_queued() {
    const FLOOD: usize = 100_000;
    let mut bulk = Bulk::new(TaskConfig::default(), 1);
    for n in 0..FLOOD {
        bulk.submit(&id(n), &TaskMetadata::default());
    }
    bulk.taken();
    let small = identity("small");
    let single = "single".to_owned();
    let plain = TaskMetadata::default();
    bulk.scheduler
        .on_submit(bulk.now, small, &plain, single, &mut bulk.out);
    bulk.reply(&uuid(0), &id(0), Outcome::Ok);
    let (sent, _) = bulk.taken();
    assert_eq!(sent[0].0, "single");
}

/// Distinct sets of targets for every task, far more tasks than engines: an engine finds its own.
#[test]
fn many_sets_of_targets() {
    const ENGINES: usize = 200;
    const TASKS: usize = 20_000;
    let mut random = Rng::with_seed(7);
    let mut bulk = Bulk::new(TaskConfig::default(), ENGINES);
    let mut targets = Vec::new();
    for n in 0..TASKS {
        let own: Vec<usize> = (0..5).map(|_| random.usize(..ENGINES)).collect();
        let uuids: Vec<_> = own.iter().map(|n| uuid(*n)).collect();
        bulk.submit(
            &id(n),
            &TaskMetadata {
                targets: Some(json!(uuids)),
                ..TaskMetadata::default()
            },
        );
        targets.push(uuids);
    }
    let mut done = 0;
    loop {
        let (sent, failed) = bulk.taken();
        assert_eq!(failed, 0);
        if sent.is_empty() {
            break;
        }
        for (msg_id, engine) in sent {
            let n: usize = msg_id.rsplit('_').next().unwrap().parse().unwrap();
            assert!(targets[n].iter().any(|uuid| uuid == engine.as_str()));
            bulk.reply(engine.as_str(), &msg_id, Outcome::Ok);
            done += 1;
        }
    }
    assert_eq!(done, TASKS);
    bulk.assert_nothing_is_left();
}

/// One engine refuses everything while the others are busy: what it has refused is not in its way.
#[test]
fn an_engine_that_refuses_everything() {
    const TASKS: usize = 20_000;
    let mut bulk = Bulk::new(TaskConfig::default(), 2);
    let long = TaskMetadata {
        targets: Some(json!([uuid(1)])),
        ..TaskMetadata::default()
    };
    bulk.submit("long", &long);
    for n in 0..TASKS {
        bulk.submit(&id(n), &TaskMetadata::default());
    }
    bulk.out.clear();
    for n in 0..TASKS {
        assert_eq!(
            bulk.reply(&uuid(0), &id(n), Outcome::Unmet),
            Verdict::Requeued
        );
    }
    bulk.out.clear();
    bulk.reply(&uuid(1), "long", Outcome::Ok);
    let (order, failed) = bulk.run(|_| Outcome::Ok);
    assert_eq!((order.len(), failed), (TASKS, 0));
    bulk.assert_nothing_is_left();
}

/// Prints nanoseconds for a submission that finds no room, for a reply that makes room for the next task, and for a
/// task that is submitted, dispatched at once and answered. Medians of batches, since other programs run as well.
#[test]
#[ignore = "prints times; for optimized builds"]
fn measure() {
    println!("scheme       engines    queued  submit  reply+dispatch  all at once");
    for scheme in Scheme::ALL {
        for engines in [4, 1000] {
            for queued in [10, 100_000, 1_000_000] {
                let times = measure_one(scheme, engines, queued);
                let [submit, reply, idle] = times.map(|mut times| {
                    times.sort_unstable();
                    times[times.len() / 2].as_nanos() / BATCH as u128
                });
                let scheme = scheme.to_string();
                println!("{scheme:12} {engines:7} {queued:9} {submit:7} {reply:15} {idle:12}");
            }
        }
    }
}

const BATCH: usize = 1000;
const BATCHES: usize = 200;

fn measure_one(scheme: Scheme, engines: usize, queued: usize) -> [Vec<Duration>; 3] {
    let mut bulk = Bulk::new(config(scheme, 1), engines);
    let ids: Vec<String> = (0..engines + queued + BATCH * BATCHES).map(id).collect();
    let plain = TaskMetadata::parse(
        br#"{"after": [], "follow": [], "timeout": null, "targets": [], "retries": 0, "label": null}"#,
    )
    .unwrap();
    let (waiting, fresh) = ids.split_at(engines + queued);
    for msg_id in waiting {
        bulk.submit(msg_id, &plain);
    }
    let mut sent = VecDeque::new();
    let mut next = 0..;
    let mut collect = |bulk: &mut Bulk, sent: &mut VecDeque<(EngineUuid, usize)>| {
        for action in bulk.out.drain(..) {
            if let TaskAction::Dispatch { engine, .. } = action {
                sent.extend(next.next().map(|n| (engine, n)));
            }
        }
    };
    collect(&mut bulk, &mut sent);
    let [mut submits, mut replies, mut idles] = [const { Vec::new() }; 3];
    for batch in fresh.chunks(BATCH) {
        let start = some_instant();
        for msg_id in batch {
            bulk.submit(msg_id, &plain);
        }
        submits.push(start.elapsed());
        collect(&mut bulk, &mut sent);
        let start = some_instant();
        for _ in batch {
            if let Some((engine, n)) = sent.pop_front() {
                bulk.reply(engine.as_str(), &ids[n], Outcome::Ok);
                collect(&mut bulk, &mut sent);
            }
        }
        replies.push(start.elapsed());
    }
    while let Some((engine, n)) = sent.pop_front() {
        bulk.reply(engine.as_str(), &ids[n], Outcome::Ok);
        collect(&mut bulk, &mut sent);
    }
    bulk.assert_nothing_is_left();
    for batch in fresh.chunks(BATCH) {
        let start = some_instant();
        for msg_id in batch {
            bulk.submit(msg_id, &plain);
            if let Some(TaskAction::Dispatch { engine, .. }) = bulk.out.pop() {
                bulk.reply(engine.as_str(), msg_id, Outcome::Ok);
            }
        }
        idles.push(start.elapsed());
    }
    [submits, replies, idles]
}

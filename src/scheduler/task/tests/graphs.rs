//! Large random graphs. When all is over, what became of each task must follow from what became of those that it needed.

// The generator is seeded by an argument; under its own name it looks like one that is not.
use fastrand::Rng;

use super::*;

const NODES: usize = 100_000;
const ENGINES: usize = 50;
/// Tasks depend on some of so many that came before them.
const REACH: usize = 5_000;

#[derive(Clone, Debug)]
struct Needs {
    on: Vec<usize>,
    all: bool,
    success: bool,
    failure: bool,
}

/// What became of a task; steps count everything that happens.
#[derive(Clone, Copy, Debug)]
struct Course {
    /// Where it ran, and since when; none if the scheduler ended it.
    ran: Option<(usize, u64)>,
    ok: bool,
    ended: u64,
}

struct Graph {
    scheduler: TaskScheduler<String>,
    now: Instant,
    out: Vec<TaskAction<String>>,
    random: Rng,
    after: Vec<Option<Needs>>,
    follow: Vec<Option<Needs>>,
    /// On engines: task, engine, and since when.
    running: Vec<(usize, usize, u64)>,
    courses: Vec<Option<Course>>,
    step: u64,
}

impl Needs {
    fn random(random: &mut Rng, own: usize) -> Option<Self> {
        let first = own.saturating_sub(REACH);
        if first == own {
            return None;
        }
        let on: Vec<usize> = (0..random.usize(1..4))
            .map(|_| random.usize(first..own))
            .collect();
        let (success, failure) = match random.usize(..8) {
            0 => (false, true),
            1 | 2 => (true, true),
            _ => (true, false),
        };
        Some(Self {
            on,
            all: random.bool(),
            success,
            failure,
        })
    }

    fn json(&self) -> Value {
        let ids: Vec<_> = self.on.iter().map(ToString::to_string).collect();
        json!({"dependencies": ids, "all": self.all, "success": self.success, "failure": self.failure})
    }

    fn accepts(&self, course: &Course) -> bool {
        if course.ok {
            self.success
        } else {
            self.failure
        }
    }
}

impl Graph {
    fn submit(&mut self) {
        let own = self.after.len();
        let after = Some(()).filter(|()| self.random.usize(..10) < 6);
        let after = after.and_then(|()| Needs::random(&mut self.random, own));
        let follow = Some(()).filter(|()| self.random.usize(..10) < 2);
        let follow = follow.and_then(|()| Needs::random(&mut self.random, own));
        let metadata = TaskMetadata {
            after: after.as_ref().map(Needs::json),
            follow: follow.as_ref().map(Needs::json),
            ..TaskMetadata::default()
        };
        self.after.push(after);
        self.follow.push(follow);
        self.courses.push(None);
        let client = identity(["one", "other"][own % 2]);
        let (now, out) = (self.now, &mut self.out);
        self.scheduler
            .on_submit(now, client, &metadata, own.to_string(), out);
        self.look();
    }

    /// One of the tasks that run ends.
    fn answer(&mut self) -> bool {
        if self.running.is_empty() {
            return false;
        }
        let chosen = self.random.usize(..self.running.len());
        let (task, engine, since) = self.running.swap_remove(chosen);
        let ok = self.random.usize(..12) > 0;
        self.step += 1;
        self.end(
            task,
            Course {
                ran: Some((engine, since)),
                ok,
                ended: self.step,
            },
        );
        let (id, engine) = (task.to_string(), format!("e{engine}"));
        let outcome = if ok { Outcome::Ok } else { Outcome::Failed };
        let (now, out) = (self.now, &mut self.out);
        let verdict = self
            .scheduler
            .on_reply(now, engine.as_bytes(), &id, outcome, out);
        assert!(matches!(verdict, Verdict::Deliver { .. }));
        self.look();
        true
    }

    fn look(&mut self) {
        for action in std::mem::take(&mut self.out) {
            self.step += 1;
            match action {
                TaskAction::Dispatch { job, engine, .. } => {
                    let task = self.scheduler.msg_id(job).unwrap().parse().unwrap();
                    let engine = engine.as_str()[1..].parse().unwrap();
                    self.running.push((task, engine, self.step));
                }
                TaskAction::Fail {
                    job_payload, error, ..
                } => {
                    assert!(matches!(error, TaskError::Impossible(_)), "{error}");
                    let course = Course {
                        ran: None,
                        ok: false,
                        ended: self.step,
                    };
                    self.end(job_payload.parse().unwrap(), course);
                }
            }
        }
    }

    fn end(&mut self, task: usize, course: Course) {
        let before = self.courses[task].replace(course);
        assert!(before.is_none(), "{task} ends twice");
    }

    fn course(&self, task: usize) -> Course {
        self.courses[task].unwrap_or_else(|| panic!("{task} never ended"))
    }

    /// Whether a need was met in the end, and when at the earliest.
    fn met(&self, needs: &Needs) -> Option<u64> {
        let courses = needs.on.iter().map(|task| self.course(*task));
        let (good, bad): (Vec<_>, Vec<_>) = courses.partition(|course| needs.accepts(course));
        let ends = good.iter().map(|course| course.ended);
        if needs.all {
            bad.is_empty().then(|| ends.max())?
        } else {
            ends.min()
        }
    }

    /// Engines where a task may have run for what it follows.
    fn followed(&self, needs: &Needs) -> Vec<usize> {
        let courses = needs.on.iter().map(|task| self.course(*task));
        let mut engines: Vec<Option<usize>> = courses
            .filter(|course| needs.accepts(course))
            .map(|course| course.ran.map(|(engine, _)| engine))
            .collect();
        engines.sort_unstable();
        engines.dedup();
        if needs.all && (engines.len() > 1 || engines.contains(&None)) {
            return Vec::new();
        }
        engines.into_iter().flatten().collect()
    }

    fn check(&self, task: usize) {
        let course = self.course(task);
        let needs = [&self.after[task], &self.follow[task]];
        let met = needs.map(|needs| needs.as_ref().map_or(Some(0), |needs| self.met(needs)));
        let engines = self.follow[task].as_ref().map(|needs| self.followed(needs));
        let possible = !met.contains(&None) && engines.as_ref().is_none_or(|some| !some.is_empty());
        assert_eq!(course.ran.is_some(), possible, "{task}: {needs:?}");
        if let Some((engine, since)) = course.ran {
            assert!(met.iter().flatten().all(|met| *met < since), "{task}");
            assert!(engines.is_none_or(|engines| engines.contains(&engine)));
        }
    }
}

#[test]
fn what_becomes_of_each_task_follows_from_what_became_of_others() {
    let config = config(Scheme::LeastLoad, 2);
    let mut graph = Graph {
        scheduler: TaskScheduler::new(config),
        now: some_instant(),
        out: Vec::new(),
        random: Rng::with_seed(1),
        after: Vec::new(),
        follow: Vec::new(),
        running: Vec::new(),
        courses: Vec::new(),
        step: 0,
    };
    for n in 0..ENGINES {
        let engine = EngineUuid::from(format!("e{n}"));
        graph
            .scheduler
            .on_engine_registered(graph.now, engine, &mut graph.out);
    }
    for _ in 0..NODES {
        graph.submit();
        // Two of three are answered while others are submitted, so that much of the graph is always live.
        if graph.random.usize(..3) > 0 {
            graph.answer();
        }
    }
    graph.scheduler.sanity_check();
    while graph.answer() {}
    (0..NODES).for_each(|task| graph.check(task));
    let never = graph
        .courses
        .iter()
        .flatten()
        .filter(|course| course.ran.is_none());
    assert!(
        (NODES / 10..NODES / 2).contains(&never.count()),
        "a fair share of each kind"
    );
    assert_eq!(graph.scheduler.jobs.len(), 0);
    assert_eq!(graph.scheduler.edges.len(), 0);
    graph.scheduler.sanity_check();
}

//! What is measured, and how.

use std::error::Error;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::clients::{Hub, Load, Queue};
use crate::controllers::{Dashboard, Programs, Server, Setup, Side};
use crate::engines::{Connections, Engines};
use crate::measure;
use crate::report::Sample;

/// How much is done.
pub(crate) struct Plan {
    pub(crate) programs: Programs,
    pub(crate) full: bool,
    /// Tasks of the soak.
    pub(crate) soak: u64,
    /// Engines of the crowd.
    pub(crate) engines: usize,
    /// Open files that this process may have, and a controller.
    pub(crate) open_files: u64,
}

pub(crate) struct Scenario {
    pub(crate) name: &'static str,
    pub(crate) sides: &'static [Side],
    /// Left out of the quick mode.
    pub(crate) slow: bool,
    /// Left out unless it is named.
    pub(crate) on_request: bool,
    pub(crate) run: fn(&Plan, Side) -> Samples,
}

type Samples = Result<Vec<Sample>, Box<dyn Error>>;

const ALL: &[Side] = &[Side::Stock, Side::Relay, Side::Ours];
const CONTROLLERS: &[Side] = &[Side::Stock, Side::Ours];
const OURS: &[Side] = &[Side::Ours];

const fn scenario(
    name: &'static str,
    sides: &'static [Side],
    run: fn(&Plan, Side) -> Samples,
) -> Scenario {
    Scenario {
        name,
        sides,
        slow: false,
        on_request: false,
        run,
    }
}

const fn slow(mut scenario: Scenario) -> Scenario {
    scenario.slow = true;
    scenario
}

const fn on_request(mut scenario: Scenario) -> Scenario {
    scenario.on_request = true;
    scenario
}

pub(crate) const SCENARIOS: &[Scenario] = &[
    scenario("tasks", ALL, tasks),
    slow(scenario("tasks-hwm0", ALL, tasks_without_limit)),
    slow(scenario("schemes", CONTROLLERS, schemes)),
    scenario("mux", ALL, mux),
    scenario("dictdb", CONTROLLERS, dictdb),
    slow(scenario("sqlitedb", CONTROLLERS, sqlitedb)),
    scenario("latency", ALL, latency),
    scenario("turns", OURS, turns),
    scenario("big", ALL, big),
    slow(scenario("payloads", ALL, payloads)),
    scenario("broadcast", CONTROLLERS, broadcast),
    slow(scenario("crowd", CONTROLLERS, crowd)),
    slow(scenario("crowd-5000", OURS, crowd_of_5000)),
    scenario("depth", OURS, depth),
    scenario("memory", OURS, memory),
    scenario("idle", CONTROLLERS, idle),
    slow(scenario("dashboard", OURS, dashboard)),
    on_request(scenario("soak", OURS, soak)),
];

const CLIENTS: usize = 2;
const WINDOW: u64 = 250;
const KB: usize = 1000;
const MB: usize = 1_000_000;
const WARM_UP: u64 = 500;
/// Engines of a stock controller register with its next beat.
const REGISTRATION_LIMIT: Duration = Duration::from_secs(60);

/// A controller with engines.
struct Cluster {
    // Dropped first: they must not mistake the controller's end for a failure.
    engines: Engines,
    hub: Option<Hub>,
    server: Server,
    /// Requests that were made to be counted by the hub.
    requests: u64,
}

/// How long it took until all engines were there.
struct Arrival {
    /// Until the last registration was answered.
    answered: Duration,
    /// From there until the last engine was announced.
    registered: Duration,
}

impl Cluster {
    fn start(
        plan: &Plan,
        side: Side,
        setup: Setup,
        engines: usize,
    ) -> Result<Self, Box<dyn Error>> {
        let server = Server::start(side, setup, &plan.programs)?;
        Ok(Self::with_engines(server, engines, Connections::All)?.0)
    }

    fn with_engines(
        server: Server,
        count: usize,
        connections: Connections,
    ) -> Result<(Self, Arrival), Box<dyn Error>> {
        let mut hub = match server.side {
            Side::Relay => None,
            Side::Ours | Side::Stock => Some(Hub::connect(&server.client)?),
        };
        if let Some(hub) = &mut hub {
            // An answer from the hub: by then the subscription to its news is there as well.
            hub.accounted()?;
            std::thread::sleep(Duration::from_millis(100));
        }
        let start = Instant::now();
        let engines = Engines::start(&server, count, connections)?;
        engines.until_answered(REGISTRATION_LIMIT)?;
        let answered = start.elapsed();
        match &mut hub {
            Some(hub) => hub.until_registered(count, REGISTRATION_LIMIT)?,
            // A relay drops what is for an engine that is still connecting.
            None => std::thread::sleep(Duration::from_millis(300)),
        }
        let registered = start.elapsed() - answered;
        let cluster = Self {
            engines,
            hub,
            server,
            requests: 0,
        };
        Ok((
            cluster,
            Arrival {
                answered,
                registered,
            },
        ))
    }

    fn load(&self, clients: usize, queue: &Queue, payload: usize) -> Result<Load, Box<dyn Error>> {
        Load::new(&self.server.client, clients, queue, payload)
    }

    fn mux(&self) -> Queue {
        Queue::Mux(
            self.engines
                .ids()
                .into_iter()
                .map(|(uuid, _)| uuid)
                .collect(),
        )
    }

    /// Waits until the hub knows of the end of `count` more requests.
    fn until_accounted(&mut self, count: u64) -> Result<(), Box<dyn Error>> {
        self.requests += count;
        let Some(hub) = &mut self.hub else {
            return Ok(());
        };
        let start = Instant::now();
        loop {
            let accounted = hub.accounted()?.0;
            if accounted >= self.requests {
                return Ok(());
            }
            if start.elapsed() > Duration::from_secs(120) {
                let requests = self.requests;
                return Err(
                    format!("the hub accounts for {accounted} of {requests} requests").into(),
                );
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// Waits until the database has the end of every request.
    fn until_stored(&mut self) -> Result<(), Box<dyn Error>> {
        let hub = self.hub.as_mut().ok_or("no hub")?;
        let unfinished = json!({"query": {"completed": null}, "keys": ["msg_id"]});
        let is_empty = |list: &Value| list.as_array().is_some_and(Vec::is_empty);
        let deadline = Instant::now() + Duration::from_secs(120);
        while !is_empty(&hub.ask("db_request", &unfinished)?["records"]) {
            if Instant::now() > deadline {
                return Err("some records are unfinished".into());
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        Ok(())
    }

    /// How many requests the database knows of.
    fn recorded(&mut self) -> Result<u64, Box<dyn Error>> {
        let hub = self.hub.as_mut().ok_or("no hub")?;
        let reply = hub.ask("history_request", &json!({}))?;
        Ok(reply["history"].as_array().map_or(0, Vec::len) as u64)
    }

    /// The longest that a report has taken until it was in the database, by the controller's own figures.
    fn longest_delay(&mut self) -> Result<Duration, Box<dyn Error>> {
        let hub = self.hub.as_mut().ok_or("no hub")?;
        let stats = hub.ask("db_stats_request", &json!({}))?;
        if stats["lost"] != 0 {
            return Err(format!("{} changes of records were lost", stats["lost"]).into());
        }
        let seconds = stats["longest_delay"].as_f64().ok_or("no longest_delay")?;
        Ok(Duration::from_secs_f64(seconds))
    }

    /// Tasks that wait for an engine.
    fn queued(&mut self) -> Result<u64, Box<dyn Error>> {
        Ok(self.hub.as_mut().ok_or("no hub")?.accounted()?.1)
    }

    /// `rest` is what is done meanwhile.
    fn until_queued(
        &mut self,
        count: u64,
        mut rest: impl FnMut(Duration) -> Result<(), Box<dyn Error>>,
    ) -> Result<(), Box<dyn Error>> {
        while self.queued()? < count {
            rest(Duration::from_millis(10))?;
        }
        Ok(())
    }

    fn cpu(&self) -> Duration {
        measure::cpu(&self.server.pids())
    }

    fn memory(&self) -> f64 {
        measure::proportional_memory(&self.server.pids()) as f64
    }

    /// Rate, CPU per request and the hub's delay, of a closed loop.
    fn throughput(
        &mut self,
        load: &mut Load,
        count: u64,
        window: u64,
    ) -> Result<Rate, Box<dyn Error>> {
        let warm_up = WARM_UP.min(count / 10).max(1);
        load.closed_loop(warm_up, window)?;
        self.until_accounted(warm_up)?;
        let cpu = self.cpu();
        let start = Instant::now();
        load.closed_loop(count, window)?;
        let answered = start.elapsed();
        self.until_accounted(count)?;
        let accounted = start.elapsed();
        self.engines.check()?;
        Ok(Rate {
            per_second: count as f64 / accounted.as_secs_f64(),
            cpu: (self.cpu() - cpu).as_secs_f64() * 1e6 / count as f64,
            behind: (accounted - answered).as_secs_f64() * 1e3,
        })
    }
}

struct Rate {
    per_second: f64,
    /// Microseconds per request.
    cpu: f64,
    /// Milliseconds.
    behind: f64,
}

impl Plan {
    /// Requests, fewer for a quick run, and no more than a stock controller does in a few seconds.
    fn count(&self, side: Side, ours: u64, stock: u64) -> u64 {
        let full = if side == Side::Stock { stock } else { ours };
        if self.full { full } else { (full / 4).max(1) }
    }
}

fn tasks(plan: &Plan, side: Side) -> Samples {
    let setup = Setup::default();
    let rate = task_rate(plan, side, setup)?;
    Ok(vec![
        Sample::new("tasks, leastload, hwm 1, 1 kB", "/s", rate.per_second)
            .goal(">= 60% relay, 45 x stock"),
        Sample::new("  controller CPU per task", "us", rate.cpu).goal("<= 20"),
        Sample::new("  hub behind at the end", "ms", rate.behind).goal("<= 100"),
    ])
}

fn tasks_without_limit(plan: &Plan, side: Side) -> Samples {
    let setup = Setup {
        hwm: 0,
        ..Setup::default()
    };
    let rate = task_rate(plan, side, setup)?;
    Ok(vec![
        Sample::new("tasks, leastload, hwm 0, 1 kB", "/s", rate.per_second)
            .goal(">= 60% relay, 45 x stock"),
        Sample::new("  controller CPU per task", "us", rate.cpu).goal("<= 20"),
    ])
}

fn task_rate(plan: &Plan, side: Side, setup: Setup) -> Result<Rate, Box<dyn Error>> {
    let mut cluster = Cluster::start(plan, side, setup, 4)?;
    let mut load = cluster.load(CLIENTS, &Queue::Task, KB)?;
    cluster.throughput(&mut load, plan.count(side, 200_000, 3000), WINDOW)
}

fn schemes(plan: &Plan, side: Side) -> Samples {
    let mut samples = Vec::new();
    for scheme in ["lru", "plainrandom", "weighted", "twobin", "pure"] {
        let setup = Setup {
            scheme,
            ..Setup::default()
        };
        let rate = task_rate(plan, side, setup)?;
        samples.push(
            Sample::new(format!("tasks, {scheme}, 1 kB"), "/s", rate.per_second)
                .goal(">= 45 x stock"),
        );
    }
    Ok(samples)
}

fn mux(plan: &Plan, side: Side) -> Samples {
    let mut cluster = Cluster::start(plan, side, Setup::default(), 4)?;
    let mut load = cluster.load(CLIENTS, &cluster.mux(), KB)?;
    let rate = cluster.throughput(&mut load, plan.count(side, 200_000, 10_000), WINDOW)?;
    Ok(vec![
        Sample::new("mux, 1 kB", "/s", rate.per_second).goal(">= 75% relay"),
        Sample::new("  controller CPU per request", "us", rate.cpu),
        Sample::new("  hub behind at the end", "ms", rate.behind).goal("<= 100"),
    ])
}

fn dictdb(plan: &Plan, side: Side) -> Samples {
    with_database(plan, side, "dictdb", ">= 70% of NoDB")
}

fn sqlitedb(plan: &Plan, side: Side) -> Samples {
    with_database(plan, side, "sqlitedb", ">= 15000")
}

/// What recording costs, whether the database keeps up, and whether it has everything in the end.
fn with_database(plan: &Plan, side: Side, database: &'static str, goal: &'static str) -> Samples {
    let setup = Setup {
        database,
        ..Setup::default()
    };
    let mut cluster = Cluster::start(plan, side, setup, 4)?;
    let mut load = cluster.load(CLIENTS, &Queue::Task, KB)?;
    let before = measure::peak_memory(&cluster.server.pids());
    let rate = cluster.throughput(&mut load, plan.count(side, 400_000, 3000), WINDOW)?;
    let start = Instant::now();
    cluster.until_stored()?;
    let stored = start.elapsed();
    // One in memory forgets the oldest.
    if database == "sqlitedb" && cluster.recorded()? != cluster.requests {
        return Err("the database does not have every request".into());
    }
    let after = measure::peak_memory(&cluster.server.pids());
    let mut samples = vec![
        Sample::new(
            format!("tasks with {database}, 1 kB"),
            "/s",
            rate.per_second,
        )
        .goal(goal),
        Sample::new("  controller CPU per task", "us", rate.cpu),
        Sample::new(
            "  until all are in the database",
            "ms",
            rate.behind + stored.as_secs_f64() * 1e3,
        )
        .goal("<= 2000"),
        Sample::new(
            "  peak memory beyond idle",
            "MB",
            after.saturating_sub(before) as f64 / 1e6,
        )
        .goal("bounded"),
    ];
    if side == Side::Ours {
        let delay = cluster.longest_delay()?.as_secs_f64() * 1e3;
        samples.push(Sample::new("  database behind at most", "ms", delay).goal("<= 2000"));
    }
    Ok(samples)
}

/// What it costs to be seen: the same work without a status page, with one, and with one that is open.
fn dashboard(plan: &Plan, side: Side) -> Samples {
    let mut samples = Vec::new();
    let watched = [
        (Dashboard::Off, "no dashboard"),
        (Dashboard::Served, "a dashboard"),
        (Dashboard::Open, "an open page"),
    ];
    for (hwm, is_mux, what) in [
        (1, false, "tasks, hwm 1"),
        (0, false, "tasks, hwm 0"),
        (1, true, "mux"),
    ] {
        for (dashboard, with) in watched {
            let setup = Setup {
                hwm,
                dashboard,
                ..Setup::default()
            };
            let mut cluster = Cluster::start(plan, side, setup, 4)?;
            let queue = if is_mux { cluster.mux() } else { Queue::Task };
            let mut load = cluster.load(CLIENTS, &queue, KB)?;
            let count = plan.count(side, 200_000, 200_000);
            let rate = cluster.throughput(&mut load, count, WINDOW)?;
            let words = format!("{what}, {with}: CPU");
            samples.push(Sample::new(words, "us", rate.cpu));
        }
    }
    Ok(samples)
}

fn latency(plan: &Plan, side: Side) -> Samples {
    let mut cluster = Cluster::start(plan, side, Setup::default(), 4)?;
    let mut single = cluster.load(1, &Queue::Task, KB)?;
    single.one_at_a_time(100)?;
    let alone = single.one_at_a_time(plan.count(side, 20_000, 3000))?;
    let mut load = cluster.load(CLIENTS, &Queue::Task, KB)?;
    cluster.until_accounted(100 + alone.len() as u64)?;
    let most = cluster.throughput(&mut load, plan.count(side, 60_000, 2000), WINDOW)?;
    let loaded = load.at_rate(plan.count(side, 60_000, 2000), 0.8 * most.per_second)?;
    Ok(vec![
        Sample::new("one task at a time, p50", "ms", percentile(&alone, 50.0)).goal("<= 0.14"),
        Sample::new("  p99", "ms", percentile(&alone, 99.0)).goal("<= 0.4"),
        Sample::new(
            "at 80% of its own rate, p50",
            "ms",
            percentile(&loaded, 50.0),
        ),
        Sample::new("  p99", "ms", percentile(&loaded, 99.0)),
    ])
}

/// What one client's single tasks cost it while another client has thousands queued.
fn turns(plan: &Plan, side: Side) -> Samples {
    let queued = 100_000;
    let mut cluster = Cluster::start(plan, side, Setup::default(), 4)?;
    let mut flood = cluster.load(1, &Queue::Task, 100)?;
    let mut single = cluster.load(1, &Queue::Task, 100)?;
    single.one_at_a_time(100)?;
    let count = plan.count(side, 4000, 0);
    let times = std::thread::scope(|scope| {
        let flood = scope.spawn(|| {
            let all = flood.submit(queued).and_then(|()| flood.run(queued, 0));
            all.map_err(|error| error.to_string())
        });
        cluster.until_queued(queued / 2, |time| {
            std::thread::sleep(time);
            match flood.is_finished() {
                true => Err("the flood has ended".into()),
                false => Ok(()),
            }
        })?;
        let times = single.one_at_a_time(count)?;
        if cluster.queued()? == 0 {
            return Err("the queue ran empty".into());
        }
        flood.join().map_err(|_| "the flood has panicked")??;
        Ok::<_, Box<dyn Error>>(times)
    })?;
    cluster.engines.check()?;
    Ok(vec![
        Sample::new(
            format!("one at a time, of another {queued} queued, p50"),
            "ms",
            percentile(&times, 50.0),
        ),
        Sample::new("  p99", "ms", percentile(&times, 99.0)),
    ])
}

/// In milliseconds, of ascending times.
fn percentile(times: &[Duration], percent: f64) -> f64 {
    let index = (times.len() as f64 * percent / 100.0) as usize;
    times[index.min(times.len() - 1)].as_secs_f64() * 1e3
}

fn big(plan: &Plan, side: Side) -> Samples {
    let mut cluster = Cluster::start(plan, side, Setup::default(), 4)?;
    let mut load = cluster.load(CLIENTS, &Queue::Task, MB)?;
    let rate = cluster.throughput(&mut load, plan.count(side, 4000, 1000), 4)?;
    Ok(vec![
        Sample::new("tasks, 1 MB each way", "/s", rate.per_second).goal(">= 85% relay"),
        Sample::new("  controller CPU per task", "us", rate.cpu),
    ])
}

fn payloads(plan: &Plan, side: Side) -> Samples {
    let mut samples = Vec::new();
    for (payload, name, count) in [
        (10, "10 B", 100_000),
        (10 * KB, "10 kB", 60_000),
        (100 * KB, "100 kB", 20_000),
    ] {
        for mux in [false, true] {
            let mut cluster = Cluster::start(plan, side, Setup::default(), 4)?;
            let queue = if mux { cluster.mux() } else { Queue::Task };
            let mut load = cluster.load(CLIENTS, &queue, payload)?;
            let window = WINDOW.min(20_000_000 / payload as u64);
            let rate = cluster.throughput(&mut load, plan.count(side, count, 2000), window)?;
            let queue = if mux { "mux" } else { "tasks" };
            samples.push(Sample::new(
                format!("{queue}, {name} each way"),
                "/s",
                rate.per_second,
            ));
            samples.push(Sample::new("  controller CPU", "us", rate.cpu));
        }
    }
    Ok(samples)
}

fn broadcast(plan: &Plan, side: Side) -> Samples {
    let mut cluster = Cluster::start(plan, side, Setup::default(), 16)?;
    let queue = Queue::Coalescing(cluster.engines.ids());
    let mut load = cluster.load(CLIENTS, &queue, 10)?;
    let count = plan.count(side, 20_000, 1200);
    load.closed_loop(100, 20)?;
    let cpu = cluster.cpu();
    let start = Instant::now();
    load.closed_loop(count, 50)?;
    let elapsed = start.elapsed();
    cluster.engines.check()?;
    let cpu = (cluster.cpu() - cpu).as_secs_f64() * 1e6 / count as f64;
    cluster.hub = None;
    Ok(vec![
        Sample::new(
            "coalescing broadcasts to 16 engines",
            "/s",
            count as f64 / elapsed.as_secs_f64(),
        )
        .goal(">= 6000"),
        Sample::new("  controller CPU per broadcast", "us", cpu),
    ])
}

fn crowd(plan: &Plan, side: Side) -> Samples {
    // A stock controller is expected to lose engines beyond about a thousand connections.
    let few = task_rate(plan, side, Setup::default())?;
    let server = Server::start(side, Setup::default(), &plan.programs)?;
    let (mut cluster, arrival) = Cluster::with_engines(server, plan.engines, Connections::All)?;
    let fresh = cluster.memory();
    let mut load = cluster.load(CLIENTS, &Queue::Task, KB)?;
    let many = cluster.throughput(&mut load, plan.count(side, 200_000, 3000), WINDOW)?;
    let idle = idle_cpu(&cluster, Duration::from_secs(10));
    Ok(vec![
        Sample::new(
            format!("{} engines: registrations answered", plan.engines),
            "s",
            arrival.answered.as_secs_f64(),
        ),
        Sample::new(
            "  all registered after that",
            "s",
            arrival.registered.as_secs_f64(),
        )
        .goal("<= 0.3"),
        Sample::new(
            "  task rate against 4 engines",
            "",
            many.per_second / few.per_second,
        )
        .goal(">= 0.9"),
        Sample::new("  CPU per task against 4 engines", "", many.cpu / few.cpu),
        Sample::new("  idle CPU", "%", idle).goal("<= 0.5"),
        Sample::new("  memory before the first task", "MB", fresh / 1e6),
        Sample::new("  idle memory", "MB", cluster.memory() / 1e6).goal("<= 60"),
    ])
}

fn crowd_of_5000(plan: &Plan, side: Side) -> Samples {
    let count = 5000;
    let connections = if plan.open_files > 9 * count {
        Connections::All
    } else {
        Connections::Few
    };
    let which = match connections {
        Connections::All => "5,000 engines",
        Connections::Few => "5,000 engines, 3 connections each",
    };
    let server = Server::start(side, Setup::default(), &plan.programs)?;
    let (mut cluster, arrival) = Cluster::with_engines(server, count as usize, connections)?;
    let mut load = cluster.load(CLIENTS, &Queue::Task, KB)?;
    let rate = cluster.throughput(&mut load, plan.count(side, 200_000, 3000), WINDOW)?;
    Ok(vec![
        Sample::new(
            format!("{which}: answered"),
            "s",
            arrival.answered.as_secs_f64(),
        ),
        Sample::new(
            "  all registered after that",
            "s",
            arrival.registered.as_secs_f64(),
        ),
        Sample::new("  tasks", "/s", rate.per_second).goal("yes"),
        Sample::new("  memory", "MB", cluster.memory() / 1e6),
    ])
}

/// Percent of one core.
fn idle_cpu(cluster: &Cluster, time: Duration) -> f64 {
    let before = cluster.cpu();
    std::thread::sleep(time);
    (cluster.cpu() - before).as_secs_f64() / time.as_secs_f64() * 100.0
}

/// What a task costs while so many wait.
fn depth(plan: &Plan, side: Side) -> Samples {
    let depths: &[u64] = match plan.full {
        true => &[10, 1000, 100_000, 1_000_000],
        false => &[10, 1000, 100_000],
    };
    let mut samples = Vec::new();
    for depth in depths {
        let cluster = Cluster::start(plan, side, Setup::default(), 4)?;
        let mut load = cluster.load(CLIENTS, &Queue::Task, 100)?;
        load.closed_loop(WARM_UP, 10)?;
        load.submit(*depth)?;
        // Until as many answers have come as there were tasks, the queue is as deep as the sockets are.
        load.run(depth / 10, depth / 10)?;
        let cpu = cluster.cpu();
        let count = plan.count(side, 100_000, 0);
        load.run(count, count)?;
        let cpu = (cluster.cpu() - cpu).as_secs_f64() * 1e6 / count as f64;
        samples.push(
            Sample::new(format!("CPU per task with {depth} queued"), "us", cpu)
                .goal("flat within 20%"),
        );
        load.run(load.outstanding(), 0)?;
    }
    Ok(samples)
}

fn memory(plan: &Plan, side: Side) -> Samples {
    let mut cluster = Cluster::start(plan, side, Setup::default(), 4)?;
    let mut load = cluster.load(CLIENTS, &Queue::Task, 100)?;
    load.closed_loop(10 * WARM_UP, 10)?;
    let before = cluster.memory();
    let count = plan.count(side, 1_000_000, 0);
    cluster.engines.hold(true);
    load.submit(count)?;
    cluster.until_queued(count - 4, |time| load.rest(time))?;
    let full = cluster.memory();
    cluster.engines.hold(false);
    load.run(count, 0)?;
    let after = until_small(&cluster, before);
    let beyond = (full - before) / count as f64 - load.request_size() as f64;
    Ok(vec![
        Sample::new("memory per queued task beyond its frames", "B", beyond).goal("<= 300"),
        Sample::new(
            "  still there when all are done",
            "MB",
            (after - before) / 1e6,
        )
        .goal("all freed"),
    ])
}

/// Memory when it is back to what it was, or when enough time for that has passed.
fn until_small(cluster: &Cluster, before: f64) -> f64 {
    let start = Instant::now();
    loop {
        let now = cluster.memory();
        if now < before + 10e6 || start.elapsed() > Duration::from_secs(10) {
            return now;
        }
        std::thread::sleep(Duration::from_millis(100));
    }
}

fn idle(plan: &Plan, side: Side) -> Samples {
    let server = Server::start(side, Setup::default(), &plan.programs)?;
    std::thread::sleep(Duration::from_secs(1));
    let pids = server.pids();
    let before = measure::cpu(&pids);
    let time = Duration::from_secs(if plan.full { 10 } else { 3 });
    std::thread::sleep(time);
    let cpu = (measure::cpu(&pids) - before).as_secs_f64() / time.as_secs_f64() * 100.0;
    let memory = measure::proportional_memory(&pids) as f64 / 1e6;
    Ok(vec![
        Sample::new("idle: processes", "", pids.len() as f64).goal("1"),
        Sample::new("  threads", "", measure::threads(&pids) as f64),
        Sample::new("  proportional memory", "MB", memory).goal("<= 10"),
        Sample::new("  CPU", "%", cpu).goal("~0"),
    ])
}

fn soak(plan: &Plan, side: Side) -> Samples {
    let mut cluster = Cluster::start(plan, side, Setup::default(), 4)?;
    let mut load = cluster.load(CLIENTS, &Queue::Task, KB)?;
    let before = cluster.memory();
    let rate = cluster.throughput(&mut load, plan.soak, WINDOW)?;
    Ok(vec![
        Sample::new(format!("{} tasks", plan.soak), "/s", rate.per_second),
        Sample::new(
            "  memory above idle",
            "MB",
            (cluster.memory() - before) / 1e6,
        )
        .goal("<= 20"),
    ])
}

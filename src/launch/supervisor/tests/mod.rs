mod scaling;

use std::time::Duration;

use super::ends::{KERNELS_DIED, RECORDS_LOST, RESTART_WINDOW, RESTARTS};
use super::*;

use proptest::prelude::*;

fn plan() -> Plan {
    Plan {
        with_controller: true,
        sets: vec![2],
        machines: Vec::new(),
        elastic: None,
        inseparable: false,
        restart: true,
        delay: Duration::ZERO,
        engine_timeout: Duration::from_secs(60),
        give_up: true,
        grace: Duration::from_secs(4),
        end: "Ctrl-C".to_owned(),
    }
}

const CONTROLLER: Member = Member::Controller;
const ENGINES: Member = Member::Engines(SetNo(0));
const MORE_ENGINES: Member = Member::Engines(SetNo(1));

/// A supervisor, an invented clock, and what has been done so far.
struct World {
    supervisor: Supervisor,
    now: Instant,
    out: Vec<Action>,
}

impl World {
    fn new(plan: Plan) -> Self {
        let now = Instant::now();
        Self {
            supervisor: Supervisor::new(plan, now),
            now,
            out: Vec::new(),
        }
    }

    /// Begun, with the controller started and ready, and the engines started.
    fn starting(plan: Plan) -> Self {
        let mut world = Self::new(plan);
        world.begin();
        world.started(CONTROLLER);
        world
            .supervisor
            .on_controller_ready(world.now, &mut world.out);
        world.started(ENGINES);
        world.take();
        world
    }

    fn up(plan: Plan) -> Self {
        let mut world = Self::starting(plan);
        world.registered(0);
        world.registered(1);
        assert!(world.take().contains(&Action::Ready));
        world
    }

    fn begin(&mut self) {
        self.supervisor.on_begin(self.now, [], &mut self.out);
    }

    fn started(&mut self, member: Member) {
        self.supervisor
            .on_started(member, "process 7".into(), &mut self.out);
    }

    fn registered(&mut self, engine: u32) {
        self.supervisor
            .on_registered(self.now, EngineId(engine), &mut self.out);
    }

    fn exited(&mut self, member: Member, status: Status) {
        self.supervisor
            .on_exited(self.now, member, status, &mut self.out);
    }

    fn wish(&mut self, reason: StopReason) {
        self.supervisor
            .on_stop_requested(self.now, reason, &mut self.out);
    }

    /// Time goes on to the next deadline.
    fn pass(&mut self) -> Duration {
        let deadline = self.supervisor.next_deadline().expect("a deadline");
        let passed = deadline - self.now;
        self.now = deadline;
        self.supervisor.on_time(self.now, &mut self.out);
        passed
    }

    /// What has been done since the last time, reports and shown logs left out.
    fn done(&mut self) -> Vec<Action> {
        let mut done = self.take();
        done.retain(|action| !matches!(action, Action::Report(_) | Action::ShowLog(_)));
        done
    }

    fn take(&mut self) -> Vec<Action> {
        std::mem::take(&mut self.out)
    }
}

fn over(outcome: Outcome) -> Vec<Action> {
    vec![Action::RemoveFiles, Action::Exit(outcome)]
}

#[test]
fn a_cluster_comes_up_and_ends_in_order() {
    let mut world = World::new(plan());
    world.begin();
    assert_eq!(world.done(), [Action::Spawn(CONTROLLER)]);
    world.started(CONTROLLER);
    world
        .supervisor
        .on_controller_ready(world.now, &mut world.out);
    assert_eq!(world.done(), [Action::WriteFiles, Action::Spawn(ENGINES)]);
    world.started(ENGINES);
    assert_eq!(world.done(), [Action::WriteFiles]);
    world.registered(0);
    // The hub may repeat itself.
    world.registered(0);
    assert_eq!(world.done(), []);
    world.registered(1);
    assert_eq!(world.done(), [Action::WriteFiles, Action::Ready]);
    assert_eq!(world.supervisor.next_deadline(), None);

    world.wish(StopReason::Interrupted);
    assert_eq!(world.done(), [Action::Terminate(ENGINES)]);
    world.exited(ENGINES, Status::Code(0));
    assert_eq!(world.done(), [Action::Terminate(CONTROLLER)]);
    world.exited(CONTROLLER, Status::Code(0));
    assert_eq!(world.done(), over(Outcome::Stopped));
    assert_eq!(world.supervisor.next_deadline(), None);
}

#[test]
fn the_engines_wait_for_the_delay() {
    let mut world = World::new(Plan {
        delay: Duration::from_secs(3),
        ..plan()
    });
    world.begin();
    world.started(CONTROLLER);
    world
        .supervisor
        .on_controller_ready(world.now, &mut world.out);
    world.take();
    assert_eq!(world.pass(), Duration::from_secs(3));
    assert_eq!(world.done(), [Action::Spawn(ENGINES)]);
}

#[test]
fn a_cluster_without_engines_is_up_with_its_controller() {
    let mut world = World::new(Plan {
        sets: vec![0],
        ..plan()
    });
    world.begin();
    world.started(CONTROLLER);
    world.take();
    world
        .supervisor
        .on_controller_ready(world.now, &mut world.out);
    assert!(world.done().ends_with(&[Action::WriteFiles, Action::Ready]));
}

#[test]
fn a_controller_that_cannot_start_ends_it_with_its_own_code() {
    for (status, code) in [
        (Status::Code(10), 10),
        (Status::Code(2), 2),
        (Status::Code(101), 1),
        (Status::Code(0), 1),
        (Status::Signal(9), 1),
    ] {
        let mut world = World::new(plan());
        world.begin();
        world.started(CONTROLLER);
        world.take();
        world.exited(CONTROLLER, status);
        let done = world.take();
        assert!(done.contains(&Action::ShowLog(CONTROLLER)));
        assert_eq!(done.last(), Some(&Action::Exit(Outcome::Failed(code))));
    }
}

#[test]
fn what_cannot_be_spawned_ends_it() {
    let mut world = World::new(plan());
    world.begin();
    world.take();
    world
        .supervisor
        .on_spawn_failed(world.now, CONTROLLER, "no".into(), &mut world.out);
    assert_eq!(world.done(), over(Outcome::Failed(1)));
}

#[test]
fn engines_that_end_early_end_it_whatever_their_code() {
    for status in [Status::Code(0), Status::Code(1), Status::Signal(11)] {
        let mut world = World::starting(plan());
        world.registered(0);
        world.take();
        world.exited(ENGINES, status);
        let done = world.take();
        assert!(done.contains(&Action::ShowLog(ENGINES)));
        assert_eq!(done.last(), Some(&Action::Terminate(CONTROLLER)));
        world.exited(CONTROLLER, Status::Code(0));
        assert_eq!(world.done(), over(Outcome::Failed(1)));
    }
}

#[test]
fn too_few_engines_end_it_only_when_somebody_waits() {
    let mut world = World::starting(plan());
    world.registered(0);
    assert_eq!(world.pass(), plan().engine_timeout);
    assert_eq!(world.done(), [Action::Terminate(ENGINES)]);

    let mut world = World::starting(Plan {
        give_up: false,
        ..plan()
    });
    world.pass();
    assert_eq!(world.done(), []);
    world.registered(0);
    world.registered(1);
    assert_eq!(world.done(), [Action::WriteFiles, Action::Ready]);
}

#[test]
fn an_engine_that_has_left_does_not_count() {
    let mut world = World::starting(plan());
    world.registered(0);
    world.supervisor.on_left(EngineId(0), &mut world.out);
    world.registered(1);
    assert!(!world.take().contains(&Action::Ready));
}

#[test]
fn an_interruption_while_starting_is_one() {
    let mut world = World::new(plan());
    world.begin();
    world.take();
    // The controller is not even started yet.
    world.wish(StopReason::Interrupted);
    assert_eq!(world.done(), []);
    world.started(CONTROLLER);
    assert_eq!(world.done(), [Action::Terminate(CONTROLLER)]);
    world
        .supervisor
        .on_controller_ready(world.now, &mut world.out);
    assert_eq!(world.done(), []);
    world.exited(CONTROLLER, Status::Signal(15));
    assert_eq!(world.done(), over(Outcome::Interrupted));
}

#[test]
fn a_second_interruption_kills_and_a_second_request_does_not() {
    let mut world = World::up(plan());
    world.wish(StopReason::Terminated);
    world.take();
    world.wish(StopReason::Terminated);
    world.wish(StopReason::HungUp);
    assert_eq!(world.done(), []);
    world.wish(StopReason::Interrupted);
    assert_eq!(
        world.done(),
        [Action::Kill(ENGINES), Action::Kill(CONTROLLER)]
    );
    world.exited(ENGINES, Status::Signal(9));
    world.exited(CONTROLLER, Status::Signal(9));
    assert!(world.done().ends_with(&over(Outcome::Stopped)));
}

#[test]
fn what_does_not_end_in_time_is_killed() {
    let mut world = World::up(plan());
    world.wish(StopReason::HungUp);
    world.exited(ENGINES, Status::Code(0));
    world.take();
    assert_eq!(world.pass(), plan().grace);
    assert_eq!(world.done(), [Action::Kill(CONTROLLER)]);
    assert_eq!(world.supervisor.next_deadline(), None);
}

#[test]
fn the_front_matters_until_the_cluster_is_up() {
    let mut world = World::starting(plan());
    world.wish(StopReason::FrontGone);
    assert_eq!(world.done(), [Action::Terminate(ENGINES)]);
    let mut world = World::up(plan());
    world.wish(StopReason::FrontGone);
    assert_eq!(world.take(), []);
}

#[test]
fn the_controller_s_end_is_the_cluster_s() {
    for (status, outcome) in [
        (Status::Code(0), Outcome::Stopped),
        (Status::Code(1), Outcome::Failed(1)),
        (Status::Signal(9), Outcome::Failed(1)),
    ] {
        let mut world = World::up(plan());
        world.exited(CONTROLLER, status);
        assert_eq!(world.done(), [Action::Terminate(ENGINES)]);
        world.exited(ENGINES, Status::Code(0));
        assert_eq!(world.done(), over(outcome));
    }
}

#[test]
fn processes_that_somebody_else_ends_are_an_orderly_end() {
    // ipyparallel's own `ipcluster stop` sends SIGTERM to both.
    let mut world = World::up(plan());
    world.exited(ENGINES, Status::Code(0));
    assert_eq!(world.done(), [Action::WriteFiles]);
    world.exited(CONTROLLER, Status::Code(0));
    assert_eq!(world.done(), over(Outcome::Stopped));
}

#[test]
fn engines_that_die_are_started_again_a_few_times() {
    let mut world = World::up(plan());
    for pause in RESTARTS {
        world.exited(ENGINES, Status::Signal(9));
        assert_eq!(world.done(), [Action::WriteFiles]);
        assert_eq!(world.pass(), pause);
        assert_eq!(world.done(), [Action::Spawn(ENGINES)]);
        world.started(ENGINES);
        world.take();
    }
    world.exited(ENGINES, Status::Code(1));
    assert!(world.done().ends_with(&[Action::Terminate(CONTROLLER)]));
    world.exited(CONTROLLER, Status::Code(0));
    assert_eq!(world.done(), over(Outcome::Failed(1)));
}

#[test]
fn deaths_that_are_long_ago_do_not_count() {
    let mut world = World::up(plan());
    for _ in 0..10 {
        world.exited(ENGINES, Status::Signal(9));
        world.pass();
        world.started(ENGINES);
        world.now += RESTART_WINDOW;
    }
    assert!(!world.take().contains(&Action::Terminate(CONTROLLER)));
}

#[test]
fn a_stop_between_two_starts_of_the_engines_is_final() {
    let mut world = World::up(plan());
    world.exited(ENGINES, Status::Signal(9));
    world.take();
    world.wish(StopReason::Terminated);
    assert_eq!(world.done(), [Action::Terminate(CONTROLLER)]);
    world.exited(CONTROLLER, Status::Code(0));
    assert_eq!(world.done(), over(Outcome::Stopped));
}

#[test]
fn a_single_engine_s_death_is_news_only() {
    let mut world = World::up(plan());
    world.supervisor.on_left(EngineId(1), &mut world.out);
    world.supervisor.on_left(EngineId(1), &mut world.out);
    let left = Report::EngineLeft {
        engine: EngineId(1),
        count: 1,
        wanted: false,
    };
    assert_eq!(world.take(), [Action::Report(left)]);
}

#[test]
fn engines_join_a_controller_and_leave_without_it() {
    let mut world = World::new(Plan {
        with_controller: false,
        ..plan()
    });
    let there = [EngineId(0), EngineId(1)];
    world.supervisor.on_begin(world.now, there, &mut world.out);
    assert_eq!(world.done(), [Action::Spawn(ENGINES)]);
    world.started(ENGINES);
    world.take();
    // Those that were there before are not the ones that are waited for.
    world.registered(0);
    world.registered(1);
    assert_eq!(world.take(), []);
    world.registered(2);
    world.registered(3);
    assert!(world.take().contains(&Action::Ready));
    world.wish(StopReason::ControllerGone);
    assert_eq!(world.done(), [Action::Terminate(ENGINES)]);
    world.exited(ENGINES, Status::Code(0));
    assert_eq!(world.done(), over(Outcome::Stopped));
}

#[test]
fn signals_reach_engines_that_run() {
    let mut world = World::new(plan());
    world.supervisor.on_relay(10, &mut world.out);
    assert_eq!(world.take(), []);
    let mut world = World::up(plan());
    world.supervisor.on_relay(10, &mut world.out);
    assert_eq!(world.done(), [Action::Relay(SetNo(0), 10)]);
}

#[test]
fn a_controller_that_waits_in_the_queue_has_time() {
    let mut world = World::new(plan());
    world.begin();
    world.started(CONTROLLER);
    world.take();
    for _ in 0..2 {
        let why = "busy".to_owned();
        let queued = &mut world.supervisor;
        queued.on_queued(world.now, CONTROLLER, why, &mut world.out);
    }
    assert_eq!(world.pass(), plan().engine_timeout);
    // Whoever has started it need not wait any longer, and is not told again.
    assert_eq!(world.done(), [Action::Ready]);
    assert_eq!(world.supervisor.next_deadline(), None);
    // It waits for another reason now.
    world
        .supervisor
        .on_queued(world.now, CONTROLLER, "idle".into(), &mut world.out);
    assert_eq!(world.supervisor.next_deadline(), None);
    let place = "node".to_owned();
    world
        .supervisor
        .on_runs(world.now, CONTROLLER, place, &mut world.out);
    world
        .supervisor
        .on_controller_ready(world.now, &mut world.out);
    assert_eq!(world.done(), [Action::WriteFiles, Action::Spawn(ENGINES)]);
}

#[test]
fn that_the_controller_runs_gives_engines_no_more_time() {
    let mut world = World::starting(Plan {
        give_up: false,
        ..plan()
    });
    let deadline = world.supervisor.next_deadline();
    // Its files were there before the batch system said that it runs.
    world.now += Duration::from_secs(1);
    let runs = |world: &mut World| {
        let place = "node".to_owned();
        let supervisor = &mut world.supervisor;
        supervisor.on_runs(world.now, CONTROLLER, place, &mut world.out);
    };
    runs(&mut world);
    assert_eq!(world.supervisor.next_deadline(), deadline);
    world.pass();
    runs(&mut world);
    assert_eq!(world.supervisor.next_deadline(), None);
}

#[test]
fn a_job_that_waits_in_the_queue_has_time() {
    let mut world = World::starting(plan());
    world
        .supervisor
        .on_queued(world.now, ENGINES, "busy".into(), &mut world.out);
    world.take();
    assert_eq!(world.pass(), plan().engine_timeout);
    // Whoever has started it need not wait any longer.
    assert_eq!(world.done(), [Action::Ready]);
    assert_eq!(world.supervisor.next_deadline(), None);
    world
        .supervisor
        .on_runs(world.now, ENGINES, "node".into(), &mut world.out);
    world.registered(0);
    world.registered(1);
    assert_eq!(world.done(), [Action::WriteFiles]);

    // One that runs and does not bring its engines is told of, and goes on.
    let mut world = World::starting(plan());
    world
        .supervisor
        .on_queued(world.now, ENGINES, "busy".into(), &mut world.out);
    world.pass();
    world
        .supervisor
        .on_runs(world.now, ENGINES, "node".into(), &mut world.out);
    world.take();
    world.pass();
    let done = world.take();
    assert!(done.contains(&Action::ShowLog(ENGINES)));
    assert!(!done.contains(&Action::Terminate(ENGINES)));
}

#[test]
fn a_job_that_has_ended_is_not_submitted_again() {
    let mut world = World::up(Plan {
        restart: false,
        ..plan()
    });
    let status = Status::Job(JobEnd::TimeLimit);
    world.exited(ENGINES, status);
    let lost = Action::Report(Report::EnginesLost {
        status,
        elastic: false,
    });
    assert_eq!(world.take(), [Action::WriteFiles, lost]);
    assert_eq!(world.supervisor.next_deadline(), None);
}

#[test]
fn engines_whose_kernels_are_to_stay_dead_are_not_started_again() {
    let mut world = World::up(plan());
    world.exited(ENGINES, KERNELS_DIED);
    let died = Action::Report(Report::KernelsDied);
    assert_eq!(world.take(), [Action::WriteFiles, died]);
    assert_eq!(world.supervisor.next_deadline(), None);
}

#[test]
fn records_that_are_lost_are_told_by_the_exit_code() {
    let mut world = World::up(plan());
    world.exited(CONTROLLER, RECORDS_LOST);
    assert!(
        world
            .take()
            .contains(&Action::Report(Report::ControllerEnded))
    );
    world.exited(ENGINES, Status::Code(0));
    assert!(world.done().ends_with(&over(Outcome::Failed(14))));

    let mut world = World::up(plan());
    world
        .supervisor
        .on_stop_requested(world.now, StopReason::Interrupted, &mut world.out);
    world.exited(ENGINES, Status::Code(0));
    world.exited(CONTROLLER, RECORDS_LOST);
    assert!(world.done().ends_with(&over(Outcome::Failed(14))));
}

#[test]
fn engines_that_joined_a_controller_end_when_their_kernels_are_to_stay_dead() {
    let mut world = World::new(Plan {
        with_controller: false,
        ..plan()
    });
    world.begin();
    world.started(ENGINES);
    world.registered(0);
    world.registered(1);
    world.take();
    world.exited(ENGINES, KERNELS_DIED);
    assert!(world.done().ends_with(&over(Outcome::Failed(1))));
}

#[test]
fn each_set_ends_and_is_started_again_for_itself() {
    let mut world = World::new(Plan {
        sets: vec![1, 1],
        ..plan()
    });
    world.begin();
    world.started(CONTROLLER);
    world.take();
    world
        .supervisor
        .on_controller_ready(world.now, &mut world.out);
    let both = [Action::Spawn(ENGINES), Action::Spawn(MORE_ENGINES)];
    assert!(world.done().ends_with(&both));
    world.started(ENGINES);
    world.started(MORE_ENGINES);
    world.registered(0);
    world.registered(1);
    world.take();
    for pause in RESTARTS {
        world.exited(MORE_ENGINES, Status::Code(255));
        assert_eq!(world.pass(), pause);
        assert_eq!(
            world.done(),
            [Action::WriteFiles, Action::Spawn(MORE_ENGINES)]
        );
        world.started(MORE_ENGINES);
        world.take();
    }
    // It is given up; the other goes on.
    world.exited(MORE_ENGINES, Status::Code(255));
    assert_eq!(world.done(), [Action::WriteFiles]);
    world.exited(ENGINES, Status::Signal(9));
    assert_eq!(world.pass(), RESTARTS[0]);
    world.started(ENGINES);
    world.wish(StopReason::Terminated);
    assert!(world.done().ends_with(&[Action::Terminate(ENGINES)]));
    world.exited(ENGINES, Status::Code(0));
    assert_eq!(world.done(), [Action::Terminate(CONTROLLER)]);
}

/// What may happen, in any order.
#[derive(Clone, Debug)]
enum Happening {
    Started(Member),
    SpawnFailed(Member),
    Ready,
    HubFailed,
    Registered(u32),
    Left(u32),
    Exited(Member, Status),
    Wish(StopReason),
    Queued(Member),
    Runs(Member),
    Relay,
    Time,
}

fn happening() -> impl Strategy<Value = Happening> {
    let member = prop_oneof![Just(CONTROLLER), Just(ENGINES), Just(MORE_ENGINES)];
    let status = prop_oneof![
        (0..12i32).prop_map(Status::Code),
        (1..16i32).prop_map(Status::Signal),
        Just(Status::Job(JobEnd::TimeLimit))
    ];
    let reason = prop_oneof![
        Just(StopReason::Interrupted),
        Just(StopReason::Terminated),
        Just(StopReason::HungUp),
        Just(StopReason::FrontGone),
        Just(StopReason::ControllerGone)
    ];
    prop_oneof![
        4 => member.clone().prop_map(Happening::Started),
        1 => member.clone().prop_map(Happening::SpawnFailed),
        2 => Just(Happening::Ready),
        1 => Just(Happening::HubFailed),
        4 => (0..4u32).prop_map(Happening::Registered),
        2 => (0..4u32).prop_map(Happening::Left),
        2 => (member.clone(), status).prop_map(|(member, status)| Happening::Exited(member, status)),
        1 => reason.prop_map(Happening::Wish),
        1 => member.clone().prop_map(Happening::Queued),
        1 => member.clone().prop_map(Happening::Runs),
        1 => Just(Happening::Relay),
        2 => Just(Happening::Time),
    ]
}

proptest! {
    /// Whatever happens: a process is started only when it does not run, signals go to what runs, and the end comes once,
    /// when nothing runs any more.
    #[test]
    fn the_end_comes_once_and_leaves_nothing(
        with_controller: bool,
        give_up: bool,
        restart: bool,
        happenings in proptest::collection::vec(happening(), 1..60),
    ) {
        let mut world = World::new(Plan { with_controller, give_up, restart, sets: vec![1, 2], ..plan() });
        world.begin();
        // Processes that were asked for, and whether they have started.
        let mut alive = BTreeMap::<Member, bool>::new();
        let mut over = false;
        let mut rest = happenings.into_iter();
        loop {
            let actions = world.take();
            prop_assert!(!over || actions.is_empty(), "{actions:?}");
            for action in actions {
                match action {
                    Action::Spawn(member) => {
                        prop_assert_eq!(alive.insert(member, false), None);
                    }
                    Action::Terminate(member) | Action::Kill(member) => {
                        prop_assert_eq!(alive.get(&member), Some(&true));
                    }
                    Action::Relay(set, _) => prop_assert_eq!(alive.get(&Member::Engines(set)), Some(&true)),
                    Action::Exit(_) => {
                        prop_assert!(alive.is_empty() && !over);
                        over = true;
                    }
                    _ => {}
                }
            }
            let Some(next) = rest.next() else { break };
            match next {
                Happening::Started(member) if alive.get(&member) == Some(&false) => {
                    alive.insert(member, true);
                    world.started(member);
                }
                Happening::SpawnFailed(member) if alive.get(&member) == Some(&false) => {
                    alive.remove(&member);
                    world.supervisor.on_spawn_failed(world.now, member, String::new(), &mut world.out);
                }
                Happening::Exited(member, status) if alive.get(&member) == Some(&true) => {
                    alive.remove(&member);
                    world.exited(member, status);
                }
                Happening::Started(_) | Happening::SpawnFailed(_) | Happening::Exited(..) => {}
                Happening::Ready => world.supervisor.on_controller_ready(world.now, &mut world.out),
                Happening::HubFailed => world.supervisor.on_hub_failed(world.now, String::new(), &mut world.out),
                Happening::Registered(engine) => world.registered(engine),
                Happening::Left(engine) => world.supervisor.on_left(EngineId(engine), &mut world.out),
                Happening::Wish(reason) => world.wish(reason),
                Happening::Queued(member) => world.supervisor.on_queued(world.now, member, String::new(), &mut world.out),
                Happening::Runs(member) => world.supervisor.on_runs(world.now, member, String::new(), &mut world.out),
                Happening::Relay => world.supervisor.on_relay(10, &mut world.out),
                Happening::Time => {
                    if world.supervisor.next_deadline().is_some() {
                        world.pass();
                    }
                }
            }
        }
    }
}

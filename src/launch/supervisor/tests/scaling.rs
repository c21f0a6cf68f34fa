//! Restarts that somebody wants, and clusters that grow and shrink.

use super::*;

use crate::launch::elastic::{Limits, Look, Seen};

// ---- started again

#[test]
fn engines_are_started_again_on_request() {
    let mut world = World::up(plan());
    let asked = world
        .supervisor
        .on_restart_requested(world.now, &mut world.out);
    assert_eq!(asked, Ok(()));
    assert_eq!(world.done(), [Action::Terminate(ENGINES)]);
    let again = world
        .supervisor
        .on_restart_requested(world.now, &mut world.out);
    assert!(again.is_err(), "one at a time");
    // However they end.
    world.exited(ENGINES, Status::Signal(15));
    assert_eq!(world.done(), [Action::WriteFiles, Action::Spawn(ENGINES)]);
    world.started(ENGINES);
    world.take();
    world.supervisor.on_left(EngineId(0), &mut world.out);
    world.supervisor.on_left(EngineId(1), &mut world.out);
    world.registered(2);
    assert_eq!(world.done(), []);
    world.registered(3);
    assert_eq!(world.done(), [Action::Restarted { complete: true }]);
    assert_eq!(world.supervisor.next_deadline(), None);
}

#[test]
fn engines_that_do_not_end_for_a_restart_are_killed() {
    let mut world = World::up(plan());
    let _ = world
        .supervisor
        .on_restart_requested(world.now, &mut world.out);
    world.take();
    assert_eq!(world.pass(), plan().grace);
    assert_eq!(world.done(), [Action::Kill(ENGINES)]);
    world.exited(ENGINES, Status::Signal(9));
    world.take();
    // The new ones never register.
    assert_eq!(world.pass(), plan().engine_timeout);
    assert_eq!(world.done(), [Action::Restarted { complete: false }]);
    assert_eq!(world.supervisor.next_deadline(), None);
}

#[test]
fn what_starts_or_ends_is_not_started_again() {
    let mut world = World::starting(plan());
    let asked = world
        .supervisor
        .on_restart_requested(world.now, &mut world.out);
    assert!(asked.is_err());
    let mut world = World::up(plan());
    let _ = world
        .supervisor
        .on_restart_requested(world.now, &mut world.out);
    world.wish(StopReason::Interrupted);
    assert!(
        world
            .done()
            .contains(&Action::Restarted { complete: false }),
        "who waits hears of the end"
    );
    world.exited(ENGINES, Status::Code(0));
    assert_eq!(world.done(), [Action::Terminate(CONTROLLER)]);
}

// ---- elastic

fn elastic(machines: Vec<u32>) -> Plan {
    Plan {
        sets: if machines.is_empty() {
            vec![1]
        } else {
            vec![1, 0]
        },
        machines,
        elastic: Some(Limits {
            min: 1,
            max: 4,
            patience: Duration::from_secs(1),
            idle: Some(Duration::from_secs(30)),
        }),
        restart: false,
        ..plan()
    }
}

impl World {
    fn elastic(machines: Vec<u32>) -> Self {
        let mut world = Self::starting(elastic(machines));
        world.registered(0);
        assert!(world.take().contains(&Action::Ready));
        world
    }

    /// Looks from second to second, with engines of these sets and loads.
    fn look(&mut self, waiting: u64, engines: &[(u32, u64)]) -> Vec<Action> {
        self.now += Duration::from_secs(1);
        let engines = (0..).zip(engines).map(|(id, (set, load))| Seen {
            id: EngineId(id),
            set: Some(SetNo(*set)),
            load: *load,
            completed: 0,
            starting: false,
        });
        let look = Look {
            waiting,
            engines: engines.collect(),
        };
        self.supervisor.on_look(self.now, &look, &mut self.out);
        self.done()
    }
}

#[test]
fn a_queue_lets_an_elastic_cluster_grow_by_a_set() {
    let mut world = World::elastic(Vec::new());
    assert_eq!(world.look(5, &[(0, 1)]), []);
    assert_eq!(world.look(5, &[(0, 1)]), [Action::Spawn(MORE_ENGINES)]);
    assert_eq!(world.supervisor.engines_of(SetNo(1)), 3);
    world.started(MORE_ENGINES);
    world.take();
    // They are on their way.
    for _ in 0..10 {
        assert_eq!(world.look(5, &[(0, 1)]), []);
    }
    // Their end is no reason to start them again, and none to end the cluster.
    world.exited(MORE_ENGINES, Status::Code(0));
    assert_eq!(world.done(), [Action::WriteFiles]);
    assert_eq!(world.supervisor.engines_of(SetNo(1)), 0);
}

#[test]
fn idle_engines_of_an_elastic_cluster_are_asked_to_end() {
    let mut world = World::elastic(Vec::new());
    let asked: Vec<Action> = (0..40)
        .flat_map(|_| world.look(0, &[(0, 1), (1, 0)]))
        .collect();
    assert_eq!(asked[0], Action::Retire(vec![EngineId(1)]));
    assert_eq!(world.done(), []);
}

/// An MPI program ends as a whole.
#[test]
fn engines_that_cannot_end_one_by_one_stay_and_others_come_alone() {
    let mut world = World::starting(Plan {
        sets: vec![2],
        inseparable: true,
        ..elastic(Vec::new())
    });
    world.registered(0);
    world.registered(1);
    world.take();
    world.look(5, &[(0, 1), (0, 1)]);
    let further = [SetNo(1), SetNo(2)];
    let spawned = further.map(|set| Action::Spawn(Member::Engines(set)));
    assert_eq!(world.look(5, &[(0, 1), (0, 1)]), spawned);
    for set in further {
        assert_eq!(world.supervisor.engines_of(set), 1);
        world.started(Member::Engines(set));
    }
    world.take();
    let asked: Vec<Action> = (0..40)
        .flat_map(|_| world.look(0, &[(0, 0), (0, 0), (1, 0), (2, 1)]))
        .collect();
    assert_eq!(asked[0], Action::Retire(vec![EngineId(2)]));
    let all = BTreeSet::from([EngineId(2)]);
    let retired = asked.iter().filter_map(|action| match action {
        Action::Retire(engines) => Some(engines.clone()),
        _ => None,
    });
    assert_eq!(retired.flatten().collect::<BTreeSet<_>>(), all);
}

#[test]
fn machines_are_filled_one_after_the_other() {
    let mut world = World::elastic(vec![2, 2]);
    world.look(9, &[(0, 1)]);
    // Two sets are there, one of them empty: these are the third and the fourth.
    let (third, fourth) = (SetNo(2), SetNo(3));
    let spawned = [third, fourth].map(|set| Action::Spawn(Member::Engines(set)));
    assert_eq!(world.look(9, &[(0, 1)]), spawned);
    let places = [SetNo(0), third, fourth].map(|set| {
        let (machine, engines) = (
            world.supervisor.machine_of(set),
            world.supervisor.engines_of(set),
        );
        (machine.unwrap(), engines)
    });
    assert_eq!(places, [(0, 1), (0, 1), (1, 2)]);
    for set in [third, fourth] {
        world.started(Member::Engines(set));
    }
    world.take();
    // One engine of the second machine has gone; its set goes on with the other.
    let all = [(0, 1), (2, 1), (3, 1), (3, 1)];
    assert_eq!(world.look(9, &all), []);
    for _ in 0..5 {
        world.look(9, &all[..3]);
    }
    assert_eq!(world.supervisor.machine_of(SetNo(4)), Some(1));
    assert_eq!(world.supervisor.engines_of(SetNo(4)), 1);
}

#[test]
fn an_elastic_cluster_outlives_what_cannot_be_started() {
    let mut world = World::elastic(Vec::new());
    world.look(5, &[(0, 1)]);
    world.look(5, &[(0, 1)]);
    world
        .supervisor
        .on_spawn_failed(world.now, MORE_ENGINES, "no".into(), &mut world.out);
    assert_eq!(world.done(), []);
    // All of its engines die: others are started, after a while.
    world.started(ENGINES);
    world.exited(ENGINES, Status::Signal(9));
    world.take();
    let started: Vec<Action> = (0..20).flat_map(|_| world.look(0, &[])).collect();
    assert!(matches!(started[..], [Action::Spawn(_)]), "{started:?}");
}

#[test]
fn an_elastic_cluster_ends_in_order() {
    let mut world = World::elastic(Vec::new());
    world.look(5, &[(0, 1)]);
    world.look(5, &[(0, 1)]);
    world.started(MORE_ENGINES);
    world.take();
    world.wish(StopReason::Interrupted);
    assert_eq!(
        world.done(),
        [Action::Terminate(ENGINES), Action::Terminate(MORE_ENGINES)]
    );
    world.exited(MORE_ENGINES, Status::Code(0));
    world.exited(ENGINES, Status::Code(0));
    assert_eq!(world.done(), [Action::Terminate(CONTROLLER)]);
    world.exited(CONTROLLER, Status::Code(0));
    assert_eq!(world.done(), over(Outcome::Stopped));
}

use super::*;

use proptest::prelude::*;

const SECOND: Duration = Duration::from_secs(1);

fn limits(min: u32, max: u32) -> Limits {
    Limits {
        min,
        max,
        patience: 2 * SECOND,
        idle: Some(30 * SECOND),
    }
}

/// A cluster as the machine sees it, with an invented clock that goes on by a second from look to look.
struct World {
    elastic: Elastic,
    now: Instant,
    waiting: u64,
    engines: Vec<Seen>,
    pending: Vec<Pending>,
    next_id: u32,
}

impl World {
    fn new(limits: Limits) -> Self {
        Self {
            elastic: Elastic::new(limits),
            now: Instant::now(),
            waiting: 0,
            engines: Vec::new(),
            pending: Vec::new(),
            next_id: 0,
        }
    }

    fn with_engines(mut self, count: u32) -> Self {
        self.engines_come(SetNo(0), count);
        self
    }

    fn engines_come(&mut self, set: SetNo, count: u32) {
        for _ in 0..count {
            self.engines.push(Seen {
                id: EngineId(self.next_id),
                set: Some(set),
                load: 0,
                completed: 0,
                starting: false,
            });
            self.next_id += 1;
        }
    }

    fn look(&mut self) -> Vec<Order> {
        self.now += SECOND;
        let look = Look {
            waiting: self.waiting,
            engines: self.engines.clone(),
        };
        let mut out = Vec::new();
        self.elastic
            .on_look(self.now, &look, &self.pending, &mut out);
        out
    }

    /// The first orders, and after how many looks they came.
    fn until_ordered(&mut self, most: u32) -> Option<(u32, Vec<Order>)> {
        (1..=most).find_map(|looks| {
            let orders = self.look();
            (!orders.is_empty()).then_some((looks, orders))
        })
    }

    fn busy(&mut self) {
        for engine in &mut self.engines {
            engine.load = 1;
        }
    }
}

#[test]
fn engines_are_started_for_tasks_that_have_waited_for_a_while() {
    let mut world = World::new(limits(1, 4)).with_engines(1);
    world.busy();
    world.waiting = 2;
    assert_eq!(
        world.until_ordered(10),
        Some((3, vec![Order::Start(2)])),
        "seen, and two seconds later"
    );
    // They are on their way: no more are started for the same tasks.
    world.pending = vec![Pending {
        set: SetNo(1),
        engines: 2,
        queued: false,
    }];
    assert_eq!(world.until_ordered(20), None);
    world.waiting = 100;
    assert_eq!(
        world.until_ordered(10).unwrap().1,
        [Order::Start(1)],
        "up to four"
    );
}

#[test]
fn a_moment_s_queue_starts_nothing() {
    let mut world = World::new(limits(1, 4)).with_engines(1);
    world.busy();
    for round in 0..20 {
        world.waiting = u64::from(round % 2 == 0) * 5;
        assert_eq!(world.look(), []);
    }
}

#[test]
fn tasks_that_an_idle_engine_does_not_take_start_nothing() {
    let mut world = World::new(limits(2, 4)).with_engines(2);
    world.engines[0].load = 1;
    world.waiting = 50;
    assert_eq!(world.until_ordered(100), None);
}

#[test]
fn idle_engines_end_down_to_the_least_and_busy_ones_never() {
    let mut world = World::new(limits(1, 8)).with_engines(4);
    world.engines[1].load = 1;
    let (looks, orders) = world.until_ordered(100).unwrap();
    let gone = [0, 2, 3].map(EngineId).to_vec();
    assert_eq!((looks, orders), (31, vec![Order::Retire(gone.clone())]));
    // They are still leaving.
    assert_eq!(world.look(), []);
    world.engines.retain(|engine| !gone.contains(&engine.id));
    assert_eq!(world.until_ordered(100), None);
}

#[test]
fn work_between_two_looks_counts() {
    let mut world = World::new(limits(0, 8)).with_engines(1);
    for round in 0..100 {
        // Each task is short: none is ever seen.
        world.engines[0].completed = round / 20;
        assert_eq!(world.look(), [], "{round}");
    }
}

#[test]
fn an_engine_that_refuses_is_asked_again_later() {
    let mut world = World::new(limits(0, 8)).with_engines(1);
    let first = world.until_ordered(100).unwrap().1;
    assert_eq!(first, [Order::Retire(vec![EngineId(0)])]);
    let (looks, again) = world.until_ordered(100).unwrap();
    assert_eq!(again, first);
    assert_eq!(looks, 10);
}

#[test]
fn engines_of_others_count_and_stay() {
    let mut world = World::new(limits(0, 4)).with_engines(2);
    world.engines[0].set = None;
    let orders = world.until_ordered(100).unwrap().1;
    assert_eq!(orders, [Order::Retire(vec![EngineId(1)])]);
    world.engines.remove(1);
    assert_eq!(world.until_ordered(100), None);
    world.busy();
    world.waiting = 100;
    assert_eq!(
        world.until_ordered(10).unwrap().1,
        [Order::Start(3)],
        "four in all"
    );
}

#[test]
fn what_is_missing_is_replaced_and_failures_make_it_wait() {
    let mut world = World::new(limits(2, 4));
    assert_eq!(world.look(), [Order::Start(2)]);
    let mut waits = Vec::new();
    for _ in 0..8 {
        world.elastic.on_failure(world.now);
        waits.push(world.until_ordered(1000).unwrap().0);
    }
    assert_eq!(waits, [4, 8, 16, 32, 64, 128, 128, 128]);
    world.engines_come(SetNo(1), 1);
    world.engines[0].completed = 1;
    world.look();
    assert_eq!(world.elastic.patience(), 2 * SECOND);
}

#[test]
fn what_was_started_for_nothing_delays_the_next_start() {
    // Tasks that wait for an engine's others: a chain.
    let mut world = World::new(limits(1, 2)).with_engines(1);
    world.waiting = 10;
    let mut waits = Vec::new();
    for _ in 0..3 {
        world.engines[0].load = 1;
        world.engines.truncate(1);
        let (looks, orders) = world.until_ordered(1000).unwrap();
        assert_eq!(orders, [Order::Start(1)]);
        waits.push(looks);
        world.engines_come(SetNo(1), 1);
        let orders = world.until_ordered(1000).unwrap().1;
        assert!(matches!(orders[..], [Order::Retire(_)]), "{orders:?}");
    }
    assert_eq!(waits, [3, 5, 9]);
}

#[test]
fn jobs_in_a_queue_are_withdrawn_when_nothing_is_wanted() {
    let mut world = World::new(limits(1, 8)).with_engines(1);
    world.busy();
    let waiting = |set, queued| Pending {
        set: SetNo(set),
        engines: 3,
        queued,
    };
    world.pending = vec![waiting(1, true), waiting(2, false)];
    let (looks, orders) = world.until_ordered(100).unwrap();
    assert_eq!((looks, orders), (31, vec![Order::Withdraw(SetNo(1))]));
}

#[test]
fn without_a_limit_nobody_ends() {
    let mut world = World::new(Limits {
        idle: None,
        ..limits(0, 4)
    })
    .with_engines(4);
    assert_eq!(world.until_ordered(10_000), None);
}

/// What happens between two looks.
#[derive(Clone, Debug)]
enum Happening {
    TasksCome(u64),
    /// Engines take and finish tasks.
    Work,
    Nothing,
    /// What was started registers.
    SetsRegister,
    /// What was started fails.
    SetFails,
    /// Those that were asked to end do so; else they refuse.
    EnginesLeave,
    /// One dies.
    Death(usize),
    TimePasses(u32),
}

fn happening() -> impl Strategy<Value = Happening> {
    prop_oneof![
        (1_u64..40).prop_map(Happening::TasksCome),
        Just(Happening::Work),
        Just(Happening::Work),
        Just(Happening::Nothing),
        Just(Happening::SetsRegister),
        Just(Happening::SetFails),
        Just(Happening::EnginesLeave),
        (0_usize..16).prop_map(Happening::Death),
        (1_u32..200).prop_map(Happening::TimePasses),
    ]
}

impl World {
    fn happen(&mut self, happening: Happening, asked: &mut Vec<EngineId>) {
        match happening {
            Happening::TasksCome(count) => self.waiting += count,
            Happening::Nothing => {}
            Happening::Work => {
                for engine in &mut self.engines {
                    engine.completed += engine.load;
                    engine.load = self.waiting.min(1);
                    self.waiting -= engine.load;
                }
            }
            Happening::SetsRegister => {
                for pending in std::mem::take(&mut self.pending) {
                    self.engines_come(pending.set, pending.engines);
                }
            }
            Happening::SetFails => {
                if self.pending.pop().is_some() {
                    self.elastic.on_failure(self.now);
                }
            }
            Happening::EnginesLeave => {
                // As an engine that has work by now refuses.
                let leaves = |engine: &Seen| asked.contains(&engine.id) && engine.load == 0;
                self.engines.retain(|engine| !leaves(engine));
                asked.clear();
            }
            Happening::Death(number) => {
                if number < self.engines.len() {
                    let engine = self.engines.remove(number);
                    self.waiting += engine.load;
                }
            }
            Happening::TimePasses(seconds) => self.now += SECOND * seconds,
        }
    }
}

proptest! {
    #[test]
    fn the_limits_hold_whatever_happens(
        min in 0_u32..5,
        more in 0_u32..6,
        events in prop::collection::vec(happening(), 1..200),
    ) {
        let max = min + more;
        let mut world = World::new(limits(min, max));
        let mut asked: Vec<EngineId> = Vec::new();
        let mut sets = 0;
        for event in events {
            world.happen(event, &mut asked);
            let before = u32::try_from(world.engines.len()).unwrap();
            let coming: u32 = world.pending.iter().map(|pending| pending.engines).sum();
            for order in world.look() {
                match order {
                    Order::Start(count) => {
                        prop_assert!(count > 0);
                        let leaving = world.engines.iter().filter(|engine| world.elastic.leaves(engine.id)).count();
                        let leaving = u32::try_from(leaving).unwrap();
                        prop_assert!(before - leaving + coming + count <= max.max(min));
                        sets += 1;
                        world.pending.push(Pending { set: SetNo(sets), engines: count, queued: sets % 2 == 0 });
                    }
                    Order::Retire(ids) => {
                        prop_assert!(!ids.is_empty());
                        for id in &ids {
                            let engine = world.engines.iter().find(|engine| engine.id == *id);
                            prop_assert_eq!(engine.map(|engine| engine.load), Some(0));
                        }
                        let staying = world.engines.iter().filter(|engine| !world.elastic.leaves(engine.id)).count();
                        prop_assert!(u32::try_from(staying).unwrap() >= min);
                        asked.extend(ids);
                    }
                    Order::Withdraw(set) => {
                        prop_assert!(world.pending.iter().any(|pending| pending.set == set && pending.queued));
                        world.pending.retain(|pending| pending.set != set);
                    }
                }
            }
        }
        // When everything is done and nothing goes wrong any more, it comes to rest with the least of engines.
        world.waiting = 0;
        for engine in &mut world.engines {
            engine.load = 0;
        }
        for _ in 0..1200 {
            for order in world.look() {
                match order {
                    Order::Start(count) => world.engines_come(SetNo(sets), count),
                    Order::Retire(ids) => world.engines.retain(|engine| !ids.contains(&engine.id)),
                    Order::Withdraw(set) => world.pending.retain(|pending| pending.set != set),
                }
            }
            world.happen(Happening::SetsRegister, &mut asked);
        }
        prop_assert_eq!(world.engines.len(), usize::try_from(min).unwrap());
        prop_assert_eq!(world.look(), []);
    }
}

use super::*;

fn dispatches(world: &mut World) -> Vec<String> {
    let seen = world.seen();
    seen.iter()
        .map(|line| line.split(" > ").nth(1).unwrap().to_owned())
        .collect()
}

#[test]
fn leastload_goes_by_load_and_then_by_last_use() {
    let mut world = World::new(config(Scheme::LeastLoad, 0));
    for engine in ["e3", "e2", "e1"] {
        world.register(engine);
    }
    world.plain(&["a", "b", "c", "d", "e"]);
    assert_eq!(dispatches(&mut world), ["e1", "e2", "e3", "e1", "e2"]);
    world.ok("e1", "a");
    world.ok("e1", "d");
    world.plain(&["f", "g", "h", "i"]);
    // Loads 0 2 1: then e1, and of e3 (used before) and e1 the one used before.
    assert_eq!(dispatches(&mut world), ["e1", "e3", "e1", "e2"]);
}

#[test]
fn lru_looks_at_loads_only_for_the_high_water_mark() {
    let mut world = World::new(config(Scheme::Lru, 2));
    world.register("e2");
    world.register("e1");
    world.plain(&["a", "b", "c"]);
    assert_eq!(dispatches(&mut world), ["e1", "e2", "e1"]);
    world.ok("e2", "b");
    world.plain(&["d", "e"]);
    assert_eq!(dispatches(&mut world), ["e2", "e2"], "e1 is full");
    world.plain(&["f"]);
    assert!(world.seen().is_empty());
    assert_eq!(world.pending("e2"), ["d", "e"]);
}

#[test]
fn pure_goes_round_without_a_mark() {
    let mut world = World::new(config(Scheme::Pure, 1));
    world.register("e2");
    world.register("e1");
    world.plain(&["a", "b", "c", "d"]);
    assert_eq!(dispatches(&mut world), ["e1", "e2", "e1", "e2"]);
    world.ok("e1", "a");
    world.ok("e1", "c");
    world.plain(&["e", "f"]);
    assert_eq!(dispatches(&mut world), ["e1", "e2"]);
    world.submit("g", json!({"follow": ["a"]}));
    assert_eq!(dispatches(&mut world), ["e1"], "dependencies work");
}

#[test]
fn random_schemes_keep_the_high_water_mark_and_depend_on_the_seed() {
    for scheme in [Scheme::PlainRandom, Scheme::Weighted, Scheme::TwoBin] {
        let run = |seed| {
            let mut world = World::new(TaskConfig {
                scheme,
                hwm: 3,
                seed,
                ..TaskConfig::default()
            });
            let engines: Vec<_> = (0..8).map(|n| format!("e{n}")).collect();
            for engine in &engines {
                world.register(engine);
            }
            for n in 0..24 {
                world.submit(&format!("t{n}"), json!({}));
            }
            let order = dispatches(&mut world);
            assert_eq!(order.len(), 24, "{scheme}: all of the room is used");
            world.plain(&["more"]);
            assert!(world.seen().is_empty());
            for engine in &engines {
                assert_eq!(world.pending(engine).len(), 3);
            }
            // Restricted to some engines, the same rule holds.
            world.submit("some", json!({"targets": ["e2", "e5"], "after": ["t0"]}));
            order
        };
        assert_eq!(run(1), run(1));
        assert_ne!(run(1), run(2), "{scheme}");
    }
}

#[test]
fn a_new_engine_is_used_first() {
    let mut world = World::new(config(Scheme::LeastLoad, 2));
    world.register("e1");
    world.plain(&["a"]);
    world.seen();
    world.ok("e1", "a");
    world.register("e2");
    world.plain(&["b", "c", "d", "e"]);
    assert_eq!(dispatches(&mut world), ["e2", "e1", "e2", "e1"]);
}

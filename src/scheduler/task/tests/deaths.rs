use super::*;

#[test]
fn what_ran_on_a_dead_engine_fails_and_names_it() {
    let mut world = World::with(&["e1", "e2"]);
    world.plain(&["a", "b", "c"]);
    world.seen();
    world.gone("e1");
    let why = world.why();
    for part in ["e1", "\"a\"", "killed"] {
        assert!(why.contains(part), "{why}");
    }
    world.gone("e1");
    world.gone("e9");
    assert!(world.seen().is_empty());
    world.ok("e2", "b");
    assert_eq!(world.seen(), ["c > e2"]);
    world.unknown("e1", "a");
}

#[test]
fn with_retries_left_it_goes_elsewhere() {
    let mut world = World::with(&["e1", "e2"]);
    world.submit("a", json!({"retries": 1}));
    world.submit("b", json!({"retries": 1}));
    world.seen();
    world.gone("e1");
    assert!(world.seen().is_empty());
    world.ok("e2", "b");
    assert_eq!(world.seen(), ["a > e2"]);
    world.gone("e2");
    assert_eq!(world.seen(), ["a ! EngineError e2"]);
}

#[test]
fn with_retries_left_it_waits_for_an_engine_when_there_is_none() {
    let mut world = World::with(&["e1"]);
    world.submit("a", json!({"retries": 1}));
    world.submit("b", json!({"retries": 1, "targets": ["e1"]}));
    world.seen();
    world.gone("e1");
    assert_eq!(world.seen(), ["b ! ImpossibleDependency"]);
    world.register("e2");
    assert_eq!(world.seen(), ["a > e2"]);
}

#[test]
fn a_retry_that_can_go_nowhere_is_an_engine_error() {
    let mut world = World::with(&["e1", "e2"]);
    world.submit("a", json!({"retries": 1, "targets": ["e1"]}));
    world.seen();
    world.gone("e1");
    assert_eq!(world.seen(), ["a ! EngineError e1"]);
}

#[test]
fn an_engine_that_comes_back_is_the_same_one() {
    let mut world = World::with(&["e1"]);
    world.submit("a", json!({"retries": 2}));
    world.plain(&["b"]);
    world.seen();
    world.gone("e1");
    assert!(world.seen().is_empty());
    world.register("e1");
    assert_eq!(world.seen(), ["a > e1 again"]);
    world.ok("e1", "a");
    assert_eq!(world.seen(), ["b > e1"]);
    world.submit("c", json!({"follow": ["a"]}));
    world.ok("e1", "b");
    assert_eq!(world.seen(), ["c > e1"]);
    world.register("e1");
    assert_eq!(
        world.pending("e1"),
        ["c"],
        "registering twice changes nothing"
    );
}

#[test]
fn a_late_reply_ends_a_task_that_waits_again() {
    let mut world = World::with(&["e1", "e2"]);
    world.submit("a", json!({"retries": 1}));
    world.plain(&["b"]);
    world.submit("c", json!({"after": ["a"]}));
    world.seen();
    world.gone("e1");
    world.ok("e1", "a");
    assert!(world.seen().is_empty());
    world.unknown("e1", "a");
    world.ok("e2", "b");
    assert_eq!(world.seen(), ["c > e2"]);
}

#[test]
fn a_late_reply_ends_a_task_that_runs_elsewhere_and_the_slot_is_freed_later() {
    let mut world = World::with(&["e1", "e2"]);
    world.submit("a", json!({"retries": 1}));
    world.seen();
    world.gone("e1");
    assert_eq!(world.seen(), ["a > e2"]);
    world.plain(&["b"]);
    world.ok("e1", "a");
    assert!(world.seen().is_empty(), "e2 still works on a");
    assert_eq!(world.pending("e2"), ["a"]);
    assert_eq!(world.scheduler.snapshot().engines[0].pending, 1);
    assert_eq!(world.scheduler.snapshot().waiting, 1);
    assert_eq!(
        world.scheduler.status("a"),
        Some(TaskStatus::Finished { ok: true })
    );
    world.unknown("e1", "a");
    assert!(world.seen().is_empty());
    world.unknown("e2", "a");
    assert_eq!(world.seen(), ["b > e2"]);
    world.unknown("e2", "a");
    assert_eq!(world.pending("e2"), ["b"]);
}

#[test]
fn an_engine_that_works_for_nothing_may_die_or_give_the_task_back() {
    for dies in [true, false] {
        let mut world = World::with(&["e1", "e2"]);
        world.submit("a", json!({"retries": 1}));
        world.seen();
        world.gone("e1");
        world.seen();
        world.ok("e1", "a");
        world.plain(&["b"]);
        assert!(world.seen().is_empty());
        if dies {
            world.gone("e2");
            assert!(world.seen().is_empty());
            world.register("e2");
        } else {
            assert!(!world.returned("e2", "a"));
        }
        assert_eq!(world.seen(), ["b > e2"]);
    }
}

#[test]
fn a_late_failure_is_what_the_retry_is_for() {
    let mut world = World::with(&["e1", "e2"]);
    world.submit("a", json!({"retries": 1}));
    world.seen();
    world.gone("e1");
    assert_eq!(world.seen(), ["a > e2"]);
    world.again("e1", "a", Outcome::Failed);
    world.unknown("e1", "a");
    world.ok("e2", "a");
}

#[test]
fn a_late_refusal_counts_when_the_engine_comes_back() {
    let mut world = World::with(&["e1", "e2"]);
    world.submit("a", json!({"retries": 1}));
    world.plain(&["b"]);
    world.seen();
    world.gone("e1");
    world.again("e1", "a", Outcome::Unmet);
    world.register("e1");
    assert!(world.seen().is_empty(), "a waits for e2");
    world.again("e2", "b", Outcome::Unmet);
    assert_eq!(world.seen(), ["b > e1", "a > e2"]);
    world.again("e2", "a", Outcome::Unmet);
    assert_eq!(world.seen(), ["a ! ImpossibleDependency"]);
}

#[test]
fn a_submission_with_the_id_of_a_task_that_still_haunts_an_engine() {
    let mut world = World::with(&["e1", "e2"]);
    world.submit("a", json!({"retries": 1}));
    world.seen();
    world.gone("e1");
    world.seen();
    world.ok("e1", "a");
    world.plain(&["a"]);
    assert!(world.seen().is_empty());
    world.unknown("e2", "a");
    assert_eq!(world.seen(), ["a > e2"]);
    world.ok("e2", "a");
}

#[test]
fn the_names_of_engines_that_have_gone_are_forgotten_in_the_end() {
    let mut world = World::with(&["first"]);
    world.plain(&["a"]);
    world.seen();
    world.ok("first", "a");
    let mut out = Vec::new();
    for n in 0..10_000 {
        let engine = EngineUuid::from(format!("e{n}"));
        let scheduler = &mut world.scheduler;
        scheduler.on_engine_registered(world.now, engine.clone(), &mut out);
        scheduler.on_engine_gone(world.now, &engine, "", &mut out);
    }
    assert!(out.is_empty());
    world.scheduler.sanity_check();
    assert!(world.scheduler.roster.iter().count() < 5_000);
    world.submit("b", json!({"follow": ["a"]}));
    assert_eq!(world.seen(), ["b > first"]);
}

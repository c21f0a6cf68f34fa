use super::*;

#[test]
fn a_failure_goes_to_another_engine_and_the_last_one_is_delivered() {
    let mut world = World::with(&["e1", "e2", "e3"]);
    world.submit("a", json!({"retries": 2}));
    assert_eq!(world.seen(), ["a > e1"]);
    world.again("e1", "a", Outcome::Failed);
    assert_eq!(world.seen(), ["a > e2"]);
    world.unknown("e1", "a");
    world.again("e2", "a", Outcome::Failed);
    assert_eq!(world.seen(), ["a > e3"]);
    world.failed("e3", "a");
    assert!(world.seen().is_empty());
}

#[test]
fn it_waits_for_another_engine_that_is_busy() {
    let mut world = World::with(&["e1", "e2"]);
    world.submit("a", json!({"retries": 1}));
    world.plain(&["b", "c"]);
    world.seen();
    world.again("e1", "a", Outcome::Failed);
    assert_eq!(world.seen(), ["c > e1"]);
    world.plain(&["d"]);
    world.ok("e1", "c");
    assert_eq!(world.seen(), ["d > e1"], "not where it failed");
    world.ok("e2", "b");
    assert_eq!(world.seen(), ["a > e2"]);
}

#[test]
fn with_one_engine_it_goes_there_again_with_a_new_signature() {
    let mut world = World::with(&["e1"]);
    world.submit("a", json!({"retries": 2}));
    world.plain(&["b"]);
    world.seen();
    world.again("e1", "a", Outcome::Failed);
    assert_eq!(world.seen(), ["a > e1 again"]);
    world.again("e1", "a", Outcome::Failed);
    assert_eq!(world.seen(), ["a > e1 again"]);
    world.failed("e1", "a");
    assert_eq!(world.seen(), ["b > e1"]);
}

#[test]
fn once_it_has_failed_everywhere_it_goes_anywhere_but_to_the_last() {
    let mut world = World::with(&["e1", "e2"]);
    world.submit("a", json!({"retries": 3}));
    for (engine, next) in [
        ("e1", "a > e2"),
        ("e2", "a > e1 again"),
        ("e1", "a > e2 again"),
    ] {
        world.seen();
        world.again(engine, "a", Outcome::Failed);
        assert_eq!(world.seen(), [next]);
    }
    world.failed("e2", "a");
}

#[test]
fn targets_are_kept_in_retries() {
    let mut world = World::with(&["e1", "e2", "e3"]);
    world.submit(
        "a",
        json!({"retries": 3, "targets": ["e1", "e2"], "timeout": 9}),
    );
    let mut lines = world.seen();
    for engine in ["e1", "e2", "e1"] {
        world.again(engine, "a", Outcome::Failed);
        lines.extend(world.seen());
    }
    assert_eq!(lines, ["a > e1", "a > e2", "a > e1 again", "a > e2 again"]);
}

#[test]
fn with_a_timeout_it_waits_for_an_engine_where_it_has_not_failed() {
    let mut world = World::with(&["e1"]);
    world.submit("a", json!({"retries": 9, "timeout": 0.1}));
    world.submit("b", json!({"retries": 9, "timeout": 0.1}));
    world.seen();
    world.again("e1", "a", Outcome::Failed);
    assert_eq!(world.seen(), ["b > e1"]);
    world.register("e2");
    assert_eq!(world.seen(), ["a > e2"]);
    world.again("e2", "a", Outcome::Failed);
    world.ok("e1", "b");
    world.pass(0.09);
    assert!(world.seen().is_empty());
    world.pass(0.01);
    assert_eq!(world.seen(), ["a ! TaskTimeout"]);
}

#[test]
fn an_unmet_dependency_sends_it_on_until_all_have_refused() {
    let mut world = World::with(&["e1", "e2"]);
    world.plain(&["a"]);
    assert_eq!(world.seen(), ["a > e1"]);
    world.again("e1", "a", Outcome::Unmet);
    assert_eq!(world.seen(), ["a > e2"]);
    world.again("e2", "a", Outcome::Unmet);
    assert_eq!(world.seen(), ["a ! ImpossibleDependency"]);
}

#[test]
fn refusals_use_no_retry_and_are_never_forgiven() {
    let mut world = World::with(&["e1", "e2"]);
    world.submit("a", json!({"retries": 2}));
    world.again("e1", "a", Outcome::Unmet);
    world.seen();
    world.again("e2", "a", Outcome::Failed);
    assert_eq!(
        world.seen(),
        ["a > e2 again"],
        "not to e1, which refused it"
    );
    world.again("e2", "a", Outcome::Failed);
    world.seen();
    world.again("e2", "a", Outcome::Unmet);
    assert_eq!(world.seen(), ["a ! ImpossibleDependency"]);
}

#[test]
fn targets_that_have_all_refused_are_impossible() {
    let mut world = World::with(&["e1", "e2", "e3"]);
    world.submit("a", json!({"targets": ["e1", "e3"], "timeout": 60}));
    world.again("e1", "a", Outcome::Unmet);
    world.again("e3", "a", Outcome::Unmet);
    assert_eq!(world.out.len(), 3);
    world.out.drain(..2);
    assert!(world.why().contains("dependencies are not met"));
}

#[test]
fn refused_by_all_with_a_timeout_it_waits_for_a_new_engine() {
    let mut world = World::with(&["e1"]);
    world.submit("a", json!({"timeout": 10}));
    world.submit("b", json!({"timeout": 20}));
    world.seen();
    world.again("e1", "a", Outcome::Unmet);
    assert_eq!(world.seen(), ["b > e1"]);
    world.again("e1", "b", Outcome::Unmet);
    world.pass(9.0);
    assert!(world.seen().is_empty());
    world.pass(2.0);
    assert_eq!(world.seen(), ["a ! TaskTimeout"]);
    world.register("e2");
    assert_eq!(world.seen(), ["b > e2"]);
}

#[test]
fn refused_by_all_but_one_that_then_dies() {
    let mut world = World::with(&["e1", "e2"]);
    world.plain(&["a", "b"]);
    world.seen();
    world.again("e1", "a", Outcome::Unmet);
    assert!(world.seen().is_empty(), "it waits for e2");
    world.gone("e2");
    assert_eq!(
        world.seen(),
        ["b ! EngineError e2", "a ! ImpossibleDependency"]
    );
}

#[test]
fn a_retry_that_waited_for_an_engine_that_dies_goes_where_it_failed() {
    let mut world = World::with(&["e1", "e2"]);
    world.submit("a", json!({"retries": 1}));
    world.plain(&["b"]);
    world.seen();
    world.again("e1", "a", Outcome::Failed);
    assert!(world.seen().is_empty());
    world.gone("e2");
    assert_eq!(world.seen(), ["b ! EngineError e2", "a > e1 again"]);
}

#[test]
fn a_task_that_was_refused_waits_when_there_is_no_engine_left() {
    let mut world = World::with(&["e1", "e2"]);
    world.plain(&["a", "b"]);
    world.seen();
    world.again("e1", "a", Outcome::Unmet);
    world.gone("e1");
    assert!(world.seen().is_empty());
    world.gone("e2");
    assert_eq!(world.seen(), ["b ! EngineError e2"]);
    world.register("e1");
    assert_eq!(
        world.seen(),
        ["a ! ImpossibleDependency"],
        "e1 has refused it"
    );
    world.plain(&["c"]);
    assert_eq!(world.seen(), ["c > e1"]);
}

#[test]
fn a_task_given_back_goes_elsewhere_and_uses_no_retry() {
    let mut world = World::with(&["e1", "e2"]);
    world.plain(&["a"]);
    world.seen();
    assert!(world.returned("e1", "a"));
    assert_eq!(world.seen(), ["a > e2"]);
    assert!(!world.returned("e1", "a"), "it has it no more");
    assert!(world.returned("e2", "a"));
    assert_eq!(world.seen(), ["a > e1 again"]);
    world.gone("e2");
    assert!(world.returned("e1", "a"));
    assert_eq!(world.seen(), ["a > e1 again"], "there is no other");
    assert!(!world.returned("e1", "nothing"));
    assert!(!world.returned("nobody", "a"));
    world.failed("e1", "a");
}

#[test]
fn a_task_given_back_with_a_timeout_does_not_wait_for_a_new_engine() {
    let mut world = World::with(&["e1"]);
    world.submit("a", json!({"timeout": 10, "retries": 1}));
    world.seen();
    assert!(world.returned("e1", "a"));
    assert_eq!(world.seen(), ["a > e1 again"]);
    world.again("e1", "a", Outcome::Failed);
    assert!(world.seen().is_empty());
}

#[test]
fn many_tasks_that_one_engine_refuses_do_not_hold_up_others() {
    let mut world = World::with(&["e1", "e2"]);
    world.submit("long", json!({"targets": ["e2"]}));
    for n in 0..50 {
        world.submit(&format!("t{n}"), json!({}));
    }
    world.seen();
    for n in 0..50 {
        world.again("e1", &format!("t{n}"), Outcome::Unmet);
    }
    world.seen();
    world.submit("last", json!({"targets": ["e1"]}));
    assert_eq!(world.seen(), ["last > e1"]);
    world.ok("e2", "long");
    assert_eq!(world.seen(), ["t0 > e2"]);
    world.ok("e2", "t0");
    assert_eq!(
        world.seen(),
        ["t1 > e2"],
        "in the order in which they came back"
    );
}

#[test]
fn a_task_that_the_only_engine_gives_back_as_it_leaves_waits_for_the_next() {
    let mut world = World::with(&["e1"]);
    world.plain(&["a"]);
    world.seen();
    world.scheduler.on_engine_leaving(b"e1");
    assert!(world.returned("e1", "a"));
    world.plain(&["b"]);
    world.gone("e1");
    assert!(world.seen().is_empty(), "neither sent nor failed");
    world.register("e1");
    assert_eq!(world.seen().len(), 1, "it is back for good");
    world.register("e2");
    assert_eq!(world.seen().len(), 1);
}

#[test]
fn what_was_on_its_way_when_an_engine_said_farewell_goes_elsewhere() {
    let mut world = World::new(config(Scheme::LeastLoad, 2));
    world.register("e1");
    world.plain(&["deadly", "behind"]);
    assert_eq!(world.seen(), ["deadly > e1", "behind > e1"]);
    world.register("e2");
    world.scheduler.on_engine_leaving(b"e1");
    world.failed("e1", "deadly");
    world
        .scheduler
        .on_farewell(world.now, b"e1", &mut world.out);
    assert_eq!(world.seen(), ["behind > e2"]);
    world.gone("e1");
    assert!(world.seen().is_empty(), "it has failed nowhere");
}

#[test]
fn a_task_whose_answer_was_lost_has_failed() {
    let mut world = World::with(&["e1", "e2"]);
    world.submit("a", json!({"retries": 1}));
    assert_eq!(world.seen(), ["a > e1"]);
    world.answer_lost("e2", "a");
    world.answer_lost("nobody", "a");
    assert!(world.seen().is_empty(), "another engine has it");
    world.answer_lost("e1", "a");
    assert_eq!(world.seen(), ["a > e2"], "it is tried again, elsewhere");
    world.answer_lost("e2", "a");
    assert_eq!(world.seen(), ["a ! EngineError e2"]);
    world.plain(&["b", "c"]);
    assert_eq!(world.seen(), ["b > e1", "c > e2"], "both are free");
}

use super::*;

/// `e1` and `e2` are expected, and had a task each.
fn restored() -> World {
    let mut world = World::new(TaskConfig::default());
    world.expect("e1");
    world.expect("e2");
    world.take_over("client", "a", &json!({}), "e1");
    world.take_over("client", "b", &json!({}), "e2");
    assert!(world.seen().is_empty());
    world
}

#[test]
fn what_an_engine_still_has_is_not_sent_again() {
    let mut world = restored();
    world.recollect("e1", &["a", "nobody's"]);
    world.register("e1");
    assert!(world.seen().is_empty());
    world.plain(&["c"]);
    assert!(world.seen().is_empty(), "it is busy");
    world.ok("e1", "a");
    assert_eq!(world.seen(), ["c > e1"]);
}

#[test]
fn what_it_does_not_have_any_more_goes_to_any() {
    let mut world = restored();
    world.recollect("e2", &[]);
    world.register("e2");
    assert_eq!(world.seen(), ["b > e2 again"]);
    world.recollect("e1", &[]);
    world.register("e3");
    assert_eq!(world.seen(), ["a > e3"]);
}

#[test]
fn its_answer_counts_before_it_is_registered_and_after_it_was_thought_lost() {
    let mut world = restored();
    world.ok("e1", "a");
    world.recollect("e2", &[]);
    world.ok("e2", "b");
    world.register("e1");
    world.register("e2");
    assert!(world.seen().is_empty());
}

#[test]
fn when_it_does_not_come_its_tasks_go_elsewhere_without_a_retry() {
    let mut world = restored();
    world.register("e3");
    world.gone("e1");
    world.gone("e2");
    assert_eq!(world.seen(), ["a > e3"]);
    world.ok("e3", "a");
    assert_eq!(world.seen(), ["b > e3"]);
}

#[test]
fn when_it_does_not_come_what_only_it_might_have_fails() {
    let mut world = World::with(&["e2"]);
    world.expect("e1");
    world.take_over("client", "a", &json!({"targets": ["e1"]}), "e1");
    world.gone("e1");
    assert_eq!(world.seen(), ["a ! EngineError e1"]);
}

#[test]
fn more_than_the_high_water_mark_may_be_there() {
    let mut world = restored();
    world.take_over("client", "c", &json!({}), "e1");
    world.recollect("e1", &["a", "c"]);
    world.register("e1");
    world.register("e3");
    assert!(world.seen().is_empty());
    world.plain(&["d", "f"]);
    assert_eq!(world.seen(), ["d > e3"]);
    world.ok("e1", "c");
    assert!(world.seen().is_empty());
    world.ok("e1", "a");
    assert_eq!(world.seen(), ["f > e1"]);
}

#[test]
fn what_it_has_answered_since_it_spoke_is_not_there() {
    let mut world = World::new(TaskConfig::default());
    world.expect("e1");
    world.take_over("client", "a", &json!({"retries": 2}), "e1");
    world.again("e1", "a", Outcome::Failed);
    world.recollect("e1", &["a"]);
    assert!(world.pending("e1").is_empty());
    world.register("e2");
    assert_eq!(world.seen(), ["a > e2"]);
}

#[test]
fn what_others_have_to_end_first_is_not_taken_to_be_there() {
    let mut world = restored();
    world.take_over("client", "c", &json!({"after": ["a"]}), "e3");
    world.expect("e3");
    world.take_over("client", "d", &json!({"after": ["b"]}), "e3");
    world.register("e3");
    assert!(world.seen().is_empty());
    world.ok("e1", "a");
    assert_eq!(world.seen(), ["c > e3"]);
}

#[test]
fn an_abort_reaches_what_is_taken_to_be_there() {
    let mut world = restored();
    world.abort(&["a", "b"]);
    assert!(world.seen().is_empty(), "the engines answer for it");
    world.recollect("e1", &[]);
    assert_eq!(world.seen(), ["a ! TaskAborted"]);
    world.gone("e2");
    assert_eq!(world.seen(), ["b ! TaskAborted"]);
}

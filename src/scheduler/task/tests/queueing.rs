use super::*;

#[test]
fn tasks_wait_for_the_first_engine_and_keep_their_order() {
    let mut world = World::new(TaskConfig::default());
    world.plain(&["a", "b", "c"]);
    assert!(world.seen().is_empty());
    world.register("e1");
    assert_eq!(world.seen(), ["a > e1"]);
    world.ok("e1", "a");
    assert_eq!(world.seen(), ["b > e1"]);
    world.register("e2");
    assert_eq!(world.seen(), ["c > e2"]);
}

#[test]
fn the_high_water_mark_is_kept_exactly() {
    let mut world = World::new(config(Scheme::LeastLoad, 3));
    world.register("e2");
    world.register("e1");
    for n in 0..8 {
        world.submit(&format!("t{n}"), json!({}));
    }
    assert_eq!(world.seen().len(), 6);
    assert_eq!(world.scheduler.snapshot().waiting, 2);
    world.ok("e1", "t0");
    assert_eq!(world.seen(), ["t6 > e1"]);
}

#[test]
fn a_task_goes_to_its_targets_alone() {
    let mut world = World::with(&["e1", "e2", "e3"]);
    world.submit("a", json!({"targets": ["e2"]}));
    world.submit("b", json!({"targets": ["e2", "e3"]}));
    world.submit("c", json!({"targets": ["e3", "e2"]}));
    world.plain(&["d", "e"]);
    assert_eq!(world.seen(), ["a > e2", "b > e3", "d > e1"]);
    world.ok("e1", "d");
    assert_eq!(world.seen(), ["e > e1"], "c is not for e1");
    world.ok("e3", "b");
    assert_eq!(world.seen(), ["c > e3"]);
}

#[test]
fn targets_that_are_not_there() {
    let mut world = World::with(&["e1"]);
    world.submit("a", json!({"targets": ["e9", "e8"]}));
    assert!(world.why().contains("e9, e8"));
    world.submit("b", json!({"targets": ["e9", "e1"]}));
    assert_eq!(world.seen(), ["b > e1"], "one of them is enough");
    world.submit("c", json!({"targets": ["e1"]}));
    world.gone("e1");
    assert_eq!(
        world.seen(),
        ["c ! ImpossibleDependency", "b ! EngineError e1"]
    );
    world.submit("d", json!({"targets": ["e1"]}));
    assert_eq!(world.seen(), ["d ! ImpossibleDependency"]);
}

#[test]
fn an_engine_that_is_expected_is_waited_for_until_it_is_given_up() {
    let mut world = World::with(&["e1"]);
    world.expect("e2");
    world.expect("e3");
    world.submit("a", json!({"targets": ["e2"]}));
    world.submit("b", json!({"targets": ["e3"]}));
    world.submit("c", json!({"targets": ["e2", "e3"]}));
    assert!(world.seen().is_empty());
    world.register("e2");
    assert_eq!(world.seen(), ["a > e2"]);
    world.gone("e3");
    assert_eq!(world.seen(), ["b ! ImpossibleDependency"]);
    world.ok("e2", "a");
    assert_eq!(world.seen(), ["c > e2"]);
    world.expect("e2");
    assert_eq!(world.scheduler.snapshot().engines.len(), 2);
}

#[test]
fn a_request_that_makes_no_sense_is_answered() {
    let mut world = World::with(&["e1"]);
    world.submit("a", json!({"timeout": "soon"}));
    assert_eq!(world.seen(), ["a ! ValueError"]);
    world.submit("b", json!({"after": ["a"]}));
    assert_eq!(world.seen(), ["b ! ImpossibleDependency"], "a has failed");
}

#[test]
fn a_msg_id_that_is_live_already_is_refused_and_changes_nothing() {
    let mut world = World::with(&["e1"]);
    world.plain(&["a", "a", "b", "b"]);
    assert_eq!(world.seen(), ["a > e1", "a ! ValueError", "b ! ValueError"]);
    world.ok("e1", "a");
    assert_eq!(world.seen(), ["b > e1"]);
    world.ok("e1", "b");
    world.plain(&["a"]);
    assert_eq!(
        world.seen(),
        ["a > e1"],
        "it may come again once it has ended"
    );
}

#[test]
fn replies_count_only_from_the_engine_that_has_the_task() {
    let mut world = World::with(&["e1", "e2"]);
    world.plain(&["a", "b", "c"]);
    assert_eq!(world.seen(), ["a > e1", "b > e2"]);
    world.unknown("e2", "a");
    world.unknown("e1", "c");
    world.unknown("e1", "nothing");
    world.unknown("nobody", "a");
    let verdict =
        world
            .scheduler
            .on_reply(world.now, b"\xff\xfe", "a", Outcome::Ok, &mut world.out);
    assert_eq!(verdict, Verdict::Unknown);
    world.ok("e1", "a");
    assert_eq!(world.seen(), ["c > e1"]);
    world.unknown("e1", "a");
    assert!(world.seen().is_empty(), "a replay frees nothing");
    assert_eq!(world.pending("e1"), ["c"]);
}

#[test]
fn clients_take_turns_and_newcomers_go_first() {
    let mut world = World::with(&["e"]);
    for n in 0..4 {
        world.submit_as("flood", &format!("f{n}"), &json!({}));
    }
    world.seen();
    world.submit_as("one", "x0", &json!({}));
    world.submit_as("one", "x1", &json!({}));
    world.submit_as("two", "y0", &json!({}));
    let mut order = vec!["f0".to_owned()];
    for _ in 0..6 {
        let running = order.last().unwrap().clone();
        world.reply("e", &running, Outcome::Ok);
        let line = world.seen().pop().unwrap();
        order.push(line.split(' ').next().unwrap().to_owned());
    }
    assert_eq!(order, ["f0", "x0", "y0", "f1", "x1", "f2", "f3"]);
}

#[test]
fn neither_targeted_nor_other_tasks_starve() {
    let mut world = World::with(&["e"]);
    for n in 0..40 {
        world.submit_as("any", &format!("a{n}"), &json!({}));
        world.submit_as("some", &format!("s{n}"), &json!({"targets": ["e"]}));
        world.submit_as("more", &format!("m{n}"), &json!({"targets": ["e"]}));
    }
    let mut running = world.seen().pop().unwrap();
    let mut turns = String::new();
    for _ in 0..30 {
        let msg_id = running.split(' ').next().unwrap().to_owned();
        turns.push_str(&msg_id[..1]);
        world.reply("e", &msg_id, Outcome::Ok);
        running = world.seen().pop().unwrap();
    }
    for client in ["a", "s", "m"] {
        assert_eq!(turns.matches(client).count(), 10, "{turns}");
    }
}

#[test]
fn one_client_keeps_its_order_across_kinds_of_tasks() {
    let mut world = World::with(&["e"]);
    world.plain(&["a", "b"]);
    world.submit("c", json!({"targets": ["e"]}));
    world.submit("d", json!({"after": ["a"]}));
    world.plain(&["f"]);
    world.submit("g", json!({"targets": ["e"]}));
    let mut order = Vec::new();
    while let Some(line) = world.seen().pop() {
        let msg_id = line.split(' ').next().unwrap().to_owned();
        world.ok("e", &msg_id);
        order.push(msg_id);
    }
    assert_eq!(order, ["a", "b", "c", "d", "f", "g"]);
}

#[test]
fn waiting_tasks_are_aborted_at_once_and_others_are_not_tried_again() {
    let mut world = World::with(&["e1"]);
    world.submit("a", json!({"retries": 5}));
    world.plain(&["b", "c"]);
    world.submit("d", json!({"after": ["b"]}));
    world.submit("f", json!({"after": ["b"]}));
    world.seen();
    assert_eq!(world.abort(&["b", "a", "d", "b", "nothing"]), 2);
    assert_eq!(
        world.seen(),
        [
            "b ! TaskAborted",
            "d ! TaskAborted",
            "f ! ImpossibleDependency"
        ]
    );
    assert_eq!(world.reply("e1", "a", Outcome::Aborted), delivered());
    assert_eq!(world.seen(), ["c > e1"]);
    assert_eq!(
        world.scheduler.status("b"),
        Some(TaskStatus::Finished { ok: false })
    );
}

#[test]
fn an_aborted_task_that_fails_is_not_tried_again() {
    let mut world = World::with(&["e1", "e2"]);
    for (msg_id, outcome) in [("a", Outcome::Failed), ("b", Outcome::Aborted)] {
        world.submit(msg_id, json!({"retries": 5, "targets": ["e1"]}));
        world.seen();
        assert_eq!(world.abort(&[msg_id]), 0);
        assert_eq!(world.reply("e1", msg_id, outcome), delivered());
        assert!(world.seen().is_empty());
    }
    world.submit("c", json!({"targets": ["e1"]}));
    world.seen();
    world.abort(&["c"]);
    world.again("e1", "c", Outcome::Unmet);
    assert_eq!(world.seen(), ["c ! TaskAborted"]);
    world.submit("d", json!({"targets": ["e1"]}));
    world.seen();
    world.abort(&["d"]);
    assert!(world.returned("e1", "d"));
    assert_eq!(world.seen(), ["d ! TaskAborted"]);
}

#[test]
fn timeouts_end_what_waits_on_time_and_nothing_that_runs() {
    let mut world = World::with(&["e1"]);
    world.submit("a", json!({"timeout": 1}));
    world.submit("b", json!({"timeout": 2.5}));
    world.submit("c", json!({"timeout": 1.5}));
    world.submit("d", json!({"after": ["c"]}));
    world.submit("f", json!({"after": ["a"], "timeout": 5}));
    assert_eq!(world.seen(), ["a > e1"]);
    assert_eq!(
        world.scheduler.next_deadline(),
        Some(world.now + Duration::from_millis(1500))
    );
    world.pass(1.4);
    assert!(world.seen().is_empty());
    world.pass(0.2);
    assert_eq!(
        world.seen(),
        ["c ! TaskTimeout", "d ! ImpossibleDependency"]
    );
    world.pass(3.0);
    assert_eq!(world.seen(), ["b ! TaskTimeout"]);
    world.ok("e1", "a");
    assert_eq!(world.seen(), ["f > e1"]);
    world.pass(1000.0);
    assert!(world.seen().is_empty());
    assert_eq!(world.scheduler.next_deadline(), None);
}

#[test]
fn what_is_where() {
    let mut world = World::with(&["e1", "e2"]);
    world.plain(&["a", "b", "c", "d"]);
    let status = |world: &World, msg_id: &str| world.scheduler.status(msg_id);
    assert_eq!(status(&world, "a"), Some(TaskStatus::Running("e1".into())));
    assert_eq!(status(&world, "c"), Some(TaskStatus::Waiting));
    assert_eq!(status(&world, "nothing"), None);
    world.ok("e1", "a");
    assert_eq!(status(&world, "a"), Some(TaskStatus::Finished { ok: true }));
    world.failed("e2", "b");
    assert_eq!(
        status(&world, "b"),
        Some(TaskStatus::Finished { ok: false })
    );
    world.plain(&["f", "g"]);
    let ids = world.scheduler.waiting_ids();
    assert_eq!(ids, ["f".into(), "g".into()]);
    // The engines were registered in the order e2, e1.
    assert_eq!(
        world.scheduler.snapshot(),
        TaskSnapshot {
            engines: [("e2", 1), ("e1", 0)]
                .map(|(uuid, failed)| EngineLoad {
                    uuid: uuid.into(),
                    pending: 1,
                    completed: 1,
                    failed
                })
                .to_vec(),
            waiting: 2
        }
    );
}

#[test]
fn a_key_is_that_of_one_job() {
    let mut world = World::with(&["e1"]);
    world.plain(&["a"]);
    let TaskAction::Dispatch { job, .. } = world.out[0] else {
        panic!();
    };
    assert_eq!(world.scheduler.msg_id(job), Some("a"));
    world.out.clear();
    world.ok("e1", "a");
    world.plain(&["b"]);
    assert_eq!(world.scheduler.msg_id(job), None);
    assert_eq!(world.scheduler.payload(job), None);
}

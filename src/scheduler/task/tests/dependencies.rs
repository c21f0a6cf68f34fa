use super::*;

#[test]
fn after_waits_for_all_or_any() {
    let mut world = World::new(config(Scheme::LeastLoad, 0));
    world.register("e1");
    world.plain(&["a", "b"]);
    world.submit("all", json!({"after": ["a", "b"]}));
    world.submit(
        "any",
        json!({"after": {"dependencies": ["a", "b"], "all": false}}),
    );
    world.seen();
    world.ok("e1", "b");
    assert_eq!(world.seen(), ["any > e1"]);
    world.ok("e1", "a");
    assert_eq!(world.seen(), ["all > e1"]);
}

#[test]
fn tasks_of_a_former_controller_can_be_depended_upon() {
    let mut world = World::new(config(Scheme::LeastLoad, 0));
    world.expect("e2");
    world
        .scheduler
        .on_ended_before("good", true, Some(&"e2".into()));
    world.scheduler.on_ended_before("bad", false, None);
    world.register("e1");
    world.submit("after", json!({"after": "good"}));
    world.submit("follows", json!({"follow": ["good"]}));
    world.submit("hopeless", json!({"after": "bad"}));
    assert_eq!(
        world.seen(),
        ["after > e1", "hopeless ! ImpossibleDependency"]
    );
    world.register("e2");
    assert_eq!(world.seen(), ["follows > e2"]);
}

#[test]
fn success_failure_and_what_becomes_of_those_that_want_the_other() {
    let kinds = [
        ("s", json!({"dependencies": ["a", "b"]})),
        (
            "f",
            json!({"dependencies": ["a", "b"], "success": false, "failure": true}),
        ),
        ("e", json!({"dependencies": ["a", "b"], "failure": true})),
        ("sa", json!({"dependencies": ["a", "b"], "all": false})),
        (
            "fa",
            json!({"dependencies": ["a", "b"], "all": false, "success": false, "failure": true}),
        ),
        (
            "ea",
            json!({"dependencies": ["a", "b"], "all": false, "failure": true}),
        ),
    ];
    let cases: [(bool, bool, &[&str], &[&str]); 3] = [
        (
            true,
            false,
            &["f ! ImpossibleDependency", "sa > e", "ea > e"],
            &["s ! ImpossibleDependency", "e > e", "fa > e"],
        ),
        (
            false,
            false,
            &["s ! ImpossibleDependency", "fa > e", "ea > e"],
            &["sa ! ImpossibleDependency", "f > e", "e > e"],
        ),
        (
            true,
            true,
            &["f ! ImpossibleDependency", "sa > e", "ea > e"],
            &["fa ! ImpossibleDependency", "s > e", "e > e"],
        ),
    ];
    let outcome = |ok| if ok { Outcome::Ok } else { Outcome::Failed };
    for (first, second, after_first, after_second) in cases {
        let mut world = World::new(config(Scheme::LeastLoad, 0));
        world.register("e");
        world.plain(&["a", "b"]);
        for (msg_id, after) in &kinds {
            world.submit(msg_id, json!({"after": after}));
        }
        world.seen();
        world.reply("e", "a", outcome(first));
        assert_eq!(world.seen(), after_first);
        world.reply("e", "b", outcome(second));
        assert_eq!(world.seen(), after_second);

        // The same of tasks that have ended already.
        for (msg_id, after) in &kinds {
            world.submit(&format!("{msg_id}2"), json!({"after": after}));
        }
        let mut before: Vec<_> = after_first.iter().chain(after_second).copied().collect();
        before.sort_unstable();
        let mut now = world.seen();
        now.sort_unstable();
        let now: Vec<_> = now.iter().map(|line| line.replacen('2', "", 1)).collect();
        assert_eq!(now, before);
    }
}

#[test]
fn ids_that_are_no_tasks_are_invalid_and_the_limit_is_named() {
    let mut world = World::new(TaskConfig {
        finished_limit: 2,
        ..TaskConfig::default()
    });
    world.register("e1");
    for kind in ["after", "follow"] {
        world.submit("a", json!({kind: ["x", "y", "z", "q"]}));
        let why = world.why();
        for part in ["x, y, z and 1 more", "last 2"] {
            assert!(why.contains(part), "{why}");
        }
        world.submit("a", json!({kind: ["a"]}));
        assert!(world.why().contains("itself"));
    }
    world.submit("b", json!({"follow": ["a"]}));
    assert_eq!(
        world.seen(),
        ["b ! ImpossibleDependency"],
        "a is known: it failed"
    );
}

#[test]
fn after_that_is_met_already_is_not_looked_at_further() {
    let mut world = World::with(&["e1"]);
    world.plain(&["a"]);
    world.ok("e1", "a");
    world.out.clear();
    world.submit(
        "b",
        json!({"after": {"dependencies": ["x", "a"], "all": false}}),
    );
    assert_eq!(world.seen(), ["b > e1"]);
    world.submit("c", json!({"after": ["x", "a"]}));
    assert_eq!(world.seen(), ["c ! InvalidDependency"]);
    world.submit(
        "d",
        json!({"follow": {"dependencies": ["x", "a"], "all": false}}),
    );
    assert_eq!(world.seen(), ["d ! InvalidDependency"], "as in ipyparallel");
}

#[test]
fn follow_all_is_one_engine_and_is_known_as_soon_as_it_is_not() {
    let mut world = World::with(&["e1", "e2", "e3"]);
    world.plain(&["a", "b", "c"]);
    world.submit("follows", json!({"follow": ["a", "b", "c"]}));
    world.seen();
    world.ok("e1", "a");
    assert!(world.seen().is_empty());
    world.ok("e2", "b");
    assert_eq!(
        world.seen(),
        ["follows ! ImpossibleDependency"],
        "before c has ended"
    );
}

#[test]
fn follow_waits_for_the_engine_even_if_others_are_idle() {
    let mut world = World::with(&["e1", "e2"]);
    world.plain(&["a"]);
    world.seen();
    world.ok("e1", "a");
    world.submit("long", json!({"targets": ["e1"]}));
    world.submit("b", json!({"follow": "a"}));
    assert_eq!(world.seen(), ["long > e1"]);
    world.ok("e1", "long");
    assert_eq!(world.seen(), ["b > e1"]);
}

#[test]
fn follow_any_widens_as_tasks_end() {
    let mut world = World::with(&["e1", "e2", "e3"]);
    world.plain(&["a", "b", "c"]);
    let follow = json!({"dependencies": ["a", "b", "c"], "all": false});
    world.submit("x", json!({"follow": follow}));
    world.seen();
    world.failed("e3", "c");
    assert!(world.seen().is_empty(), "c is not what it follows");
    world.submit("long", json!({"targets": ["e1"]}));
    world.ok("e1", "a");
    world.out.retain(|_| false);
    // x waits behind long on e1, until b ends on e2.
    assert_eq!(world.pending("e1"), ["x"]);
    world.submit("y", json!({"follow": follow}));
    assert!(world.seen().is_empty());
    world.ok("e2", "b");
    assert_eq!(world.seen(), ["y > e2"]);
}

#[test]
fn follow_with_targets() {
    let mut world = World::with(&["e1", "e2"]);
    world.plain(&["a", "b"]);
    world.seen();
    let any = json!({"dependencies": ["a", "b"], "all": false});
    world.submit("all", json!({"follow": ["a"], "targets": ["e2"]}));
    world.submit("any", json!({"follow": any, "targets": ["e2"]}));
    world.ok("e1", "a");
    assert_eq!(world.seen(), ["all ! ImpossibleDependency"]);
    world.ok("e2", "b");
    assert_eq!(world.seen(), ["any > e2"]);
    world.submit("late", json!({"follow": any, "targets": ["e1"]}));
    assert_eq!(world.seen(), ["late > e1"]);
}

#[test]
fn follow_any_where_none_of_the_engines_will_do() {
    let mut world = World::with(&["e1", "e2"]);
    world.plain(&["a", "b"]);
    world.seen();
    let any = json!({"dependencies": ["a", "b"], "all": false});
    world.submit("x", json!({"follow": any, "targets": ["e1"]}));
    world.failed("e1", "a");
    assert!(world.seen().is_empty());
    world.ok("e2", "b");
    assert_eq!(world.seen(), ["x ! ImpossibleDependency"]);
    world.submit("y", json!({"follow": any, "targets": ["e1"]}));
    assert_eq!(world.seen(), ["y ! ImpossibleDependency"]);
}

#[test]
fn follow_of_an_engine_that_goes() {
    let mut world = World::with(&["e1", "e2", "e3"]);
    world.plain(&["a", "b", "c"]);
    world.seen();
    world.ok("e1", "a");
    world.submit("all", json!({"follow": ["a", "b"]}));
    let any = json!({"dependencies": ["a", "b"], "all": false});
    world.submit("long", json!({"targets": ["e1"]}));
    world.submit("any", json!({"follow": any}));
    world.seen();
    world.gone("e1");
    assert_eq!(
        world.seen(),
        ["all ! ImpossibleDependency", "long ! EngineError e1"],
        "any may still follow b"
    );
    world.ok("e2", "b");
    assert_eq!(world.seen(), ["any > e2"]);
    world.submit("late", json!({"follow": ["a"]}));
    assert!(world.why().contains("e1"));
}

#[test]
fn follow_of_a_task_that_was_never_on_an_engine() {
    let mut world = World::with(&["e1"]);
    world.plain(&["long", "a", "b"]);
    world.seen();
    world.abort(&["a"]);
    world.seen();
    let of = |ids: &[&str], all: bool| json!({"follow": {"dependencies": ids, "all": all, "failure": true}});
    world.submit("all", of(&["a", "b"], true));
    world.submit("none", of(&["a"], false));
    world.submit("any", of(&["a", "b"], false));
    assert_eq!(
        world.seen(),
        ["all ! ImpossibleDependency", "none ! ImpossibleDependency"]
    );
    world.ok("e1", "long");
    world.ok("e1", "b");
    world.out.drain(..1);
    assert_eq!(world.seen(), ["any > e1"]);
}

#[test]
fn after_and_follow_of_the_same_task() {
    let mut world = World::with(&["e1", "e2"]);
    world.plain(&["a"]);
    world.seen();
    let any = json!({"dependencies": ["a"], "all": false});
    world.submit("b", json!({"after": any, "follow": any}));
    world.submit("c", json!({"after": ["a"], "follow": ["a"]}));
    world.ok("e1", "a");
    assert_eq!(world.seen(), ["b > e1"]);
    world.ok("e1", "b");
    assert_eq!(world.seen(), ["c > e1"]);
}

#[test]
fn a_diamond() {
    let mut world = World::new(config(Scheme::LeastLoad, 0));
    world.register("e1");
    world.plain(&["top"]);
    world.submit("left", json!({"after": ["top"]}));
    world.submit("right", json!({"after": ["top"]}));
    world.submit("bottom", json!({"after": ["left", "right"]}));
    world.submit(
        "other",
        json!({"after": {"dependencies": ["left", "right"], "success": false, "failure": true}}),
    );
    world.seen();
    world.ok("e1", "top");
    assert_eq!(world.seen(), ["left > e1", "right > e1"]);
    world.failed("e1", "left");
    assert_eq!(world.seen(), ["bottom ! ImpossibleDependency"]);
    world.failed("e1", "right");
    assert_eq!(world.seen(), ["other > e1"]);
}

#[test]
fn who_waits_for_others_ends_when_its_targets_go() {
    let mut world = World::with(&["e1", "e2"]);
    world.plain(&["a"]);
    world.submit("b", json!({"after": ["a"], "targets": ["e2"]}));
    world.submit("c", json!({"after": ["b"]}));
    world.seen();
    world.gone("e2");
    assert_eq!(
        world.seen(),
        ["b ! ImpossibleDependency", "c ! ImpossibleDependency"]
    );
    world.ok("e1", "a");
    assert!(world.seen().is_empty());
}

#[test]
fn a_task_that_is_tried_again_still_holds_up_those_that_need_it() {
    let mut world = World::with(&["e1", "e2"]);
    world.submit("a", json!({"retries": 1}));
    world.submit("b", json!({"follow": ["a"]}));
    world.seen();
    world.again("e1", "a", Outcome::Failed);
    assert_eq!(world.seen(), ["a > e2"]);
    world.ok("e2", "a");
    assert_eq!(world.seen(), ["b > e2"]);
}

#[test]
fn what_waits_is_told_apart_by_client_and_cause() {
    let mut world = World::with(&["e1"]);
    world.plain(&["s_1", "s_2"]);
    world.submit("s_3", json!({"after": "s_1"}));
    world.submit("t_1", json!({"after": ["s_2", "s_3"]}));
    let waiting = |world: &World| {
        let all = world.scheduler.waiting_by_client();
        let mut all: Vec<_> = all
            .map(|one| (one.session.to_owned(), one.blocked, one.ready))
            .collect();
        all.sort();
        all
    };
    // All of them come over one connection, which counts for the session that it began with.
    assert_eq!(waiting(&world), [("s".to_owned(), 2, 1)]);
    world.ok("e1", "s_1");
    assert_eq!(waiting(&world), [("s".to_owned(), 1, 1)]);
    world.ok("e1", "s_2");
    world.ok("e1", "s_3");
    assert_eq!(waiting(&world), [("s".to_owned(), 0, 0)]);
    world.ok("e1", "t_1");
    assert!(waiting(&world).is_empty());
}

//! The cases of ipyparallel 9.2's own tests that are the scheduler's affair (`tests/test_lbview.py`,
//! `tests/test_dependency.py`).

use super::*;

/// Engines at work for a client that waits for each task in turn. `fails` is whether a task fails.
fn run(world: &mut World, mut fails: impl FnMut(&str) -> bool) -> Vec<String> {
    let mut ends = Vec::new();
    loop {
        let lines = world.seen();
        if lines.is_empty() {
            return ends;
        }
        for line in lines {
            let words: Vec<_> = line.split(' ').collect();
            if words[1] == "!" {
                ends.push(line);
                continue;
            }
            let (msg_id, engine) = (words[0], words[2]);
            let failed = fails(msg_id);
            let outcome = if failed { Outcome::Failed } else { Outcome::Ok };
            if world.reply(engine, msg_id, outcome) != Verdict::Requeued {
                let how = if failed { "failed" } else { "ok" };
                ends.push(format!("{msg_id} {how} {engine}"));
            }
        }
    }
}

#[test]
fn test_z_crash() {
    let mut world = World::with(&["e0", "e1"]);
    world.plain(&["crash"]);
    world.seen();
    world.gone("e0");
    assert_eq!(world.seen(), ["crash ! EngineError e0"]);
}

#[test]
fn test_map() {
    for count in [16, 101] {
        let mut world = World::with(&["e0", "e1", "e2", "e3"]);
        for n in 0..count {
            world.submit(&format!("t{n}"), json!({}));
        }
        let ends = run(&mut world, |_| false);
        assert_eq!(ends.len(), count);
        assert!(ends.iter().all(|end| end.contains(" ok ")));
    }
}

#[test]
fn test_abort() {
    let mut world = World::with(&["e0"]);
    world.plain(&["sleep", "ar2", "ar3"]);
    world.seen();
    assert_eq!(world.abort(&["ar2"]), 1);
    assert_eq!(world.abort(&["ar3"]), 1);
    assert_eq!(world.seen(), ["ar2 ! TaskAborted", "ar3 ! TaskAborted"]);
}

#[test]
fn test_retries() {
    let mut world = World::with(&["e0", "e1", "e2"]);
    for retries in 0..2 {
        world.submit("fail", json!({"retries": retries}));
        let ends = run(&mut world, |_| true);
        assert_eq!(ends.len(), 1);
        assert!(ends[0].starts_with("fail failed"));
    }
    world.submit("fail", json!({"retries": 3, "timeout": 0.1}));
    assert!(run(&mut world, |_| true).is_empty());
    world.pass(0.1);
    assert_eq!(world.seen(), ["fail ! TaskTimeout"]);
}

#[test]
fn test_short_timeout() {
    let mut world = World::with(&["e0", "e1"]);
    world.submit("fail", json!({"retries": 1, "timeout": 0.01}));
    for engine in ["e0", "e1"] {
        assert_eq!(world.seen(), [format!("fail > {engine}")]);
        world.pass(0.25);
        assert!(world.seen().is_empty());
        world.reply(engine, "fail", Outcome::Failed);
    }
    assert_eq!(
        world.scheduler.status("fail"),
        Some(TaskStatus::Finished { ok: false })
    );
}

#[test]
fn test_invalid_dependency() {
    let mut world = World::with(&["e0"]);
    world.submit("a", json!({"after": ["12345"]}));
    assert_eq!(world.seen(), ["a ! InvalidDependency"]);
}

#[test]
fn test_impossible_dependency() {
    let mut world = World::with(&["e0", "e1"]);
    world.plain(&["ar1"]);
    assert_eq!(run(&mut world, |_| false), ["ar1 ok e0"]);
    world.plain(&["ar2"]);
    assert_eq!(run(&mut world, |_| false), ["ar2 ok e1"]);
    world.submit("b", json!({"follow": ["ar1", "ar2"]}));
    assert_eq!(world.seen(), ["b ! ImpossibleDependency"]);
}

#[test]
fn test_follow() {
    let mut world = World::with(&["e0", "e1", "e2"]);
    world.plain(&["first"]);
    run(&mut world, |_| false);
    for n in 0..5 {
        world.submit(&format!("t{n}"), json!({"follow": ["first"]}));
    }
    let ends = run(&mut world, |_| false);
    assert_eq!(ends.len(), 5);
    assert!(ends.iter().all(|end| end.ends_with(" e0")));
}

#[test]
fn test_after() {
    let mut world = World::with(&["e0", "e1"]);
    world.plain(&["sleep"]);
    world.submit("after", json!({"after": ["sleep"]}));
    assert_eq!(world.seen(), ["sleep > e0"]);
    world.ok("e0", "sleep");
    assert_eq!(world.seen(), ["after > e1"]);
}

/// `Dependency.check` and `Dependency.unreachable` over tasks of which the even ones succeeded.
#[test]
fn test_success_only_and_test_failure_only() {
    let mut world = World::new(config(Scheme::LeastLoad, 0));
    world.register("e0");
    for n in 0..25 {
        world.submit(&n.to_string(), json!({}));
    }
    run(&mut world, |msg_id| msg_id.parse::<u32>().unwrap() % 2 == 1);
    let of = |step: usize| -> Vec<_> { (0..10).step_by(step).map(|n| n.to_string()).collect() };
    let (mixed, completed) = (of(1), of(2));
    let met = "dep > e0";
    let unreachable = "dep ! ImpossibleDependency";
    for (ids, all, success, expected) in [
        (&mixed, true, true, unreachable),
        (&mixed, false, true, met),
        (&completed, true, true, met),
        (&completed, false, true, met),
        (&mixed, true, false, unreachable),
        (&mixed, false, false, met),
        (&completed, true, false, unreachable),
        (&completed, false, false, unreachable),
    ] {
        let dependency =
            json!({"dependencies": ids, "all": all, "success": success, "failure": !success});
        world.submit("dep", json!({"after": dependency}));
        assert_eq!(world.seen(), [expected], "{dependency}");
        world.reply("e0", "dep", Outcome::Ok);
        world.submit("dep", json!({"follow": dependency}));
        assert_eq!(world.seen(), [expected], "{dependency}");
        world.reply("e0", "dep", Outcome::Ok);
    }
}

/// `@require` and `@depend`: where the function's needs are not met, another engine is tried.
#[test]
fn test_require() {
    let mut world = World::with(&["e0", "e1", "e2"]);
    world.plain(&["bar"]);
    world.seen();
    world.again("e0", "bar", Outcome::Unmet);
    assert_eq!(world.seen(), ["bar > e1"]);
    world.ok("e1", "bar");
}

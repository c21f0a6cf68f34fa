//! What may happen to a scheduler, at random.

use proptest::prelude::*;

use super::*;

/// What happens; the numbers choose among what there is.
#[derive(Clone, Debug)]
pub(super) enum Op {
    Submit {
        client: usize,
        targets: u8,
        after: Option<Needs>,
        follow: Option<Needs>,
        retries: u32,
        timeout: u32,
        /// An engine to which a former controller had sent it.
        at: Option<usize>,
    },
    /// The same few ids over and over.
    SubmitAgain {
        id: usize,
    },
    Register(usize),
    Gone(usize),
    Expect(usize),
    /// An expected engine says that it does not have every `nth` of the tasks that it is taken to have, and comes.
    Recollect {
        engine: usize,
        nth: usize,
    },
    /// An engine answers a message that it has, even when it is given up for gone.
    Answer {
        message: usize,
        outcome: Outcome,
    },
    Return {
        message: usize,
    },
    /// An engine answers a message that it has, and nobody hears of it until the engine says so.
    LoseAnswer {
        message: usize,
    },
    /// An engine answers whatever task it likes.
    Lie {
        engine: usize,
        task: usize,
    },
    Abort {
        tasks: [usize; 2],
    },
    Pass {
        millis: u32,
    },
}

#[derive(Clone, Debug)]
pub(super) struct Needs {
    /// Counted back from the newest task.
    pub(super) back: Vec<usize>,
    pub(super) all: bool,
    success: bool,
    failure: bool,
}

fn needs() -> impl Strategy<Value = Option<Needs>> {
    let needs = (
        prop::collection::vec(0..12_usize, 1..4),
        any::<bool>(),
        prop_oneof![4 => Just((true, false)), 1 => Just((false, true)), 1 => Just((true, true))],
    )
        .prop_map(|(back, all, (success, failure))| Needs {
            back,
            all,
            success,
            failure,
        });
    prop::option::weighted(0.3, needs)
}

fn outcome() -> impl Strategy<Value = Outcome> {
    prop_oneof![
        6 => Just(Outcome::Ok),
        3 => Just(Outcome::Failed),
        2 => Just(Outcome::Unmet),
        1 => Just(Outcome::Aborted),
    ]
}

pub(super) fn op() -> impl Strategy<Value = Op> {
    let submit = (
        0..CLIENTS,
        prop_oneof![3 => Just(0_u8), 1 => any::<u8>()],
        needs(),
        needs(),
        0..3_u32,
        prop_oneof![2 => Just(0_u32), 1 => 1..100_u32],
        prop::option::weighted(0.3, 0..ENGINES),
    )
        .prop_map(
            |(client, targets, after, follow, retries, timeout, at)| Op::Submit {
                client,
                targets,
                after,
                follow,
                retries,
                timeout,
                at,
            },
        );
    prop_oneof![
        24 => submit,
        2 => (0..2_usize).prop_map(|id| Op::SubmitAgain { id }),
        4 => (0..ENGINES).prop_map(Op::Register),
        2 => (0..ENGINES).prop_map(Op::Gone),
        2 => (0..ENGINES).prop_map(Op::Expect),
        2 => (0..ENGINES, 1..4_usize).prop_map(|(engine, nth)| Op::Recollect { engine, nth }),
        24 => (any::<usize>(), outcome()).prop_map(|(message, outcome)| Op::Answer { message, outcome }),
        2 => any::<usize>().prop_map(|message| Op::Return { message }),
        2 => any::<usize>().prop_map(|message| Op::LoseAnswer { message }),
        3 => (0..ENGINES, any::<usize>()).prop_map(|(engine, task)| Op::Lie { engine, task }),
        2 => any::<[usize; 2]>().prop_map(|tasks| Op::Abort { tasks }),
        3 => (1..40_u32).prop_map(|millis| Op::Pass { millis }),
    ]
}

impl Needs {
    pub(super) fn accepts(&self, ok: bool) -> bool {
        if ok { self.success } else { self.failure }
    }

    pub(super) fn json(&self, ids: &[String]) -> Value {
        json!({"dependencies": ids, "all": self.all, "success": self.success, "failure": self.failure})
    }
}

//! libFuzzer on the target that $FUZZ_TARGET names.
#![no_main]

use std::sync::OnceLock;

use ipcluster::fuzzing::{TARGETS, Target};
use libfuzzer_sys::fuzz_target;

fn target() -> Target {
    static TARGET: OnceLock<Target> = OnceLock::new();
    *TARGET.get_or_init(|| {
        let name = std::env::var("FUZZ_TARGET").unwrap_or_default();
        let names: Vec<&str> = TARGETS.iter().map(|(name, _)| *name).collect();
        let found = TARGETS.iter().find(|(known, _)| *known == name);
        found.unwrap_or_else(|| panic!("$FUZZ_TARGET is {name:?}: it names one of {names:?}")).1
    })
}

fuzz_target!(|data: &[u8]| target()(data));

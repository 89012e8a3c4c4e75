//! A task expression: what is written for it reads back as the same.
#![no_main]

use libfuzzer_sys::fuzz_target;
use taskbasis::{Scale, TaskExpr};

fuzz_target!(|text: &str| {
    let Ok(expr) = text.parse::<TaskExpr>() else { return };
    assert!(expr.terms().iter().all(|(_, scale)| match scale {
        Scale::Whole(lambda) => lambda.is_finite(),
        Scale::Groups(groups) => groups.iter().all(|(_, lambda)| lambda.is_finite()),
    }));
    let written = expr.to_string();
    assert_eq!(written.parse::<TaskExpr>().ok(), Some(expr), "{written}");
});

//! Fuzzes `checks::check_metadata`.

#![no_main]

#[allow(dead_code, reason = "each target uses one of the checks")]
#[path = "../checks.rs"]
mod checks;

use libfuzzer_sys::fuzz_target;

fuzz_target!(
    init: {
        // A panic that the library catches is not a finding; one that it does not ends the process all the same.
        std::panic::set_hook(Box::new(|panic| eprintln!("{panic}")));
    },
    |bytes: &[u8]| {
        checks::check_metadata(bytes);
    }
);

//! The configuration's text.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    if let Err(error) = dmm_admin::config::Config::parse(text) {
        assert!(!error.to_string().is_empty(), "an error without words");
    }
});

//! The parser of Python literals: no text may make it panic, and what it reads it must write so that it reads the same.
#![no_main]

use barman_snap::model::Literal;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let Ok(value) = Literal::parse(text) else { return };
    let written = value.to_string();
    let again = Literal::parse(&written).expect("what was written must read");
    // NaN is not equal to itself, therefore the texts.
    assert_eq!(again.to_string(), written);
    if value.check_storable().is_ok() {
        assert_eq!(again, value);
    }
});

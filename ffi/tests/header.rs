//! The committed header is the one that the sources give. With `UPDATE_HEADER=1` it is written instead (`make header`).

use std::path::Path;

fn generated() -> String {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let config = cbindgen::Config::from_file(here.join("cbindgen.toml")).expect("cbindgen.toml is sound");
    let bindings =
        cbindgen::Builder::new().with_crate(here).with_config(config).generate().expect("cbindgen reads the sources");
    let mut header = Vec::new();
    bindings.write(&mut header);
    String::from_utf8(header).expect("a header is text")
}

#[test]
fn the_committed_header_is_the_one_that_the_sources_give() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../include/barman_snap.h");
    let fresh = generated();
    if std::env::var_os("UPDATE_HEADER").is_some() {
        std::fs::write(&path, &fresh).expect("the header can be written");
    }
    let committed = std::fs::read_to_string(&path).unwrap_or_default();
    let difference = committed.lines().zip(fresh.lines()).position(|(old, new)| old != new);
    assert!(
        committed == fresh,
        "include/barman_snap.h is not what the sources give, from line {} on: run `make header`",
        difference.unwrap_or_else(|| committed.lines().count().min(fresh.lines().count())) + 1
    );
}

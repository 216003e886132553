//! `dmm.h` is what the source says. `DMM_WRITE_HEADER=1` in the environment writes it anew.

use std::path::Path;

#[test]
fn the_header_is_that_of_the_source() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"));
    let config = cbindgen::Config::from_file(folder.join("cbindgen.toml")).expect("it parses");
    let bindings = cbindgen::generate_with_config(folder, config).expect("the source parses");
    let mut generated = Vec::new();
    bindings.write(&mut generated);
    let header = folder.join("include/dmm.h");
    if std::env::var_os("DMM_WRITE_HEADER").is_some() {
        std::fs::write(&header, &generated).expect("the folder can be written");
    }
    let found = std::fs::read(&header).expect("it is checked in");
    assert!(
        found == generated,
        "{} differs from its source: DMM_WRITE_HEADER=1 cargo test -p dmm-c --test header",
        header.display()
    );
}

//! The build refuses a DPDK that is too old, or not there, and names the package to install.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The build script of this crate, as cargo compiled it last: beside the folder of its output.
fn build_script() -> PathBuf {
    let builds = Path::new(env!("OUT_DIR")).ancestors().nth(2).expect("target/<profile>/build");
    let scripts = fs::read_dir(builds).expect("it was built").flatten().filter_map(|entry| {
        let of_ours = entry.file_name().to_string_lossy().starts_with("dpdk-sys-");
        let script = entry.path().join("build-script-build");
        let modified = of_ours.then(|| script.metadata()?.modified()).transpose().ok()??;
        Some((modified, script))
    });
    scripts.max().expect("it was built").1
}

/// What the build says where pkg-config finds only what is in `folder`.
fn refusal(folder: &Path) -> String {
    let output = Command::new(build_script())
        .env("PKG_CONFIG_LIBDIR", folder)
        .env_remove("PKG_CONFIG_PATH")
        .env("OUT_DIR", folder)
        .env("TARGET", "x86_64-unknown-linux-gnu")
        .env("HOST", "x86_64-unknown-linux-gnu")
        .output()
        .expect("it runs");
    let words = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{words}");
    words
}

#[test]
fn what_is_older_than_22_11_is_refused_and_the_package_named() {
    let folder = std::env::temp_dir().join(format!("dpdk-sys-{}", std::process::id()));
    fs::create_dir(&folder).expect("fresh");
    let none = refusal(&folder);
    let library = "Name: DPDK\nDescription: of last year\nVersion: 21.11.9\nLibs:\nCflags:\n";
    fs::write(folder.join("libdpdk.pc"), library).expect("ours");
    let old = refusal(&folder);
    fs::remove_dir_all(&folder).expect("ours");
    for words in [none, old] {
        assert_eq!(words.lines().count(), 1, "{words}");
        assert!(words.contains("22.11") && words.contains("install libdpdk-dev"), "{words}");
    }
}

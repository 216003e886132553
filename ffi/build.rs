//! Generates the bindings from the DPDK headers that pkg-config names, compiles the wrappers of
//! their inline functions, and links the few shared libraries in use.
//!
//! Must never fall back to bindings made elsewhere: mbuf layout differs between releases.

use std::env;
use std::path::{Path, PathBuf};
use std::process::exit;

use bindgen::callbacks::{IntKind, ParseCallbacks};

/// The oldest release that is known to have all that is used: `rte_dev_name`, per-vdev cleanup.
const OLDEST: &str = "22.11";

/// Shared libraries in use, by name: `pkg-config --libs` would drag in fifty. The linker records
/// those of which a symbol is used. Drivers, and the mempools' ring, are loaded by the EAL from its
/// own folder at run time.
const LIBRARIES: [&str; 7] =
    ["rte_eal", "rte_ethdev", "rte_mbuf", "rte_mempool", "rte_net", "rte_net_ring", "rte_ring"];

const FUNCTIONS: &str = "rte_(eal|eth|intr|mbuf|pktmbuf|mempool|lcore|socket|dev|vdev|ring|log)_.*\
    |rte_thread_(register|unregister)|rte_(openlog_stream|log|strerror|version)|dpdk_sys_.*";
const TYPES: &str = "rte_(eal|eth|intr|mbuf|pktmbuf|mempool|lcore|dev|vdev|ring|ether|log)_.*|rte_mbuf\
    |rte_mempool|rte_ring|dpdk_sys_.*";
const CONSTANTS: &str = "RTE_.*|RING_F_.*|LCORE_ID_ANY|SOCKET_ID_ANY|rte_.*";

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-changed=shim.h");
    let dpdk = find_dpdk();
    require_libclang();
    let cflags = cflags(&dpdk);
    let out = PathBuf::from(env::var_os("OUT_DIR").unwrap_or_else(|| fail("OUT_DIR is not set")));
    let wrappers = generate(&cflags, &out);
    compile(&cflags, &wrappers);
    for folder in &dpdk.link_paths {
        println!("cargo:rustc-link-search=native={}", folder.display());
    }
    for library in LIBRARIES {
        println!("cargo:rustc-link-lib=dylib={library}");
    }
    println!("cargo:rustc-env=DPDK_SYS_PKG_VERSION={}", dpdk.version);
    println!("cargo:version={}", dpdk.version);
}

fn fail(message: &str) -> ! {
    eprintln!("dpdk-sys: {message}");
    exit(1)
}

fn find_dpdk() -> pkg_config::Library {
    match pkg_config::Config::new().cargo_metadata(false).atleast_version(OLDEST).probe("libdpdk") {
        Ok(library) => library,
        Err(pkg_config::Error::ProbeFailure { .. }) => fail(&format!(
            "pkg-config finds no DPDK of release {OLDEST} or newer: install libdpdk-dev \
             (apt-get install libdpdk-dev), or build without the feature `dpdk`"
        )),
        Err(error) => fail(&format!(
            "pkg-config cannot be asked for libdpdk ({error}): install pkg-config and libdpdk-dev"
        )),
    }
}

/// bindgen panics at length when libclang is missing; one line serves the reader better.
fn require_libclang() {
    if let Err(error) = bindgen_loads_libclang() {
        fail(&format!("libclang cannot be loaded ({error}): install libclang-dev"));
    }
}

fn bindgen_loads_libclang() -> Result<(), String> {
    let quiet = std::panic::take_hook();
    std::panic::set_hook(Box::new(|_| {}));
    let loaded = std::panic::catch_unwind(bindgen::clang_version);
    std::panic::set_hook(quiet);
    loaded.map(|_| ()).map_err(|panic| {
        let text = panic.downcast_ref::<String>().map_or("not found", String::as_str);
        text.lines().next().unwrap_or("not found").to_owned()
    })
}

/// `-I`, `-include` and `-march` as pkg-config gives them: its typed fields lose the last two.
fn cflags(dpdk: &pkg_config::Library) -> Vec<String> {
    let pkg_config = env::var("PKG_CONFIG").unwrap_or_else(|_| "pkg-config".to_owned());
    match std::process::Command::new(pkg_config).args(["--cflags", "libdpdk"]).output() {
        Ok(output) if output.status.success() => {
            String::from_utf8_lossy(&output.stdout).split_whitespace().map(str::to_owned).collect()
        }
        _ => dpdk.include_paths.iter().map(|folder| format!("-I{}", folder.display())).collect(),
    }
}

/// Bindgen would make every `#define` a `u32` or narrower; sizes and flags are wanted wide.
#[derive(Debug)]
struct MacroTypes;

impl ParseCallbacks for MacroTypes {
    fn int_macro(&self, name: &str, _value: i64) -> Option<IntKind> {
        let wide = ["RTE_ETH_RX_OFFLOAD_", "RTE_ETH_TX_OFFLOAD_", "RTE_ETH_RSS_", "RTE_MBUF_F_"];
        wide.iter().any(|prefix| name.starts_with(prefix)).then_some(IntKind::U64)
    }
}

fn generate(cflags: &[String], out: &Path) -> PathBuf {
    let wrappers = out.join("wrappers.c");
    let bindings = bindgen::Builder::default()
        .header("shim.h")
        .clang_args(cflags)
        .clang_macro_fallback()
        .clang_macro_fallback_build_dir(out)
        .wrap_static_fns(true)
        .wrap_static_fns_path(&wrappers)
        .allowlist_function(FUNCTIONS)
        .allowlist_type(TYPES)
        .allowlist_var(CONSTANTS)
        .opaque_type("rte_(arp|l2tpv2|gtp|geneve)_.*")
        .default_enum_style(bindgen::EnumVariation::Consts)
        .prepend_enum_name(false)
        .derive_default(true)
        .generate_comments(false)
        .layout_tests(true)
        .parse_callbacks(Box::new(MacroTypes))
        .generate();
    match bindings.map(|bindings| bindings.write_to_file(out.join("bindings.rs"))) {
        Ok(Ok(())) => wrappers,
        Ok(Err(error)) => fail(&format!("cannot write the bindings: {error}")),
        Err(error) => fail(&format!(
            "the DPDK headers do not parse ({error}): reinstall libdpdk-dev and libclang-dev"
        )),
    }
}

fn compile(cflags: &[String], wrappers: &Path) {
    let mut build = cc::Build::new();
    build.file(wrappers).include(".").opt_level(3).warnings(false);
    for flag in cflags {
        build.flag(flag);
    }
    if let Err(error) = build.try_compile("dpdk_sys_wrappers") {
        fail(&format!("the inline functions' wrappers do not compile: {error}"));
    }
}

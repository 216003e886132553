//! Gives the library its soname: programs bind to the major version of the interface, not to the file.

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    let interface = env!("CARGO_PKG_VERSION_MAJOR");
    println!("cargo:rustc-cdylib-link-arg=-Wl,-soname,libdmm.so.{interface}");
}

//! DPDK's environment (EAL): once per process, before any port.
//!
//! Called by the daemon's control thread at start. Must never: pin the calling thread, or leave
//! files behind when it was asked to stay in memory.

use std::ffi::{CString, c_char};
use std::marker::PhantomData;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use nix::errno::Errno as SystemErrno;
use nix::sched::{CpuSet, sched_getaffinity};
use nix::unistd::Pid;

use super::error::{Errno, Error};
use super::interrupts;

/// Where packet memory comes from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum HugePages {
    /// Reserved huge pages; an error if there are none.
    Use,
    /// Ordinary pages. Enough for virtual devices; PCI devices then need an IOMMU.
    #[default]
    Never,
}

/// How much DPDK says on standard error and to syslog.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u32)]
pub enum LogLevel {
    /// What failed.
    Error = dpdk_sys::RTE_LOG_ERR,
    /// And what is odd.
    #[default]
    Warning = dpdk_sys::RTE_LOG_WARNING,
    /// And what is normal but worth a line.
    Notice = dpdk_sys::RTE_LOG_NOTICE,
    /// And progress.
    Info = dpdk_sys::RTE_LOG_INFO,
    /// And everything else.
    Debug = dpdk_sys::RTE_LOG_DEBUG,
}

/// What DPDK's environment starts with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EalConfig {
    /// The kind of pages.
    pub huge: HugePages,
    /// Memory to take at start, in MiB. `None`: [`DEFAULT_MEMORY_MB`] of ordinary pages, or huge
    /// pages as they are needed.
    pub memory_mb: Option<u32>,
    /// What sets this process's run-time files apart from other DPDK processes'. `None`: `dmm-`
    /// and the process id. Of no effect with `in_memory`.
    pub file_prefix: Option<String>,
    /// Leave no file in the page directory or the run-time folder.
    pub in_memory: bool,
    /// One memory file per page size: vhost-user and memif pass few descriptors.
    pub single_file_segments: bool,
    /// The PCI addresses that may be opened. None: the PCI bus is left alone.
    pub pci: Vec<String>,
    /// How much is logged.
    pub log_level: LogLevel,
}

impl Default for EalConfig {
    fn default() -> Self {
        Self {
            huge: HugePages::default(),
            memory_mb: None,
            file_prefix: None,
            in_memory: true,
            single_file_segments: false,
            pci: Vec::new(),
            log_level: LogLevel::default(),
        }
    }
}

/// Memory taken with [`HugePages::Never`], which cannot grow later: some 20 queue pairs of the
/// default size (3.2 MiB each, see `pool`) and as much again for the drivers. Pages that are never
/// touched cost nothing.
pub const DEFAULT_MEMORY_MB: u32 = 128;

/// The environment, once started. Clones are handles to the same one, which every port holds; it
/// ends with the last.
#[derive(Clone, Debug)]
pub struct Eal(Arc<Environment>);

#[derive(Debug)]
struct Environment {
    pci: Vec<String>,
    log_level: LogLevel,
}

impl Eal {
    /// Starts DPDK in this process. The calling thread becomes DPDK's main thread; its CPU
    /// affinity stays as it is.
    ///
    /// # Errors
    /// [`Error::AlreadyInitialised`] the second time (DPDK cannot start twice, not even after a
    /// failure); [`Error::Init`] with DPDK's reason.
    pub fn init(config: &EalConfig) -> Result<Self, Error> {
        static STARTED: AtomicBool = AtomicBool::new(false);

        let arguments = arguments(config, &allowed_cpus()?)?;
        if STARTED.swap(true, Ordering::Relaxed) {
            return Err(Error::AlreadyInitialised);
        }
        // DPDK keeps pointers into its arguments and permutes the array: both are leaked, once.
        let argv: &'static mut [*mut c_char] =
            arguments.into_iter().map(CString::into_raw).collect::<Vec<_>>().leak();
        let argc = i32::try_from(argv.len()).unwrap_or(i32::MAX);
        // SAFETY: `argc` NUL-terminated strings that live for ever, and the first call.
        let returned = unsafe { dpdk_sys::rte_eal_init(argc, argv.as_mut_ptr()) };
        if returned < 0 {
            let reason = Errno::last();
            return Err(Error::Init { reason, remedy: remedy(config, reason) });
        }
        let pci = config.pci.iter().map(|address| address.to_ascii_lowercase()).collect();
        Ok(Self(Arc::new(Environment { pci, log_level: config.log_level })))
    }

    /// Makes the calling thread known to DPDK, which gives it mempool caches of its own. Every
    /// worker does so before its first burst; without, bursts work but contend more.
    ///
    /// # Errors
    /// [`Error::Thread`] if it is known already or there is no room.
    pub fn register_thread(&self) -> Result<RegisteredThread, Error> {
        // SAFETY: the environment runs while `self` exists.
        match unsafe { dpdk_sys::rte_thread_register() } {
            0 => Ok(RegisteredThread { _eal: self.clone(), _not_send: PhantomData }),
            _ => Err(Error::Thread { reason: Errno::last(), limit: dpdk_sys::RTE_MAX_LCORE }),
        }
    }

    /// The DPDK release that runs, e.g. `DPDK 22.11.11`.
    #[must_use]
    pub fn version() -> String {
        // SAFETY: returns a static string.
        let version = unsafe { dpdk_sys::rte_version() };
        // SAFETY: it ends in NUL.
        unsafe { std::ffi::CStr::from_ptr(version) }.to_string_lossy().into_owned()
    }

    pub(super) fn allows_pci(&self, address: &str) -> bool {
        self.0.pci.iter().any(|allowed| allowed == address)
    }

    pub(super) fn log_level(&self) -> LogLevel {
        self.0.log_level
    }
}

impl Drop for Environment {
    fn drop(&mut self) {
        interrupts::hold_thread();
        // SAFETY: whatever uses DPDK holds an `Eal`, and this was the last.
        unsafe { dpdk_sys::rte_eal_cleanup() };
    }
}

/// The calling thread's registration; ends with this value, which cannot leave the thread.
#[derive(Debug)]
pub struct RegisteredThread {
    _eal: Eal,
    _not_send: PhantomData<*const ()>,
}

impl Drop for RegisteredThread {
    fn drop(&mut self) {
        // SAFETY: made on this thread, since the value is not `Send`; the environment runs.
        unsafe { dpdk_sys::rte_thread_unregister() };
    }
}

fn arguments(config: &EalConfig, cpus: &str) -> Result<Vec<CString>, Error> {
    // One lcore that floats over all allowed CPUs: DPDK pins the caller to nothing narrower.
    let mut words = vec!["dmm".to_owned(), format!("--lcores=0@({cpus})")];
    words.push("--no-telemetry".to_owned());
    if config.in_memory {
        // 4 KiB pages are one memfd by themselves, and `--in-memory` is refused beside them.
        let option = match config.huge {
            HugePages::Use => "--in-memory",
            HugePages::Never => "--no-shconf",
        };
        words.push(option.to_owned());
    } else {
        let prefix = config.file_prefix.clone();
        let prefix = prefix.unwrap_or_else(|| format!("dmm-{}", std::process::id()));
        words.push(format!("--file-prefix={prefix}"));
    }
    let mut memory_mb = config.memory_mb;
    if config.huge == HugePages::Never {
        words.push("--no-huge".to_owned());
        memory_mb = Some(memory_mb.unwrap_or(DEFAULT_MEMORY_MB));
    }
    if let Some(memory_mb) = memory_mb {
        words.extend(["-m".to_owned(), memory_mb.to_string()]);
    }
    if config.single_file_segments {
        words.push("--single-file-segments".to_owned());
    }
    if config.pci.is_empty() {
        words.push("--no-pci".to_owned());
    }
    for address in &config.pci {
        words.extend(["-a".to_owned(), address.clone()]);
    }
    words.push(format!("--log-level=*:{}", config.log_level as u32));
    words
        .into_iter()
        .map(|word| CString::new(word.clone()).map_err(|_| Error::Nul { value: word }))
        .collect()
}

/// The CPUs that this process may run on, as DPDK lists them: `0,1,4`.
fn allowed_cpus() -> Result<String, Error> {
    let unreadable = |error: SystemErrno| Error::Cpus(error.to_string());
    let allowed = sched_getaffinity(Pid::from_raw(0)).map_err(unreadable)?;
    let is_allowed = |cpu: &usize| allowed.is_set(*cpu).unwrap_or(false);
    let cpus: Vec<String> =
        (0..CpuSet::count()).filter(is_allowed).map(|cpu| cpu.to_string()).collect();
    Ok(cpus.join(","))
}

fn remedy(config: &EalConfig, reason: Errno) -> &'static str {
    match reason.0 {
        libc::EPERM | libc::EACCES if !nix::unistd::geteuid().is_root() => {
            "run as root, or with CAP_SYS_ADMIN and CAP_NET_ADMIN"
        }
        libc::EACCES | libc::ENOMEM if config.huge == HugePages::Use => {
            "reserve huge pages (vm.nr_hugepages), or choose 4 KiB pages"
        }
        libc::ENOMEM => "lower memory_mb, or free memory",
        libc::EALREADY | libc::EAGAIN => "another process uses this file prefix: choose another",
        _ => "see dpdk's own log lines above",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(config: &EalConfig) -> Vec<String> {
        let arguments = arguments(config, "0,1").expect("no NUL");
        arguments.iter().map(|word| word.to_str().expect("ascii").to_owned()).collect()
    }

    #[test]
    fn defaults_need_nothing_of_the_machine() {
        let expected = "dmm --lcores=0@(0,1) --no-telemetry --no-shconf --no-huge -m 128 --no-pci \
                        --log-level=*:5";
        assert_eq!(words(&EalConfig::default()).join(" "), expected);
    }

    #[test]
    fn bare_metal_gets_pages_prefix_and_devices() {
        let config = EalConfig {
            huge: HugePages::Use,
            file_prefix: Some("dmm0".to_owned()),
            in_memory: false,
            single_file_segments: true,
            pci: vec!["0000:03:00.0".to_owned()],
            ..EalConfig::default()
        };
        let expected = "dmm --lcores=0@(0,1) --no-telemetry --file-prefix=dmm0 \
                        --single-file-segments -a 0000:03:00.0 --log-level=*:5";
        assert_eq!(words(&config).join(" "), expected);
    }

    #[test]
    fn a_nul_byte_is_named() {
        let config = EalConfig {
            in_memory: false,
            file_prefix: Some("a\0b".to_owned()),
            ..EalConfig::default()
        };
        let error = arguments(&config, "0").expect_err("NUL").to_string();
        assert_eq!(error, "\"--file-prefix=a\\0b\" holds a NUL byte: take it out");
    }
}

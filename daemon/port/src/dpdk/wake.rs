//! How a worker sleeps until a queue has frames.
//!
//! ```text
//!  Interrupt   worker's epoll -> own epoll --edge--> the driver's descriptor of the queue
//!                                          --edge--> bell, rung when the link or a ring changes
//!  Descriptor  worker's epoll -> the driver's descriptor, which is the TAP's own
//!  Timer       none: the worker naps
//! ```
//!
//! An interrupt descriptor counts events and stays readable until someone reads it, which drivers
//! leave to their user and which net_vhost's cannot be (it is an epoll itself). Behind an
//! edge-triggered entry of an epoll of our own, it is readable from an event until `drain`, and
//! then silent until the next one: level-triggered for the worker. Between `arm` and sleep the
//! worker runs one more burst, so an event before `arm` is seen by that burst and an event after it
//! by the epoll.
//!
//! A TAP's descriptor is readable exactly while frames wait in the kernel's queue, so it needs
//! neither arming nor draining; `signals` keeps the driver's own reading of it level-triggered too.
//!
//! Called by `rx` and `device`. Must never: leave a descriptor readable that no burst would clear.

use std::ffi::{c_int, c_void};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, RawFd};
use std::sync::atomic::{Ordering, fence};

use dpdk_sys as dpdk;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::eventfd::{EfdFlags, EventFd};

use super::device::Device;
use super::error::Error;
use crate::Wake;

/// Drivers that give a descriptor per queue but no interrupts: it is the TAP's own.
const DESCRIPTOR_DRIVERS: [&str; 2] = ["net_tap", "net_tun"];

/// Whether the driver of a started port can interrupt on receive. Asked once per device.
pub(super) fn has_interrupts(port: u16) -> bool {
    // SAFETY: a started port with at least one queue.
    let enabled = unsafe { dpdk::rte_eth_dev_rx_intr_enable(port, 0) } == 0;
    if enabled {
        // SAFETY: as above.
        unsafe { dpdk::rte_eth_dev_rx_intr_disable(port, 0) };
    }
    enabled
}

/// One queue's way to wake a sleeper.
#[derive(Debug)]
pub(super) enum WakeSource {
    Interrupt(Epoll),
    Descriptor(RawFd),
    Timer,
}

impl WakeSource {
    /// The best that `queue` of a started device has.
    pub(super) fn new(device: &Device, driver: &str, queue: u16) -> Result<Self, Error> {
        let no_descriptor = |reason: nix::Error| Error::Wake {
            device: device.label.clone(),
            reason: reason.into(),
        };
        if let Some(bells) = &device.bells {
            let descriptor = queue_descriptor(device.port, queue);
            let Some(descriptor) = descriptor else { return Ok(Self::Timer) };
            return edge_epoll(descriptor, bells.of(queue)).map_err(no_descriptor);
        }
        if DESCRIPTOR_DRIVERS.contains(&driver) {
            return Ok(queue_descriptor(device.port, queue).map_or(Self::Timer, Self::Descriptor));
        }
        Ok(Self::Timer)
    }

    pub(super) fn wake(&self) -> Wake {
        match self {
            Self::Interrupt(epoll) => Wake::Fd(epoll.0.as_raw_fd()),
            Self::Descriptor(descriptor) => Wake::Fd(*descriptor),
            Self::Timer => Wake::Timer,
        }
    }

    pub(super) fn arm(&self, port: u16, queue: u16) -> io::Result<()> {
        match self {
            Self::Interrupt(epoll) => {
                drain(epoll);
                // SAFETY: a started port, and a queue of it.
                let returned = unsafe { dpdk::rte_eth_dev_rx_intr_enable(port, queue) };
                // The request must be visible to the sender before the next burst looks at the
                // ring, or both could miss each other (net_vhost writes it to shared memory).
                fence(Ordering::SeqCst);
                match returned {
                    0 => Ok(()),
                    _ => Err(io::Error::from_raw_os_error(returned.saturating_abs())),
                }
            }
            Self::Descriptor(descriptor) => check_alive(*descriptor),
            Self::Timer => Ok(()),
        }
    }

    pub(super) fn disarm(&self, port: u16, queue: u16) {
        if let Self::Interrupt(epoll) = self {
            // SAFETY: a started port, and a queue of it. A failure leaves interrupts on, which
            // costs wake-ups and loses nothing.
            unsafe { dpdk::rte_eth_dev_rx_intr_disable(port, queue) };
            drain(epoll);
        }
    }
}

fn queue_descriptor(port: u16, queue: u16) -> Option<RawFd> {
    // SAFETY: any numbers are allowed.
    let descriptor = unsafe { dpdk::rte_eth_dev_rx_intr_ctl_q_get_fd(port, queue) };
    // Drivers that never filled the table return the 0 it was made with.
    (descriptor > 0).then_some(descriptor)
}

fn edge_epoll(descriptor: RawFd, bell: &EventFd) -> nix::Result<WakeSource> {
    let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
    // SAFETY: the driver's, open until the device closes, after this borrow.
    let descriptor = unsafe { BorrowedFd::borrow_raw(descriptor) };
    let edge = EpollEvent::new(EpollFlags::EPOLLIN | EpollFlags::EPOLLET, 0);
    epoll.add(descriptor, edge)?;
    epoll.add(bell, edge)?;
    Ok(WakeSource::Interrupt(epoll))
}

/// Takes the pending edges, at most one per entry.
fn drain(epoll: &Epoll) {
    let mut events = [EpollEvent::empty(); 2];
    // An error (EINTR) leaves the edges in place: a wake-up too many.
    let _ = epoll.wait(&mut events, EpollTimeout::ZERO);
}

/// A TAP that was deleted behind our back polls as an error for ever, which no burst clears.
fn check_alive(descriptor: RawFd) -> io::Result<()> {
    // SAFETY: the driver's, open until the device closes, after this borrow.
    let descriptor = unsafe { BorrowedFd::borrow_raw(descriptor) };
    let mut polled = [PollFd::new(descriptor, PollFlags::empty())];
    poll(&mut polled, PollTimeout::ZERO)?;
    match polled[0].revents() {
        Some(events) if events.is_empty() => Ok(()),
        _ => Err(io::Error::new(io::ErrorKind::NotConnected, "the interface is gone")),
    }
}

/// One bell per queue, rung when the link or a ring of the device changes: a peer that connects to
/// net_vhost finds its notifications off, and whoever sleeps must arm again.
#[derive(Debug)]
pub(super) struct EventBells {
    /// Boxed, since the driver keeps a pointer to it.
    bells: Box<Bells>,
}

#[derive(Debug)]
struct Bells(Vec<EventFd>);

const EVENTS: [dpdk::rte_eth_event_type; 2] =
    [dpdk::RTE_ETH_EVENT_QUEUE_STATE, dpdk::RTE_ETH_EVENT_INTR_LSC];

impl EventBells {
    /// Bells for `queues` queues of `port`, until [`EventBells::unregister`].
    pub(super) fn register(port: u16, queues: u16) -> io::Result<Self> {
        let flags = EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK;
        let bells: nix::Result<Vec<EventFd>> =
            (0..queues).map(|_| EventFd::from_flags(flags)).collect();
        let this = Self { bells: Box::new(Bells(bells?)) };
        for event in EVENTS {
            // SAFETY: the callback reads its argument, which stays until it is unregistered.
            let returned = unsafe {
                dpdk::rte_eth_dev_callback_register(port, event, Some(ring), this.argument())
            };
            if returned != 0 {
                this.unregister(port);
                return Err(io::Error::from_raw_os_error(returned.saturating_abs()));
            }
        }
        Ok(this)
    }

    fn of(&self, queue: u16) -> &EventFd {
        &self.bells.0[usize::from(queue)]
    }

    fn argument(&self) -> *mut c_void {
        (&raw const *self.bells).cast_mut().cast()
    }

    pub(super) fn unregister(self, port: u16) {
        let argument = self.argument();
        for event in EVENTS {
            let unregister = || {
                // SAFETY: names what was registered; what was not is an error without effect.
                unsafe { dpdk::rte_eth_dev_callback_unregister(port, event, Some(ring), argument) }
            };
            // EAGAIN: it is running on another thread just now, where it only writes to bells.
            while unregister() == -libc::EAGAIN {
                std::thread::yield_now();
            }
        }
    }
}

unsafe extern "C" fn ring(
    _port: u16,
    _event: dpdk::rte_eth_event_type,
    argument: *mut c_void,
    _returned: *mut c_void,
) -> c_int {
    // SAFETY: what `register` passed, which stays until no callback runs any more.
    let bells = unsafe { &*argument.cast::<Bells>() };
    for bell in &bells.0 {
        // Full (after 2^64 events) is rung as well.
        let _ = bell.write(1);
    }
    0
}

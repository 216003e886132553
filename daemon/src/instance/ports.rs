//! The ports of connections that name their own.
#![forbid(unsafe_code)]

use dmm_port::flow::{Flow, Transport};
use dmm_proto::op;
use dmm_stack::SocketId;
use nix::errno::Errno;

use super::Instance;
use super::binding::Holder;

impl Instance {
    /// Takes the port of a connection if its client asked for a certain one, as bind(2) before
    /// connect(2) would: `EADDRINUSE` if another socket has it, so that nobody answers in a
    /// listener's place.
    pub(super) fn hold_source(
        &self,
        owner: usize,
        socket: op::Socket,
        asked_port: u16,
        flow: &Flow,
    ) -> Result<Option<Holder>, Errno> {
        if asked_port == 0 {
            return Ok(None);
        }
        let holder = self.holder(owner, socket);
        self.bindings.bind(Transport::Tcp, (flow.local, None), holder, self.config.shard, 0)?;
        // A connection whose port the stack chose may have it without holding it.
        if self.flows.contains_key(&(flow.local, flow.remote)) {
            self.bindings.release(Transport::Tcp, flow.local, holder);
            return Err(Errno::EADDRNOTAVAIL);
        }
        Ok(Some(holder))
    }

    /// Gives back the port that a socket holds. A connection keeps its own until nothing is left of
    /// it, as after bind(2): its peer's segments would meet somebody else there.
    pub(super) fn release_port(&mut self, id: SocketId) {
        let binding = self.sockets.get_mut(id).and_then(|entry| entry.binding.take());
        if let Some((transport, local, holder)) = binding {
            self.bindings.release(transport, local, holder);
        }
    }
}

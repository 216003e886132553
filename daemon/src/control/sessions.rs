//! The clients: attaching them at the hello, and letting go of them when they are gone.
#![forbid(unsafe_code)]

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant as Clock};

use dmm_admin::config::ClientsConfig;
use dmm_proto::Breach;
use dmm_proto::arena::{CHUNK_BYTES, ChunkPool};
use dmm_proto::doorbell::Listener;
use dmm_proto::hello::{self, Hello, HelloError, Request};
use dmm_proto::layout::Geometry;
use dmm_proto::request::PACKET_BYTES_MAX;
use nix::errno::Errno;
use tracing::{debug, info, warn};

use super::graveyard::{self, Waiting};
use crate::assembly::Machine;
use crate::descriptor;
use crate::orphans::UserOrphans;
use crate::session::{Peer, Session, SessionId};
use crate::worker::message::ToWorker;

/// Requests on a session socket at most: every context once, and some in vain.
const REQUESTS_MAX: u32 = 4 * dmm_proto::layout::CONTEXTS_MAX;

/// A client and its descriptors.
pub struct Attached {
    /// What the workers share.
    pub session: Arc<Session>,
    /// Its session socket.
    pub socket: OwnedFd,
    /// Readable when the process is gone.
    pub pidfd: OwnedFd,
    requests: u32,
}

/// A client whose workers have not all let go yet.
struct Leaving {
    session: Arc<Session>,
    since: Clock,
    workers_left: usize,
}

/// All clients.
pub struct Sessions {
    limits: ClientsConfig,
    next_id: u64,
    attached: BTreeMap<SessionId, Attached>,
    leaving: HashMap<SessionId, Leaving>,
    /// The arenas of all sessions whose memory is still in use, by orphans perhaps.
    pools: Vec<Weak<ChunkPool>>,
    /// What the sessions of each user have in common, as long as there are any or their orphans.
    users: HashMap<u32, Weak<UserOrphans>>,
    /// Descriptors that all clients together may cost.
    descriptors: usize,
    refusals: BTreeMap<&'static str, u64>,
    /// Sessions since the start.
    pub opened: u64,
    /// How long the last clean-up took, and the longest.
    pub cleanup: (Duration, Duration),
}

/// Why a client was refused, as a counter's name and for the client.
pub struct Refusal {
    reason: &'static str,
    errno: Errno,
    words: String,
}

impl Sessions {
    /// No clients yet, which may cost `descriptors` together.
    pub fn new(limits: ClientsConfig, descriptors: usize) -> Self {
        let reasons = [
            "version",
            "hello",
            "access",
            "sessions",
            "resources",
            "descriptors",
            "connections",
            "operators",
        ];
        let breaches = Breach::ALL.iter().map(|breach| breach.name());
        Self {
            limits,
            next_id: 0,
            attached: BTreeMap::new(),
            leaving: HashMap::new(),
            pools: Vec::new(),
            users: HashMap::new(),
            descriptors,
            refusals: reasons.into_iter().chain(breaches).map(|name| (name, 0)).collect(),
            opened: 0,
            cleanup: (Duration::ZERO, Duration::ZERO),
        }
    }

    /// Attaches the client whose first packet is `packet`, or refuses it in words and gives its socket
    /// back. `allowed` says whether its user may be one.
    pub fn attach(
        &mut self,
        machine: &Machine,
        socket: OwnedFd,
        packet: &[u8],
        (pid, uid, gid): (u32, u32, u32),
        allowed: bool,
    ) -> Result<&Attached, OwnedFd> {
        let result = self.try_attach(machine, &socket, packet, (pid, uid, gid), allowed);
        match result {
            Ok((session, pidfd)) => {
                let id = session.id;
                info!(session = id.0, pid, uid, name = session.peer.name, "client attached");
                let attached = Attached { session, socket, pidfd, requests: 0 };
                self.opened += 1;
                Ok(self.attached.entry(id).or_insert(attached))
            }
            Err(refusal) => {
                self.refuse(&socket, (pid, uid), &refusal);
                Err(socket)
            }
        }
    }

    /// Refuses the client whose first packet comes with descriptors, which nobody asked for.
    pub fn refuse_descriptors(&mut self, socket: &OwnedFd, who: (u32, u32)) {
        let words = "a hello comes without descriptors".to_owned();
        self.refuse(socket, who, &Refusal { reason: "hello", errno: Errno::EPROTO, words });
    }

    fn refuse(&mut self, socket: &OwnedFd, (pid, uid): (u32, u32), refusal: &Refusal) {
        warn!(pid, uid, reason = refusal.reason, "client refused: {}", refusal.words);
        self.count_refusal(refusal.reason);
        // The client may be gone already.
        let _ = hello::send_refusal(socket.as_fd(), refusal.errno, &refusal.words);
    }

    fn try_attach(
        &mut self,
        machine: &Machine,
        socket: &OwnedFd,
        packet: &[u8],
        (pid, uid, gid): (u32, u32, u32),
        allowed: bool,
    ) -> Result<(Arc<Session>, OwnedFd), Refusal> {
        let hello = Hello::parse(packet).map_err(|error| Refusal {
            reason: if matches!(error, HelloError::Version { .. }) { "version" } else { "hello" },
            errno: Errno::EPROTO,
            words: error.to_string(),
        })?;
        if !allowed {
            return Err(Refusal {
                reason: "access",
                errno: Errno::EACCES,
                words: format!(
                    "user {uid} may not be a client: list it in clients.users of the configuration"
                ),
            });
        }
        let max = self.limits.max_sessions;
        if self.attached.len() + self.leaving.len() >= max as usize {
            return Err(Refusal {
                reason: "sessions",
                errno: Errno::EAGAIN,
                words: format!("there are {max} clients already: raise clients.max_sessions"),
            });
        }
        if !self.affords_another(machine.workers.len()) {
            return Err(Refusal {
                reason: "descriptors",
                errno: Errno::EAGAIN,
                words: "the daemon may not open the descriptors that another client and its \
                        contexts need: raise LimitNOFILE of the service, or lower clients.contexts"
                    .to_owned(),
            });
        }
        let resources = |error: io::Error| Refusal {
            reason: "resources",
            errno: Errno::ENOMEM,
            words: format!("the daemon cannot serve another client: {error}"),
        };
        let pidfd = descriptor::pidfd(pid).map_err(resources)?;
        let id = SessionId(self.next_id);
        let peer = Peer { pid, uid, gid, name: hello.name };
        let user = self.user(uid);
        let session = Session::create(id, peer, user, self.geometry(machine)).map_err(resources)?;
        let listener = session.open_context(0).map_err(resources)?;
        session.memory.write_stacks(&machine.stacks, &workers_of(machine));
        let listener = listener.ok_or_else(|| resources(io::Error::other("no context")))?;
        send_welcome(socket.as_fd(), machine, &session, &listener).map_err(resources)?;
        self.next_id += 1;
        self.pools.push(Arc::downgrade(&session.pool));
        for worker in &machine.workers {
            worker.tell(ToWorker::Attach(Arc::clone(&session)));
        }
        Ok((session, pidfd))
    }

    /// Whether there are descriptors for another client with all its contexts: its socket and pidfd,
    /// three regions, and a doorbell for each context and worker.
    fn affords_another(&self, workers: usize) -> bool {
        let each = 5 + workers + self.limits.contexts as usize;
        (self.attached.len() + self.leaving.len() + 1) * each <= self.descriptors
    }

    /// What a user's sessions have in common.
    fn user(&mut self, uid: u32) -> Arc<UserOrphans> {
        let known = self.users.get(&uid).and_then(Weak::upgrade);
        known.unwrap_or_else(|| {
            let user = Arc::default();
            self.users.insert(uid, Arc::downgrade(&user));
            user
        })
    }

    fn geometry(&self, machine: &Machine) -> Geometry {
        let count = |len: usize| u32::try_from(len).expect("bounded by the configuration");
        Geometry {
            sockets: self.limits.sockets,
            contexts: self.limits.contexts,
            instances: count(machine.instances.len()),
            workers: count(machine.workers.len()),
            chunks: u32::try_from(self.limits.bytes / CHUNK_BYTES as u64)
                .unwrap_or(u32::MAX)
                .clamp(1, dmm_proto::layout::CHUNKS_MAX),
        }
    }

    /// Reads what a client sent after its hello. Returns false if the client must go.
    pub fn hear(&mut self, id: SessionId) -> bool {
        let Some(attached) = self.attached.get_mut(&id) else { return true };
        let mut bytes = [0; PACKET_BYTES_MAX];
        let (waiting, len) = match graveyard::look(&attached.socket, &mut bytes) {
            Ok(found) => found,
            Err(Errno::EAGAIN | Errno::EINTR) => return true,
            Err(_) => return false,
        };
        if waiting == Waiting::Nothing {
            return false;
        }
        attached.requests += 1;
        let answered = match Request::parse(&bytes[..len]) {
            _ if attached.requests > REQUESTS_MAX => Err(Breach::Flood),
            request if waiting == Waiting::Descriptors => {
                if request.is_some_and(|request| request.descriptors() > 0) {
                    // The client may be gone already.
                    let _ = refuse_later_request(attached);
                }
                // Its packet stays where it is, since nobody takes its descriptors.
                Err(Breach::Request)
            }
            request => {
                if let Err(errno) = graveyard::discard(&attached.socket) {
                    return errno == Errno::EINTR;
                }
                match request {
                    Some(Request::OpenContext { context }) => Ok(open_context(attached, context)),
                    Some(_) => Ok(refuse_later_request(attached)),
                    None => Err(Breach::Request),
                }
            }
        };
        let breach = match answered {
            Ok(Ok(())) => return true,
            // It asks faster than it takes answers out, until none fits its socket any more.
            Ok(Err(error)) if error.kind() == io::ErrorKind::WouldBlock => Breach::Flood,
            Ok(Err(_)) => return false,
            Err(breach) => breach,
        };
        if attached.session.condemn(breach) {
            self.count_refusal(breach.name());
        }
        false
    }

    /// Ends a session: tells the workers to let go. Returns its descriptors.
    pub fn end(&mut self, machine: &Machine, id: SessionId) -> Option<Attached> {
        let attached = self.attached.remove(&id)?;
        let peer = &attached.session.peer;
        debug!(session = id.0, pid = peer.pid, breach = ?attached.session.breach(), "client gone");
        let workers_left = machine.workers.len();
        let session = Arc::clone(&attached.session);
        self.leaving.insert(id, Leaving { session, since: Clock::now(), workers_left });
        for worker in &machine.workers {
            worker.tell(ToWorker::Detach(id));
        }
        Some(attached)
    }

    /// A worker has let go of a session.
    pub fn detached(&mut self, id: SessionId) {
        let Some(leaving) = self.leaving.get_mut(&id) else { return };
        leaving.workers_left -= 1;
        if leaving.workers_left == 0 {
            let took = leaving.since.elapsed();
            self.cleanup = (took, self.cleanup.1.max(took));
            self.leaving.remove(&id);
            self.forget_the_gone();
        }
    }

    /// Forgets the arenas and users of whom nothing is left, not even orphans.
    fn forget_the_gone(&mut self) {
        self.pools.retain(|pool| pool.strong_count() > 0);
        self.users.retain(|_, user| user.strong_count() > 0);
    }

    /// The sockets of all clients, at the daemon's end.
    pub fn into_sockets(self) -> impl Iterator<Item = OwnedFd> {
        self.attached.into_values().map(|attached| attached.socket)
    }

    /// Counts a refusal or breach.
    pub fn count_refusal(&mut self, reason: &'static str) {
        *self.refusals.entry(reason).or_default() += 1;
    }

    /// Refusals and breaches by reason.
    pub fn refusals(&self) -> impl Iterator<Item = (&'static str, u64)> + '_ {
        self.refusals.iter().map(|(reason, count)| (*reason, *count))
    }

    /// The clients, those leaving included.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Session>> {
        let attached = self.attached.values().map(|attached| &attached.session);
        attached.chain(self.leaving.values().map(|leaving| &leaving.session))
    }

    /// Chunks used and in all, of every arena still in use.
    pub fn chunks(&self) -> (u64, u64) {
        let pools: Vec<_> = self.pools.iter().filter_map(Weak::upgrade).collect();
        let sum = |count: fn(&ChunkPool) -> u32| pools.iter().map(|p| u64::from(count(p))).sum();
        (sum(ChunkPool::used), sum(ChunkPool::chunks))
    }
}

fn workers_of(machine: &Machine) -> Vec<u32> {
    machine.instances.iter().map(|place| place.worker).collect()
}

fn send_welcome(
    socket: BorrowedFd<'_>,
    machine: &Machine,
    session: &Session,
    listener: &Listener,
) -> io::Result<()> {
    let memory = &session.memory;
    let mut fds = vec![
        machine.beacon.region().fd(),
        memory.daemon.fd(),
        memory.client.fd(),
        memory.arena.fd(),
        listener.as_fd(),
    ];
    fds.extend(session.bells().iter().map(AsFd::as_fd));
    hello::send_welcome(socket, &memory.geometry, &fds)
}

/// Answers what the contract has and this daemon does not do yet: leases.
fn refuse_later_request(attached: &Attached) -> io::Result<()> {
    let words = "this daemon does not serve leases";
    hello::send_refusal(attached.socket.as_fd(), Errno::ENOSYS, words)
}

fn open_context(attached: &Attached, context: u32) -> io::Result<()> {
    let socket = attached.socket.as_fd();
    let geometry = &attached.session.memory.geometry;
    match attached.session.open_context(context) {
        Ok(Some(listener)) => hello::send_welcome(socket, geometry, &[listener.as_fd()]),
        Ok(None) => hello::send_refusal(
            socket,
            Errno::EINVAL,
            &format!("context {context} is open, or beyond clients.contexts"),
        ),
        Err(error) => hello::send_refusal(socket, Errno::ENOMEM, &error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn session(sessions: &mut Sessions, id: u64) -> Arc<Session> {
        let peer = Peer { pid: 1, uid: 7, gid: 7, name: "test".into() };
        let geometry = Geometry { sockets: 1, contexts: 1, instances: 1, workers: 1, chunks: 1 };
        let user = sessions.user(7);
        Session::create(SessionId(id), peer, user, geometry).unwrap()
    }

    #[test]
    fn another_client_must_leave_descriptors_for_the_contexts_of_all() {
        let limits = ClientsConfig { contexts: 4, ..ClientsConfig::default() };
        // Five, one for its worker and four for its contexts.
        let mut sessions = Sessions::new(limits, 29);
        assert!(sessions.affords_another(1));
        for (id, another) in [(0, true), (1, false)] {
            let session = session(&mut sessions, id);
            let leaving = Leaving { session, since: Clock::now(), workers_left: 1 };
            sessions.leaving.insert(SessionId(id), leaving);
            assert_eq!(sessions.affords_another(1), another);
        }
    }

    #[test]
    fn what_is_gone_is_forgotten_without_being_asked_for() {
        let mut sessions = Sessions::new(ClientsConfig::default(), 1000);
        for id in 0..3 {
            let session = session(&mut sessions, id);
            sessions.pools.push(Arc::downgrade(&session.pool));
            let leaving = Leaving { session, since: Clock::now(), workers_left: 1 };
            sessions.leaving.insert(SessionId(id), leaving);
        }
        assert_eq!((sessions.pools.len(), sessions.users.len()), (3, 1));
        for left in (0..3).rev() {
            sessions.detached(SessionId(left as u64));
            assert_eq!(sessions.pools.len(), left);
        }
        assert!(sessions.users.is_empty());
    }
}

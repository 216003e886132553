//! Plays a script.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

use crate::packet::{self, LOCAL, Option_, REMOTE, Segment};
use crate::script::{Event, Time, What};
use crate::stack::Stack;

/// Ports that scripts do not name: of the server, and of a client elsewhere.
const SERVER: u16 = 8080;
const CLIENT: u16 = 45_678;
/// How far from its time something may happen, as packetdrill has it.
const TOLERANCE: Duration = Duration::from_millis(4);
/// How far timestamps, which count milliseconds, may differ.
const TICKS: u32 = 5;

/// Scripts are played one after another.
static ONE: Mutex<()> = Mutex::new(());

/// Plays all events of a script on a stack that has played nothing, without the part of TCP named.
pub fn play(events: &[Event], without: &str) -> Result<()> {
    // The object has one stack.
    let _one = ONE.lock().unwrap_or_else(PoisonError::into_inner);
    let stack = Stack::load(without)?;
    let began = stack.now();
    let mut player = Player {
        stack,
        began,
        at: Duration::ZERO,
        fds: HashMap::new(),
        ports: (SERVER, CLIENT),
        initial: None,
        ticks: None,
    };
    for event in events {
        player.event(event).with_context(|| format!("line {}", event.line))?;
    }
    Ok(())
}

struct Player {
    stack: Stack,
    began: Duration,
    /// When the last event happened, since the beginning.
    at: Duration,
    /// Descriptors by the script's numbers.
    fds: HashMap<i32, i32>,
    /// Ours and the other's.
    ports: (u16, u16),
    /// The number of our SYN, once it was sent.
    initial: Option<u32>,
    /// What our clock has ahead of the script's, once it was seen.
    ticks: Option<u32>,
}

impl Player {
    fn event(&mut self, event: &Event) -> Result<()> {
        let due = match event.at {
            Time::Absolute(at) => at,
            Time::Relative(after) => self.at + after,
        };
        match &event.what {
            What::Out(segment) => return self.expect(segment, due, event.slack),
            What::In(_) | What::Call { .. } | What::Trouble { .. } => self.pass_to(due),
        }
        self.at = due;
        match &event.what {
            What::In(segment) => self.inject(segment),
            What::Trouble { code, mtu, first } => {
                let initial = self.initial.context("our numbers are not known yet")?;
                let number = first.wrapping_add(initial);
                self.stack.give(&packet::write_trouble(*code, *mtu, number, self.ports)?);
                Ok(())
            }
            What::Call { name, arguments, result, errno } => {
                self.call(name, arguments, *result, errno.as_deref())
            }
            What::Out(_) => Ok(()),
        }
    }

    fn since(&self, time: Duration) -> Duration {
        time.saturating_sub(self.began)
    }

    fn pass_to(&self, due: Duration) {
        let left = due.saturating_sub(self.since(self.stack.now()));
        if !left.is_zero() {
            self.stack.sleep(left);
        }
    }

    fn inject(&mut self, segment: &Segment) -> Result<()> {
        let ours = |number: u32| -> Result<u32> {
            Ok(number.wrapping_add(self.initial.context("our numbers are not known yet")?))
        };
        let mut wire = segment.clone();
        wire.ack = segment.ack.map(ours).transpose()?;
        for option in &mut wire.options {
            match option {
                Option_::Sack(ranges) => {
                    for (first, last) in ranges {
                        (*first, *last) = (ours(*first)?, ours(*last)?);
                    }
                }
                Option_::Stamps(_, echo) if *echo != 0 => {
                    *echo = echo.wrapping_add(self.ticks.unwrap_or(0));
                }
                _ => {}
            }
        }
        self.stack.give(&packet::write(&wire, (self.ports.1, self.ports.0))?);
        Ok(())
    }

    /// Waits for a segment, which may come in several.
    fn expect(&mut self, expected: &Segment, due: Duration, slack: Duration) -> Result<()> {
        let mut rest = expected.clone();
        loop {
            let (time, bytes) = self.stack.take().context("nothing is sent")?;
            let (live, ports) = packet::read(&bytes)?;
            let live = self.as_in_script(live, ports)?;
            let at = self.since(time);
            let differs =
                |what: &str| format!("{what} of {live:?} at {at:?}, expected {rest:?} at {due:?}");
            ensure!(at + TOLERANCE >= due && at <= due + slack + TOLERANCE, differs("the time"));
            ensure!(live.first == rest.first, differs("the number"));
            ensure!(
                live.len <= rest.len && (live.len > 0) == (rest.len > 0),
                differs("the length")
            );
            ensure!(live.ack == rest.ack, differs("the acknowledgement"));
            ensure!(rest.window.is_none() || live.window == rest.window, differs("the window"));
            ensure!(rest.class.is_none() || live.class == rest.class, differs("the ECN field"));
            ensure!(same_options(&live.options, &rest.options), differs("the options"));
            if live.len < rest.len {
                (rest.first, rest.len) = (rest.first.wrapping_add(live.len), rest.len - live.len);
                continue;
            }
            let sorted = |flags: &str| {
                let mut flags: Vec<_> = flags.chars().collect();
                flags.sort_unstable();
                flags
            };
            ensure!(sorted(&live.flags) == sorted(&rest.flags), differs("the flags"));
            self.at = due.max(at.min(due + slack));
            return Ok(());
        }
    }

    /// A segment of ours with the script's numbers.
    fn as_in_script(&mut self, mut live: Segment, ports: (u16, u16)) -> Result<Segment> {
        // Another connection of ours has another port.
        if live.has('S') && (self.initial.is_none() || ports != self.ports) {
            self.initial = Some(live.first);
            self.ports = ports;
        }
        let initial = self.initial.context("a segment before our SYN")?;
        // A reset that answers a stray segment has the number that this acknowledges.
        live.first = live.first.wrapping_sub(initial);
        for option in &mut live.options {
            if let Option_::Stamps(value, _) = option {
                // Scripts begin at 100.
                let ticks = *self.ticks.get_or_insert(value.wrapping_sub(100));
                *value = value.wrapping_sub(ticks);
            }
        }
        Ok(live)
    }

    fn call(
        &mut self,
        name: &str,
        arguments: &[String],
        result: i64,
        errno: Option<&str>,
    ) -> Result<()> {
        let number = |at: usize| -> Result<i64> {
            let text = arguments.get(at).context("too few arguments")?;
            let text = text.trim_start_matches('[').trim_end_matches(']');
            text.parse().or_else(|_| constant(text))
        };
        let fd = |player: &Self| -> Result<i32> {
            let fd = i32::try_from(number(0)?)?;
            player.fds.get(&fd).copied().with_context(|| format!("descriptor {fd} is unknown"))
        };
        let stack = &self.stack;
        let live = match name {
            "socket" => stack.socket(),
            "bind" => stack.bind(fd(self)?, LOCAL, SERVER),
            "listen" => stack.listen(fd(self)?, i32::try_from(number(1)?)?),
            "accept" => stack.accept(fd(self)?),
            "connect" => stack.connect(fd(self)?, REMOTE, SERVER),
            "read" => stack.read(fd(self)?, usize::try_from(number(2)?)?),
            "write" => stack.send(fd(self)?, usize::try_from(number(2)?)?, 0),
            "send" => {
                stack.send(fd(self)?, usize::try_from(number(2)?)?, i32::try_from(number(3)?)?)
            }
            "sendto" => stack.sendto(
                fd(self)?,
                usize::try_from(number(2)?)?,
                i32::try_from(number(3)?)?,
                (REMOTE, SERVER),
            ),
            "close" => stack.close(fd(self)?),
            "shutdown" => stack.shutdown(fd(self)?, i32::try_from(number(1)?)?),
            "fcntl" => {
                let flags = arguments.get(2).map_or("0", String::as_str);
                let flags = flags.split('|').map(constant).sum::<Result<i64>>()?;
                stack.fcntl(fd(self)?, i32::try_from(number(1)?)?, flags)
            }
            "setsockopt" => {
                let text = arguments[3..].join(",");
                let inside = text.split(['[', ']', '{', '}']).nth(1).context("no value")?;
                let words = inside.split(',').map(|word| {
                    let word = word.rsplit('=').next().unwrap_or(word).trim();
                    Ok(word.parse()?)
                });
                let value = words.collect::<Result<Vec<i32>>>()?;
                let (level, name) = (i32::try_from(number(1)?)?, i32::try_from(number(2)?)?);
                stack.setsockopt(fd(self)?, level, name, &value)
            }
            _ => bail!("call {name:?} is unknown"),
        };
        match live {
            Ok(live) => {
                if matches!(name, "socket" | "accept") && result >= 0 {
                    self.fds.insert(i32::try_from(result)?, i32::try_from(live)?);
                } else {
                    ensure!(live == result, "{name} gave {live}");
                }
            }
            Err(live) => {
                ensure!(result == -1, "{name} gave errno {live}");
                let expected = constant(errno.context("which errno?")?)?;
                ensure!(i64::from(live) == expected, "{name} gave errno {live}");
            }
        }
        Ok(())
    }
}

fn same_options(live: &[Option_], expected: &[Option_]) -> bool {
    live.len() == expected.len()
        && live.iter().zip(expected).all(|pair| match pair {
            (Option_::Stamps(value, echo), Option_::Stamps(expected, expected_echo)) => {
                value.wrapping_sub(*expected).cast_signed().unsigned_abs() <= TICKS
                    && echo == expected_echo
            }
            (live, expected) => live == expected,
        })
}

fn constant(name: &str) -> Result<i64> {
    let name = name.trim();
    Ok(i64::from(match name {
        "0" => 0,
        "SOL_SOCKET" => libc::SOL_SOCKET,
        "SO_REUSEADDR" => libc::SO_REUSEADDR,
        "SO_LINGER" => libc::SO_LINGER,
        "SOL_TCP" => libc::IPPROTO_TCP,
        "TCP_NODELAY" => libc::TCP_NODELAY,
        "TCP_CORK" => libc::TCP_CORK,
        "TCP_MAXSEG" => libc::TCP_MAXSEG,
        "TCP_USER_TIMEOUT" => libc::TCP_USER_TIMEOUT,
        "SHUT_RD" => libc::SHUT_RD,
        "SHUT_WR" => libc::SHUT_WR,
        "SHUT_RDWR" => libc::SHUT_RDWR,
        "F_SETFL" => libc::F_SETFL,
        "O_RDWR" => libc::O_RDWR,
        "O_NONBLOCK" => libc::O_NONBLOCK,
        "MSG_MORE" => libc::MSG_MORE,
        "MSG_FASTOPEN" => libc::MSG_FASTOPEN,
        "TCP_FASTOPEN" => libc::TCP_FASTOPEN,
        "TCP_FASTOPEN_CONNECT" => libc::TCP_FASTOPEN_CONNECT,
        "MSG_EOR" => libc::MSG_EOR,
        "EAGAIN" => libc::EAGAIN,
        "EINPROGRESS" => libc::EINPROGRESS,
        "EHOSTUNREACH" => libc::EHOSTUNREACH,
        "ENETUNREACH" => libc::ENETUNREACH,
        "ENOPROTOOPT" => libc::ENOPROTOOPT,
        "ECONNREFUSED" => libc::ECONNREFUSED,
        "ECONNRESET" => libc::ECONNRESET,
        "ETIMEDOUT" => libc::ETIMEDOUT,
        "EISCONN" => libc::EISCONN,
        "EALREADY" => libc::EALREADY,
        "EPIPE" => libc::EPIPE,
        "ENOTCONN" => libc::ENOTCONN,
        _ => bail!("{name:?} is unknown"),
    }))
}

//! Messages of 64 bytes from one stack of a daemon to another, for instructions to be counted: sends a
//! burst, then receives it, in one thread. What `send` and `receive` cost is what the client pays.
//!
//! `bench-messages tcp|udp FROM TO ADDRESS COUNT BURST`

#![forbid(unsafe_code)]

use std::io::{Read, Write};
use std::net::IpAddr;

use anyhow::{Context, bail, ensure};
use dmm::{Client, TcpStream, UdpSocket};

const MESSAGE: usize = 64;

fn main() -> anyhow::Result<()> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let [kind, from, to, address, count, burst] = words.as_slice() else {
        bail!("usage: bench-messages tcp|udp FROM TO ADDRESS COUNT BURST");
    };
    let address: IpAddr = address.parse()?;
    let (count, burst): (usize, usize) = (count.parse()?, burst.parse()?);
    ensure!(burst > 0, "a burst has at least one message");
    let client = Client::global()?;
    let mut ends: Box<dyn Ends> = match kind.as_str() {
        "tcp" => {
            let listener = client.listen(Some(to), (address, 0))?;
            let near = client.connect(Some(from), listener.local_addr()?)?;
            near.set_nodelay(true)?;
            Box::new((near, listener.accept()?.0))
        }
        "udp" => {
            let far = client.bind_udp(Some(to), (address, 0))?;
            let near = client.bind_udp(Some(from), ("0.0.0.0", 0))?;
            near.connect(far.local_addr()?)?;
            Box::new((near, far))
        }
        _ => bail!("{kind} is neither tcp nor udp"),
    };
    let (mut sent, mut received) = ([7; MESSAGE], [0; MESSAGE]);
    for first in (0..count).step_by(burst) {
        let numbers = first..count.min(first + burst);
        for number in numbers.clone() {
            sent[..8].copy_from_slice(&number.to_le_bytes());
            ends.send(&sent)?;
        }
        for number in numbers {
            ends.receive(&mut received)?;
            ensure!(received[..8] == number.to_le_bytes(), "message {number} is not there");
        }
    }
    Ok(())
}

/// Both ends of a flow.
trait Ends {
    fn send(&mut self, message: &[u8; MESSAGE]) -> anyhow::Result<()>;
    fn receive(&mut self, message: &mut [u8; MESSAGE]) -> anyhow::Result<()>;
}

impl Ends for (TcpStream, TcpStream) {
    #[inline(never)]
    fn send(&mut self, message: &[u8; MESSAGE]) -> anyhow::Result<()> {
        Ok(self.0.write_all(message)?)
    }

    #[inline(never)]
    fn receive(&mut self, message: &mut [u8; MESSAGE]) -> anyhow::Result<()> {
        Ok(self.1.read_exact(message)?)
    }
}

impl Ends for (UdpSocket, UdpSocket) {
    #[inline(never)]
    fn send(&mut self, message: &[u8; MESSAGE]) -> anyhow::Result<()> {
        ensure!(self.0.send(message)? == MESSAGE, "cut");
        Ok(())
    }

    #[inline(never)]
    fn receive(&mut self, message: &mut [u8; MESSAGE]) -> anyhow::Result<()> {
        ensure!(self.1.recv(message).context("no message")? == MESSAGE, "cut");
        Ok(())
    }
}

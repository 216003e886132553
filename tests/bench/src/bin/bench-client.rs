//! A client to be measured: 64-byte messages that come back, or blocks in one direction. Its twin in C,
//! call for call, is `c/bench-client.c`. Prints microseconds a round trip, or Gb/s.
//!
//! `bench-client echo|send ADDRESS PORT COUNT copy|in-place`

#![forbid(unsafe_code)]

use std::io::{Read, Write};
use std::net::{IpAddr, Shutdown};
use std::time::Instant;

use anyhow::{Context, bail, ensure};
use dmm::TcpStream;

const MESSAGE: usize = 64;
const BLOCK: usize = 65_536;

fn main() -> anyhow::Result<()> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let [what, address, port, count, how] = words.as_slice() else {
        bail!("usage: bench-client echo|send ADDRESS PORT COUNT copy|in-place");
    };
    let to: (IpAddr, u16) = (address.parse()?, port.parse()?);
    let count: u32 = count.parse()?;
    let in_place = how == "in-place";
    let stream = TcpStream::connect(to).context("cannot connect")?;
    stream.set_nodelay(true)?;
    let mut block = vec![7; BLOCK];
    let mut trip = |stream: &TcpStream| -> anyhow::Result<()> {
        send_all(stream, &mut block[..MESSAGE], in_place)?;
        receive_all(stream, &mut block[..MESSAGE], in_place)
    };
    if what == "echo" {
        for _ in 0..count / 10 {
            trip(&stream)?;
        }
        let began = Instant::now();
        for _ in 0..count {
            trip(&stream)?;
        }
        println!("{}", began.elapsed().as_secs_f64() * 1e6 / f64::from(count));
        return Ok(());
    }
    let began = Instant::now();
    for _ in 0..count {
        send_all(&stream, &mut block, in_place)?;
    }
    // The server ends once it has all of it.
    stream.shutdown(Shutdown::Write)?;
    ensure!((&stream).read(&mut block)? == 0, "the stream does not end");
    let bits = f64::from(count) * BLOCK as f64 * 8.0;
    println!("{}", bits / 1e9 / began.elapsed().as_secs_f64());
    Ok(())
}

/// Makes as many bytes, as a program would, and sends them.
fn send_all(mut stream: &TcpStream, bytes: &mut [u8], in_place: bool) -> anyhow::Result<()> {
    if !in_place {
        bytes.fill(7);
        return Ok(stream.write_all(bytes)?);
    }
    let mut left = bytes.len();
    while left > 0 {
        let mut room = stream.write_in_place(left)?;
        room.fill(7);
        let len = room.len();
        room.commit(len)?;
        left -= len;
    }
    Ok(())
}

fn receive_all(mut stream: &TcpStream, bytes: &mut [u8], in_place: bool) -> anyhow::Result<()> {
    if !in_place {
        return Ok(stream.read_exact(bytes)?);
    }
    let mut left = bytes.len();
    while left > 0 {
        let lent = stream.read_in_place()?;
        let len = lent.len();
        ensure!(len > 0, "the stream ended");
        lent.give_back(len)?;
        left -= len;
    }
    Ok(())
}

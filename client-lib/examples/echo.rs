//! The smallest server: sends back what it receives.
//!
//! `cargo run -p dmm --example echo -- 10.0.0.2:7` and then, from the other side of the wire,
//! `nc 10.0.0.2 7`.

use std::io::{self, Read, Write};

use dmm::{TcpListener, TcpStream};

fn main() -> io::Result<()> {
    let address = std::env::args().nth(1).unwrap_or_else(|| "0.0.0.0:7".into());
    let listener = TcpListener::bind(address)?;
    println!("echoing on {}", listener.local_addr()?);
    for stream in listener.incoming() {
        let stream = stream?;
        std::thread::spawn(move || {
            if let Err(error) = echo(stream) {
                eprintln!("a connection ended: {error}");
            }
        });
    }
    Ok(())
}

fn echo(mut stream: TcpStream) -> io::Result<()> {
    let mut buffer = [0; 16 * 1024];
    loop {
        match stream.read(&mut buffer)? {
            0 => return Ok(()),
            len => stream.write_all(&buffer[..len])?,
        }
    }
}

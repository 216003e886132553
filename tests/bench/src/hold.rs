//! `dmm-bench hold`: a client program that opens connections, uses each once, and holds them.
//!
//! Started by rows that look at a daemon whose clients do nothing, or that die. Tells on standard
//! error when it holds all of them, and ends when its standard input does.

use std::io::{Read, Write};
use std::net::SocketAddr;
use std::path::PathBuf;

use anyhow::{Context, bail};

/// What is sent and received once on each connection.
const MESSAGE: [u8; 64] = [0x5a; 64];

/// Arguments of `dmm-bench hold`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// `server` or `client`
    role: String,
    /// Where the server listens
    address: SocketAddr,
    /// The stack
    #[arg(long)]
    via: String,
    /// How many connections
    #[arg(long)]
    connections: usize,
    /// The daemon's socket
    #[arg(long)]
    socket: PathBuf,
}

/// Opens the connections and holds them.
pub fn run(args: &Args) -> anyhow::Result<()> {
    let client = dmm::Client::attach(&args.socket)?;
    let streams = match args.role.as_str() {
        "server" => accept(&client, args)?,
        "client" => connect(&client, args)?,
        role => bail!("{role:?} is neither server nor client"),
    };
    eprintln!("holding {}", streams.len());
    // Until whoever started it closes the pipe.
    std::io::stdin().read_to_end(&mut Vec::new()).context("standard input broke")?;
    Ok(())
}

fn accept(client: &dmm::Client, args: &Args) -> anyhow::Result<Vec<dmm::TcpStream>> {
    let listener = client.listen(Some(&args.via), args.address)?;
    eprintln!("listening");
    let serve = |_| -> anyhow::Result<_> {
        let (mut stream, _) = listener.accept()?;
        let mut message = MESSAGE;
        stream.read_exact(&mut message)?;
        stream.write_all(&message)?;
        Ok(stream)
    };
    (0..args.connections).map(serve).collect()
}

fn connect(client: &dmm::Client, args: &Args) -> anyhow::Result<Vec<dmm::TcpStream>> {
    let open = |number| -> anyhow::Result<_> {
        let mut stream = client
            .connect(Some(&args.via), args.address)
            .with_context(|| format!("cannot open connection {number}"))?;
        stream.write_all(&MESSAGE)?;
        let mut message = [0; MESSAGE.len()];
        stream.read_exact(&mut message)?;
        Ok(stream)
    };
    (0..args.connections).map(open).collect()
}

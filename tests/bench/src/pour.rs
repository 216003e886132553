//! `dmm-bench pour`: one end of a stream that is as fast as it can be, for rows about the path between.
//!
//! The sink counts what arrives in a span, since what a source has written may be anywhere. Both end by
//! themselves.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::bail;

/// Bytes of a read or a write.
const BLOCK: usize = 1 << 16;

/// Arguments of `dmm-bench pour`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// `sink`, which is the kernel's, or `source`
    role: String,
    /// Where the sink is
    address: SocketAddr,
    /// Seconds before the sink counts
    #[arg(long, default_value_t = 0.0)]
    warmup: f64,
    /// Seconds in which it does
    #[arg(long, default_value_t = 1.0)]
    span: f64,
    /// The daemon's socket, of a source that is not the kernel's
    #[arg(long)]
    socket: Option<PathBuf>,
}

/// Pours, or lets in. A sink prints megabits a second.
pub fn run(args: &Args) -> anyhow::Result<()> {
    match (args.role.as_str(), &args.socket) {
        ("sink", _) => sink(args),
        ("source", None) => source(TcpStream::connect(args.address)?),
        ("source", Some(socket)) => {
            source(dmm::Client::attach(socket)?.connect(None, args.address)?)
        }
        (role, _) => bail!("{role:?} is neither sink nor source"),
    }
}

fn sink(args: &Args) -> anyhow::Result<()> {
    let listener = TcpListener::bind(args.address)?;
    eprintln!("listening");
    let (mut stream, _) = listener.accept()?;
    stream.set_read_timeout(Some(Duration::from_millis(50)))?;
    let began = Instant::now() + Duration::from_secs_f64(args.warmup);
    let end = began + Duration::from_secs_f64(args.span);
    let (mut block, mut bytes) = (vec![0; BLOCK], 0);
    while Instant::now() < end {
        let len = match stream.read(&mut block) {
            Ok(0) => bail!("the source ended"),
            Ok(len) => len,
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => 0,
            Err(error) => return Err(error.into()),
        };
        if Instant::now() >= began {
            bytes += len;
        }
    }
    println!("{}", bytes as f64 * 8.0 / 1e6 / args.span);
    Ok(())
}

/// Writes until the sink is gone.
fn source(mut stream: impl Write) -> anyhow::Result<()> {
    let block = vec![7; BLOCK];
    while stream.write(&block).is_ok() {}
    Ok(())
}

//! A web server on axum: `hello_axum ADDRESS`. Each page says how many were served.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use axum::Router;
use axum::extract::State;
use axum::routing::get;
use dmm_async::tokio::{TcpListener, TcpStream};

/// What axum takes connections from.
struct Connections(TcpListener);

impl axum::serve::Listener for Connections {
    type Io = TcpStream;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (TcpStream, SocketAddr) {
        loop {
            match self.0.accept().await {
                Ok((stream, peer)) => {
                    // Small answers need not wait for each other.
                    let _ = stream.get_ref().set_nodelay(true);
                    return (stream, peer);
                }
                // No slot, or the daemon is gone: the next may do better.
                Err(error) => {
                    eprintln!("hello_axum: cannot accept: {error}");
                    tokio::time::sleep(std::time::Duration::from_millis(100)).await;
                }
            }
        }
    }

    fn local_addr(&self) -> std::io::Result<SocketAddr> {
        self.0.local_addr()
    }
}

async fn hello(State(served): State<Arc<AtomicU64>>) -> String {
    let number = served.fetch_add(1, Ordering::Relaxed) + 1;
    format!("Hello from DMM, for the {number}. time.\n")
}

#[tokio::main]
async fn main() -> std::io::Result<()> {
    let address = std::env::args().nth(1).unwrap_or_else(|| "10.111.0.2:8080".to_owned());
    let address = address.parse().map_err(std::io::Error::other)?;
    let listener = Connections(TcpListener::bind(address)?);
    println!("serving http://{}/", listener.0.local_addr()?);
    let app = Router::new().route("/", get(hello)).with_state(Arc::default());
    axum::serve(listener, app).await
}

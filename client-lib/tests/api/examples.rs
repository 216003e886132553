//! The example web server, run in this process.

use std::io::{Read, Write};
use std::net::SocketAddr;

use crate::common::FakeDaemon;
use dmm::{Client, TcpStream, errno};
use nix::errno::Errno;

#[expect(dead_code, reason = "an example's main is not called here")]
#[path = "../../examples/hello_http.rs"]
mod hello_http;

fn ask(stream: &mut TcpStream, request: &str) -> String {
    stream.write_all(request.as_bytes()).unwrap();
    let mut reply = Vec::new();
    let mut byte = [0];
    while !reply.ends_with(b"\r\n\r\n") {
        stream.read_exact(&mut byte).unwrap();
        reply.push(byte[0]);
    }
    let head = String::from_utf8(reply).unwrap();
    let length = head.lines().find_map(|line| line.strip_prefix("Content-Length: ")).unwrap();
    let mut body = vec![0; if request.starts_with("HEAD") { 0 } else { length.parse().unwrap() }];
    stream.read_exact(&mut body).unwrap();
    head + &String::from_utf8(body).unwrap()
}

#[test]
fn the_web_server_serves_keeps_alive_and_closes() {
    let mut daemon = FakeDaemon::start();
    let client = Client::attach(daemon.path()).unwrap();
    let any: SocketAddr = "10.0.0.1:0".parse().unwrap();
    let listener = client.listen(None, any).unwrap();
    let to = listener.local_addr().unwrap();
    std::thread::scope(|scope| {
        let server = scope.spawn(|| hello_http::serve(&listener));
        let mut stream = client.connect(None, to).unwrap();
        for _ in 0..3 {
            let reply = ask(&mut stream, "GET / HTTP/1.1\r\nHost: x\r\n\r\n");
            assert!(reply.starts_with("HTTP/1.1 200 OK"), "{reply}");
            assert!(reply.contains("keep-alive") && reply.ends_with("</html>\n"), "{reply}");
        }
        assert!(ask(&mut stream, "HEAD / HTTP/1.1\r\n\r\n").contains("Content-Length: "));
        assert!(ask(&mut stream, "GET /x HTTP/1.1\r\n\r\n").starts_with("HTTP/1.1 404"));
        let reply = ask(&mut stream, "GET / HTTP/1.1\r\nconnection: Close\r\n\r\n");
        assert!(reply.contains("Connection: close"), "{reply}");
        assert_eq!(stream.read(&mut [0]).unwrap(), 0);
        let mut old = client.connect(None, to).unwrap();
        ask(&mut old, "GET / HTTP/1.0\r\n\r\n");
        assert_eq!(old.read(&mut [0]).unwrap(), 0);
        daemon.kill();
        let error = server.join().unwrap().unwrap_err();
        assert_eq!(errno(&error), Errno::ECONNRESET as i32);
    });
}

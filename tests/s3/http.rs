//! As much of HTTP/1.1 as a wire with faults in it needs: one request a connection.

use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The longest head of a request.
const HEAD: usize = 1 << 16;

/// Nobody here is slower.
const PATIENCE: Duration = Duration::from_mins(2);

/// Serves each connection with a thread of its own, for as long as the test runs. Returns the port.
pub(crate) fn serve(handle: impl Fn(TcpStream) + Send + Sync + 'static) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let handle = Arc::new(handle);
    std::thread::spawn(move || {
        for client in listener.incoming().map_while(Result::ok) {
            let handle = Arc::clone(&handle);
            std::thread::spawn(move || handle(client));
        }
    });
    port
}

pub(crate) struct Request {
    pub(crate) method: String,
    /// Path and query.
    pub(crate) target: String,
    /// All lines, with the empty one.
    pub(crate) head: String,
    pub(crate) body: Vec<u8>,
}

impl Request {
    /// The request that waits on a connection, without its body. It is still to be taken off.
    pub(crate) fn peek(client: &TcpStream) -> Option<Self> {
        let mut bytes = vec![0; HEAD];
        let begun = Instant::now();
        let head = loop {
            let read = client.peek(&mut bytes).ok().filter(|read| *read > 0)?;
            if let Some(end) = end_of_head(&bytes[..read]) {
                break String::from_utf8_lossy(&bytes[..end]).into_owned();
            }
            if begun.elapsed() > PATIENCE {
                return None;
            }
            std::thread::sleep(Duration::from_millis(1));
        };
        let mut words = head.split(' ');
        let (method, target) = (words.next()?.to_owned(), words.next()?);
        // Through a proxy the whole address is asked for.
        let target = target.strip_prefix("http://").map_or(target, |rest| rest.find('/').map_or("/", |at| &rest[at..]));
        let target = target.to_owned();
        Some(Self { method, target, head, body: Vec::new() })
    }

    /// Takes it off the connection, body included.
    pub(crate) fn take(&mut self, client: &mut TcpStream) -> io::Result<()> {
        client.set_read_timeout(Some(PATIENCE))?;
        client.read_exact(&mut vec![0; self.head.len()])?;
        self.body = vec![0; self.header("content-length").map_or(0, |length| length.parse().unwrap())];
        client.read_exact(&mut self.body)
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let mut lines = self.head.lines().filter_map(|line| line.split_once(':'));
        lines.find(|(found, _)| found.eq_ignore_ascii_case(name)).map(|(_, value)| value.trim())
    }

    /// Asks a server the same, and returns all that it answers.
    pub(crate) fn forward(&self, port: u16) -> io::Result<Vec<u8>> {
        let lines = self
            .head
            .lines()
            .skip(1)
            .filter(|line| !line.is_empty() && !line.to_lowercase().starts_with("connection:"));
        let lines = lines.fold(String::new(), |text, line| text + line + "\r\n");
        ask(port, &format!("{} {} HTTP/1.1\r\n{lines}", self.method, self.target), &self.body)
    }
}

/// One request, of lines that each end, and the whole answer.
pub(crate) fn ask(port: u16, lines: &str, body: &[u8]) -> io::Result<Vec<u8>> {
    let mut server = TcpStream::connect(("127.0.0.1", port))?;
    server.set_read_timeout(Some(PATIENCE))?;
    server.write_all(format!("{lines}Connection: close\r\n\r\n").as_bytes())?;
    server.write_all(body)?;
    let mut answer = Vec::new();
    server.read_to_end(&mut answer)?;
    Ok(answer)
}

/// An answer of one's own.
pub(crate) fn answer(status: &str, headers: &str, body: &[u8]) -> Vec<u8> {
    let head = format!("HTTP/1.1 {status}\r\n{headers}Content-Length: {}\r\nConnection: close\r\n\r\n", body.len());
    [head.as_bytes(), body].concat()
}

/// Where the body of an answer or a request begins.
pub(crate) fn end_of_head(bytes: &[u8]) -> Option<usize> {
    bytes.windows(4).position(|window| window == b"\r\n\r\n").map(|at| at + 4)
}

/// Says nothing more until the other side gives up.
pub(crate) fn hold(mut client: TcpStream) {
    let _ = client.set_read_timeout(Some(PATIENCE));
    while matches!(client.read(&mut [0; 64]), Ok(1..)) {}
}

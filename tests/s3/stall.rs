//! A wire to the server that goes dead at a given request: what a cut network or a frozen node looks like from a worker.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

use super::server::Server;

pub(crate) struct Stall {
    port: u16,
    reached: Receiver<()>,
}

impl Stall {
    /// Passes everything on until a request holds this text, and from then on nothing of that connection.
    pub(crate) fn before(server: &Server, text: &'static str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let (there, (sender, reached)) = (server.port(), channel());
        std::thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                let Ok(upstream) = TcpStream::connect(("127.0.0.1", there)) else { return };
                let (mut answers, mut back) = (upstream.try_clone().unwrap(), client.try_clone().unwrap());
                let sender = sender.clone();
                std::thread::spawn(move || pass_on(client, upstream, text, &sender));
                std::thread::spawn(move || {
                    let _ = std::io::copy(&mut answers, &mut back);
                    let _ = back.shutdown(Shutdown::Both);
                });
            }
        });
        Self { port, reached }
    }

    pub(crate) fn endpoint(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// Returns when the request has come.
    pub(crate) fn wait(&self) {
        self.reached.recv_timeout(Duration::from_mins(5)).unwrap();
    }
}

fn pass_on(mut from: TcpStream, mut to: TcpStream, text: &str, reached: &Sender<()>) {
    let mut bytes = vec![0; 1 << 16];
    while let Ok(read @ 1..) = from.read(&mut bytes) {
        // A request starts a write of its own, so its first line is in one piece.
        if bytes[..read].windows(text.len()).any(|window| window == text.as_bytes()) {
            let _ = reached.send(());
            while matches!(from.read(&mut bytes), Ok(1..)) {}
            break;
        }
        if to.write_all(&bytes[..read]).is_err() {
            break;
        }
    }
    let _ = to.shutdown(Shutdown::Both);
}

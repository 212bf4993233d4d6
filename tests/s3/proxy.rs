//! A wire to a server with faults in it. After each request that changes something, it looks whether what lies in the bucket is whole.

use std::io::Write;
use std::net::TcpStream;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use super::http::{Request, answer, end_of_head, hold, serve};
use super::whole;

/// What happens to a request or its answer.
#[derive(Clone)]
pub(crate) enum Fault {
    /// The server says so: status and code.
    Answer(&'static str, &'static str),
    /// The connection is reset before the request is read.
    Reset,
    /// Nobody answers.
    Silent,
    /// The answer ends after so many bytes of its body.
    Cut(usize),
    /// The answer stops after so many bytes of its body, and the connection stays.
    Freeze(usize),
    /// A byte of the answer is another one.
    ChangedAnswer,
    /// A byte of what is sent is another one.
    ChangedRequest,
    /// What is asked for is done, and the answer is lost.
    Lost,
    /// The object is said to have a petabyte.
    Huge,
    /// Something else is done first.
    Meanwhile(Arc<dyn Fn() + Send + Sync>),
}

/// Which requests a fault meets, and how often.
#[derive(Clone)]
pub(crate) struct Rule {
    method: &'static str,
    target: &'static str,
    fault: Fault,
    times: usize,
}

impl Rule {
    /// The first request of this method (empty: any) whose target holds this text.
    pub(crate) fn once(method: &'static str, target: &'static str, fault: &Fault) -> Self {
        Self { method, target, fault: fault.clone(), times: 1 }
    }

    /// All of them.
    pub(crate) fn always(method: &'static str, target: &'static str, fault: &Fault) -> Self {
        Self { method, target, fault: fault.clone(), times: usize::MAX }
    }
}

struct State {
    upstream: u16,
    bucket: PathBuf,
    rules: Mutex<Vec<(Rule, usize)>>,
    seen: Mutex<Vec<String>>,
    wrong: Mutex<Vec<String>>,
}

pub(crate) struct Proxy {
    port: u16,
    state: Arc<State>,
}

impl Proxy {
    /// Before the server at a port. `bucket` is where the results lie on the disk.
    pub(crate) fn before(upstream: u16, bucket: PathBuf, rules: Vec<Rule>) -> Self {
        let rules = Mutex::new(rules.into_iter().map(|rule| (rule, 0)).collect());
        let state = Arc::new(State { upstream, bucket, rules, seen: Mutex::default(), wrong: Mutex::default() });
        let shared = Arc::clone(&state);
        Self { port: serve(move |client| shared.pass(client)), state }
    }

    pub(crate) fn endpoint(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// How often each rule was met.
    pub(crate) fn met(&self) -> Vec<usize> {
        self.state.rules.lock().unwrap().iter().map(|(_, met)| *met).collect()
    }

    /// Method and target of every request.
    pub(crate) fn seen(&self) -> Vec<String> {
        self.state.seen.lock().unwrap().clone()
    }

    /// What was ever half-written.
    pub(crate) fn wrong(&self) -> Vec<String> {
        self.state.wrong.lock().unwrap().clone()
    }
}

impl State {
    fn fault(&self, request: &Request) -> Option<Fault> {
        let mut rules = self.rules.lock().unwrap();
        let meets = |rule: &Rule| {
            (rule.method.is_empty() || rule.method == request.method) && request.target.contains(rule.target)
        };
        let (rule, met) = rules.iter_mut().find(|(rule, met)| *met < rule.times && meets(rule))?;
        *met += 1;
        Some(rule.fault.clone())
    }

    /// A connection that ends early is the worker's affair.
    fn pass(&self, mut client: TcpStream) {
        let Some(mut request) = Request::peek(&client) else { return };
        self.seen.lock().unwrap().push(format!("{} {}", request.method, request.target));
        let fault = self.fault(&request);
        // What was not read makes the kernel reset the connection.
        if matches!(fault, Some(Fault::Reset)) || request.take(&mut client).is_err() {
            return;
        }
        match &fault {
            Some(Fault::Answer(status, code)) => {
                let text = format!("<Error><Code>{code}</Code><Message>Injected.</Message></Error>");
                let body = if request.method == "HEAD" { &[][..] } else { text.as_bytes() };
                let _ = client.write_all(&answer(status, "Content-Type: application/xml\r\n", body));
                return;
            }
            Some(Fault::Silent) => return hold(client),
            Some(Fault::ChangedRequest) => {
                let middle = request.body.len() / 2;
                request.body[middle] ^= 1;
            }
            Some(Fault::Meanwhile(act)) => act(),
            _ => {}
        }
        let Ok(mut answer) = request.forward(self.upstream) else { return };
        if !matches!(request.method.as_str(), "GET" | "HEAD")
            && let Err(wrong) = whole::check(&self.bucket)
        {
            self.wrong.lock().unwrap().push(format!("after {} {}: {wrong}", request.method, request.target));
        }
        let body = end_of_head(&answer).unwrap_or(answer.len());
        match fault {
            Some(Fault::Lost) => return,
            Some(Fault::Cut(bytes)) => answer.truncate(body + bytes),
            Some(Fault::Freeze(bytes)) => {
                let _ = client.write_all(&answer[..answer.len().min(body + bytes)]);
                return hold(client);
            }
            Some(Fault::ChangedAnswer) => answer[body] ^= 1,
            Some(Fault::Huge) => {
                let lines = String::from_utf8_lossy(&answer[..body]).into_owned();
                let lines = lines.lines().filter(|line| !line.to_lowercase().starts_with("content-length"));
                let lines = lines.fold(String::new(), |text, line| text + line + "\r\n");
                answer = lines.replacen("\r\n", "\r\nContent-Length: 1000000000000000\r\n", 1).into_bytes();
            }
            _ => {}
        }
        let _ = client.write_all(&answer);
    }
}

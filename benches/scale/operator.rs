//! The operator as a process of its own.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use super::process;

const ADDRESS: &str = "127.0.0.1:18080";

pub(crate) struct Operator(Child);

impl Operator {
    /// Starts it, and returns when `/readyz` says so.
    pub(crate) fn start() -> Self {
        let log = std::fs::File::create(std::env::temp_dir().join("bakehouse-scale-operator.log")).unwrap();
        // That of `make e2e`, without an engine in it, where it was built.
        let program =
            std::env::var("BAKEHOUSE_OPERATOR_BIN").unwrap_or_else(|_| env!("CARGO_BIN_EXE_bakehouse").to_owned());
        let mut command = Command::new(program);
        command.args([
            "operator",
            "--no-lease",
            "--listen",
            ADDRESS,
            "--concurrency",
            "32",
            "--keep-job-seconds",
            "86400",
        ]);
        command.env("BAKEHOUSE_LOG", "warn").stdout(Stdio::null()).stderr(log);
        let operator = Self(command.spawn().unwrap());
        let started = Instant::now();
        while !get("/readyz").is_some_and(|text| text.contains(" 200 ")) {
            assert!(started.elapsed() < Duration::from_mins(5), "the operator is not ready");
            std::thread::sleep(Duration::from_millis(5));
        }
        operator
    }

    pub(crate) fn cpu_seconds(&self) -> f64 {
        process::cpu_seconds(self.0.id())
    }

    pub(crate) fn peak_mib(&self) -> f64 {
        process::mib(self.0.id(), "VmHWM")
    }

    pub(crate) fn rss_mib(&self) -> f64 {
        process::mib(self.0.id(), "VmRSS")
    }

    pub(crate) fn stop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Drop for Operator {
    fn drop(&mut self) {
        self.stop();
    }
}

/// A metric of the operator that runs, summed over its labels.
pub(crate) fn metric(name: &str) -> f64 {
    sum(name, |_| true)
}

/// Its requests that write.
pub(crate) fn writes() -> f64 {
    sum("rest_client_requests_total", |line| !line.contains("method=\"GET\""))
}

/// Its requests by method and code, as `PATCH 409: 12`.
pub(crate) fn requests() -> String {
    let text = get("/metrics").unwrap_or_default();
    let mut rows: Vec<String> = text
        .lines()
        .filter_map(|line| {
            let (labels, count) = line.strip_prefix("rest_client_requests_total{")?.split_once("} ")?;
            let of = |label: &str| {
                labels.split(',').find_map(|l| l.strip_prefix(label)?.strip_prefix("=\"")?.strip_suffix('"'))
            };
            Some(format!("{} {}: {count}", of("method")?, of("code")?))
        })
        .collect();
    rows.sort();
    rows.join(", ")
}

fn sum(name: &str, which: impl Fn(&str) -> bool) -> f64 {
    let text = get("/metrics").unwrap_or_default();
    let of_name = |line: &&str| line.strip_prefix(name).is_some_and(|rest| rest.starts_with(['{', ' '])) && which(line);
    let values = text.lines().filter(of_name).filter_map(|line| line.rsplit(' ').next()?.trim().parse::<f64>().ok());
    // The sum of no numbers is -0.
    values.fold(0.0, |sum, value| sum + value)
}

fn get(path: &str) -> Option<String> {
    let mut stream = TcpStream::connect(ADDRESS).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(10))).ok()?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: operator\r\nConnection: close\r\n\r\n").ok()?;
    let mut text = String::new();
    stream.read_to_string(&mut text).ok()?;
    Some(text)
}

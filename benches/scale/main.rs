//! How the controller bears thousands of `BakeJob`s on a real API server: `cargo bench --bench scale -- --jobs 2000 --ends kwok`.
//!
//! The operator runs as a process of this machine, so that its CPU seconds and its memory are its own. Who ends the pods is said in the
//! output: KWOK, or this benchmark by status patches, as a kubelet would write them; no pod bakes. Needs KUBECONFIG of a cluster whose
//! components run on this machine (`make cluster`), because their CPU seconds tell which of them was the limit.
//!
//! - lifecycle: from creating a `BakeJob` to its terminal status
//! - lost: not terminal at the end; doubled: more than one Job
//! - controller's own rate: lifecycles by the CPU seconds that the controller used for them, the share of time it was not waiting for others
//! - at rest: what the controller writes and burns when nothing changes
//! - hostile tenant: the operator's memory before and after a namespace fills with what is not its business
//! - resync: a new process takes up all finished objects
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a benchmark fails by panicking")]

mod load;
mod operator;
mod pods;
mod process;
mod tenant;
mod times;

use std::time::{Duration, Instant};

use clap::{Parser, ValueEnum};
use kube::Client;

use operator::Operator;
use process::Components;

/// Who ends the pods.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Ends {
    /// KWOK, with nodes of its own and the real scheduler.
    Kwok,
    /// This benchmark, by patches of the pods' status; the scheduler is paused, because no pod needs a node.
    Patches,
}

/// Options of the benchmark.
#[derive(Debug, Parser)]
struct Options {
    /// `BakeJob`s.
    #[arg(long, default_value_t = 2000)]
    jobs: u32,
    /// Namespaces they are spread over.
    #[arg(long, default_value_t = 10)]
    namespaces: u32,
    /// Who ends the pods.
    #[arg(long, value_enum, default_value_t = Ends::Kwok)]
    ends: Ends,
    /// `BakeJob`s created a second; otherwise as many as the API server takes.
    #[arg(long, value_parser = rate)]
    rate: Option<f64>,
    /// The most requests that create `BakeJob`s side by side.
    #[arg(long, default_value_t = 16)]
    clients: usize,
    /// Seconds of rest that are watched at the end; 3600 is the row of an hour.
    #[arg(long, default_value_t = 60)]
    rest: u64,
    /// A tenant fills a namespace with large ConfigMaps and foreign pods.
    #[arg(long)]
    tenant: bool,
    /// Given by `cargo bench`.
    #[arg(long, hide = true)]
    bench: bool,
}

fn rate(text: &str) -> Result<f64, String> {
    text.parse().ok().filter(|rate| *rate > 0.0).ok_or_else(|| "a number above 0".to_owned())
}

fn main() {
    let options = Options::parse();
    tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap().block_on(measure(&options));
}

async fn measure(options: &Options) {
    let client = Client::try_default().await.expect("no cluster: run `make cluster` and set KUBECONFIG");
    load::prepare(&client, options.namespaces).await;
    let ends = pods::Ends::begin(options.ends, &client);
    let watched = times::Watched::begin(&client);
    let mut operator = Operator::start();
    let components = Components::here();
    let before = components.cpu_seconds();

    println!(
        "{} BakeJobs in {} namespaces; pods are ended by {}",
        options.jobs,
        options.namespaces,
        match options.ends {
            Ends::Kwok => "KWOK",
            Ends::Patches => "this benchmark, through status patches (the scheduler is paused)",
        }
    );
    let started = Instant::now();
    load::create(&client, options).await;
    let created = started.elapsed().as_secs_f64();
    let terminal = watched.all_terminal(options.jobs, Duration::from_hours(1)).await;
    let took = started.elapsed().as_secs_f64();
    let cpu = operator.cpu_seconds();
    let used = components.since(&before);

    let jobs = f64::from(options.jobs);
    let doubled = load::doubled(&client).await;
    row("created in", &format!("{created:.1} s"));
    row("all terminal after", &format!("{took:.1} s: {:.1} lifecycles a second, end to end", jobs / took));
    row("lost", &format!("{}", u64::from(options.jobs) - terminal.min(u64::from(options.jobs))));
    row("doubled", &format!("{doubled}"));
    row(
        "controller's own",
        &format!(
            "{cpu:.1} CPU s: {:.0} lifecycles a CPU second; busy {:.0} % of the time",
            jobs / cpu,
            100.0 * cpu / took
        ),
    );
    row("peak memory", &format!("{:.1} MiB", operator.peak_mib()));
    row(
        "writes",
        &format!(
            "{:.2} status writes and {:.2} requests a lifecycle",
            operator::metric("bakejob_status_writes_total") / jobs,
            operator::metric("rest_client_requests_total") / jobs
        ),
    );
    row("of them", &operator::requests());
    row(
        "looks",
        &format!(
            "{:.1} a lifecycle, {:.0} came to nothing and were repeated",
            operator::metric("controller_runtime_reconcile_total") / jobs,
            operator::metric("controller_runtime_reconcile_errors_total"),
        ),
    );
    row("Job complete -> CR terminal", &watched.delays());
    for (name, seconds) in used {
        row(&name, &format!("{seconds:.1} CPU s, {:.0} % of one core", 100.0 * seconds / took));
    }
    drop(ends);

    rest(options, &operator);
    if options.tenant {
        hostile(options, &client, &operator).await;
    }
    operator.stop();
    resync(options, &mut operator);
    operator.stop();
    load::clear(&client, options.namespaces).await;
}

/// What a controller does when there is nothing to do.
fn rest(options: &Options, operator: &Operator) {
    // The last events of the load are still on their way.
    std::thread::sleep(Duration::from_secs(10));
    let (writes, asked, cpu) =
        (operator::writes(), operator::metric("rest_client_requests_total"), operator.cpu_seconds());
    std::thread::sleep(Duration::from_secs(options.rest));
    row(
        "at rest",
        &format!(
            "{} s: {} writes, {} requests, {:.1} millicores, {:.1} MiB",
            options.rest,
            operator::writes() - writes,
            operator::metric("rest_client_requests_total") - asked,
            1000.0 * (operator.cpu_seconds() - cpu) / options.rest as f64,
            operator.rss_mib(),
        ),
    );
}

/// What a tenant's other objects cost.
async fn hostile(options: &Options, client: &Client, operator: &Operator) {
    let before = operator.rss_mib();
    let filled = tenant::fill(client, options.clients).await;
    std::thread::sleep(Duration::from_secs(10));
    let after = operator.rss_mib();
    let change = 100.0 * (after - before) / before;
    row("hostile tenant", &format!("{filled}: {before:.1} -> {after:.1} MiB ({change:+.1} %)"));
    tenant::leave(client).await;
}

/// A new process takes up what is finished.
fn resync(options: &Options, operator: &mut Operator) {
    let started = Instant::now();
    *operator = Operator::start();
    let ready = started.elapsed().as_secs_f64();
    let jobs = f64::from(options.jobs);
    let looked = || operator::metric("controller_runtime_reconcile_total");
    while looked() < jobs && started.elapsed() < Duration::from_mins(10) {
        std::thread::sleep(Duration::from_millis(20));
    }
    let took = started.elapsed().as_secs_f64();
    row(
        "resync",
        &format!(
            "ready after {ready:.2} s, all looked at after {took:.2} s: {:.0} a second after it was ready; {} writes; peak {:.1} MiB",
            jobs / (took - ready).max(0.02),
            operator::writes(),
            operator.peak_mib()
        ),
    );
}

fn row(name: &str, value: &str) {
    println!("{name:<28} {value}");
}

//! Those who ask: each has a connection to the proxy, and waits for its answer before its next request.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::task::JoinSet;

const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nHost: shop\r\n\r\n";
/// How long an answer may take.
const ANSWER_LIMIT: Duration = Duration::from_secs(5);
/// After a failure a caller rests, so that failing is not faster than being served.
const REST: Duration = Duration::from_millis(20);
/// The width of the report's bars.
const WIDTH: f64 = 40.0;

/// What callers saw.
#[derive(Default)]
pub(super) struct Seen {
    /// Answers, by who gave them.
    by: BTreeMap<String, u64>,
    pub(super) failed: u64,
    latency_us: Option<Histogram<u64>>,
}

impl Seen {
    fn answered(&mut self, by: String, took: Duration) {
        *self.by.entry(by).or_default() += 1;
        let latency = self.latency_us.get_or_insert_with(|| {
            Histogram::new_with_bounds(1, 60_000_000, 3)
                .unwrap_or_else(|_| unreachable!("the bounds are good"))
        });
        latency.saturating_record(took.as_micros() as u64);
    }

    pub(super) fn add(&mut self, other: Seen) {
        self.failed += other.failed;
        other.by.into_iter().for_each(|(by, count)| *self.by.entry(by).or_default() += count);
        match (&mut self.latency_us, other.latency_us) {
            (Some(own), Some(more)) => drop(own.add(more)),
            (own @ None, more) => *own = more,
            (Some(_), None) => {}
        }
    }

    fn total(&self) -> u64 {
        self.by.values().sum()
    }

    pub(super) fn share(&self, name: &str) -> f64 {
        *self.by.get(name).unwrap_or(&0) as f64 / self.total().max(1) as f64
    }

    pub(super) fn rate(&self, length: Duration) -> f64 {
        self.total() as f64 / length.as_secs_f64()
    }

    fn milliseconds(&self, quantile: f64) -> f64 {
        self.latency_us.as_ref().map_or(0.0, |latency| latency.value_at_quantile(quantile) as f64 / 1e3)
    }

    pub(super) fn to_text(&self, title: &str) -> String {
        let (p50, p99) = (self.milliseconds(0.5), self.milliseconds(0.99));
        let mut text = format!(
            "{title}\n  {} requests, {} failed; p50 {p50:.1} ms, p99 {p99:.1} ms",
            self.total(),
            self.failed
        );
        for name in self.by.keys() {
            let share = self.share(name);
            let bar = "█".repeat((share * WIDTH).round() as usize);
            text.push_str(&format!("\n  {name:7} {bar:40} {:.0} %", share * 100.0));
        }
        text
    }

    pub(super) fn to_json(&self, title: &str) -> Value {
        json!({
            "act": title, "requests": self.total(), "failed": self.failed, "answered_by": self.by,
            "latency_ms": { "p50": self.milliseconds(0.5), "p99": self.milliseconds(0.99) },
        })
    }
}

/// All of them.
pub(super) struct Callers {
    proxy: watch::Sender<SocketAddr>,
    seen: Arc<Mutex<Seen>>,
    tasks: JoinSet<()>,
}

impl Callers {
    pub(super) fn start(proxy: SocketAddr, count: u64) -> Self {
        let (proxy, seen) = (watch::Sender::new(proxy), Arc::<Mutex<Seen>>::default());
        let mut tasks = JoinSet::new();
        for _ in 0..count {
            tasks.spawn(call(proxy.subscribe(), Arc::clone(&seen)));
        }
        Self { proxy, seen, tasks }
    }

    /// From now on they ask another proxy.
    pub(super) fn turn_to(&self, proxy: SocketAddr) {
        self.proxy.send_replace(proxy);
    }

    /// What they saw since it was taken last.
    pub(super) fn take(&self) -> Seen {
        std::mem::take(&mut *self.seen.lock())
    }

    pub(super) async fn stop(mut self) {
        self.tasks.shutdown().await;
    }
}

async fn call(mut proxy: watch::Receiver<SocketAddr>, seen: Arc<Mutex<Seen>>) {
    let mut connection = None;
    loop {
        if proxy.has_changed().unwrap_or(false) {
            connection = None;
        }
        let address = *proxy.borrow_and_update();
        let began = Instant::now();
        match tokio::time::timeout(ANSWER_LIMIT, ask(address, &mut connection)).await {
            Ok(Ok(by)) => seen.lock().answered(by, began.elapsed()),
            _ => {
                connection = None;
                seen.lock().failed += 1;
                tokio::time::sleep(REST).await;
            }
        }
    }
}

/// Who answered. The connection is left for the next request if the proxy lets it.
async fn ask(address: SocketAddr, connection: &mut Option<BufReader<TcpStream>>) -> std::io::Result<String> {
    let mut stream = match connection.take() {
        Some(stream) => stream,
        None => {
            let stream = TcpStream::connect(address).await?;
            stream.set_nodelay(true)?;
            BufReader::new(stream)
        }
    };
    stream.write_all(REQUEST).await?;
    let (mut line, mut length, mut is_good, mut ends) = (String::new(), 0, false, false);
    while stream.read_line(&mut line).await? > 2 {
        let lower = line.trim_end().to_ascii_lowercase();
        is_good |= lower.starts_with("http/1.1 200");
        ends |= lower == "connection: close";
        if let Some(value) = lower.strip_prefix("content-length:") {
            length = value.trim().parse().map_err(std::io::Error::other)?;
        }
        line.clear();
    }
    let mut body = String::new();
    (&mut stream).take(length).read_to_string(&mut body).await?;
    if !is_good || body.is_empty() {
        return Err(std::io::Error::other(body));
    }
    if !ends {
        *connection = Some(stream);
    }
    Ok(body)
}

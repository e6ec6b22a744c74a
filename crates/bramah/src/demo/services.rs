//! `bramah demo --services`: servers come, become slow, die and leave while requests go through the proxy by the service's name.

mod callers;
mod site;

use std::time::Duration;

use bramah_client::Client;
use bramah_proxy::{Chosen, Followed, PolicyKind, Proxy, Settings};
use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde_json::{Value, json};

use super::cell::LocalCell;
use crate::cli::{DemoArgs, Shared};
use crate::command::server::Signals;
use crate::output::{Failure, Printer};
use callers::{Callers, Seen};
use site::Site;

/// The service.
const SERVICE: &str = "shop";
/// How long the slow server takes for an answer.
const SLOW: Duration = Duration::from_millis(30);
/// How often the picture is drawn.
const DRAW_EVERY: Duration = Duration::from_millis(200);
/// How long a proxy that is replaced may take to finish what is under way.
const DRAIN: Duration = Duration::from_secs(5);

/// Runs the demo and prints its report.
pub(super) async fn run(shared: &Shared, args: &DemoArgs) -> Result<(), Failure> {
    let mut signals = Signals::install()?;
    tokio::select! {
        result = demo(shared, args) => result,
        () = signals.next() => Err(Failure::refused("interrupted; the replicas are stopped and their data is removed")),
    }
}

async fn demo(shared: &Shared, args: &DemoArgs) -> Result<(), Failure> {
    let executable = std::env::current_exe()
        .map_err(|error| Failure::refused(format!("cannot find my own executable: {error}")))?;
    let picture = Picture::new(shared.is_json());
    picture.say("starting three replicas on this machine");
    let cell = LocalCell::start(&executable, false).await?;
    let client = Client::builder().addresses(cell.addresses()).name("bramah demo").connect().await?;
    let mut stage = Stage::begin(client, args).await?;
    let mut acts = Vec::new();
    for act in Act::ALL {
        stage.change(act).await?;
        picture.say(act.title());
        acts.push((act, stage.play(Duration::from_secs_f64(args.act_seconds), &picture).await));
    }
    picture.end();
    stage.end().await;
    let failed: u64 = acts.iter().map(|(_, seen)| seen.failed).sum();
    let told: Vec<Value> = acts.iter().map(|(act, seen)| seen.to_json(act.title())).collect();
    let text: Vec<String> = acts.iter().map(|(act, seen)| seen.to_text(act.title())).collect();
    let verdict = match failed {
        0 => "No request failed.".to_owned(),
        failed => format!("{failed} requests FAILED."),
    };
    let answer = json!({ "acts": told, "failed": failed });
    Printer { json: shared.is_json() }.answer(format!("{}\n{verdict}", text.join("\n")), answer)?;
    match failed {
        0 => Ok(()),
        _ => Err(Failure::refused("requests failed that another instance could have answered")),
    }
}

/// What happens next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Act {
    Even,
    Comes,
    Slow,
    Switched,
    Killed,
    Leaves,
}

impl Act {
    const ALL: [Act; 6] = [Act::Even, Act::Comes, Act::Slow, Act::Switched, Act::Killed, Act::Leaves];

    fn title(self) -> &'static str {
        match self {
            Act::Even => "three servers, in turns",
            Act::Comes => "a fourth server is registered",
            Act::Slow => "shop-2 becomes slow: 30 ms an answer",
            Act::Switched => "the policy is switched to least request",
            Act::Killed => "shop-1 dies without a word: it is registered still, and answers nobody",
            Act::Leaves => "shop-1's lease is over, and shop-3 leaves in order",
        }
    }
}

/// Everything that plays.
struct Stage {
    client: Client,
    sites: Vec<Site>,
    proxy: Proxy,
    /// Held as long as its proxy.
    followed: Followed,
    callers: Callers,
}

impl Stage {
    async fn begin(client: Client, args: &DemoArgs) -> Result<Self, Failure> {
        let mut sites = Vec::new();
        for number in 1..=3 {
            sites.push(Site::open(&client, SERVICE, number).await?);
        }
        let (proxy, followed) = proxy(&client, PolicyKind::RoundRobin).await?;
        let callers = Callers::start(proxy.address(), args.workers);
        Ok(Self { client, sites, proxy, followed, callers })
    }

    async fn change(&mut self, act: Act) -> Result<(), Failure> {
        match act {
            Act::Even => {}
            Act::Comes => self.sites.push(Site::open(&self.client, SERVICE, 4).await?),
            Act::Slow => self.site("shop-2").delay(SLOW),
            Act::Switched => {
                let (proxy, followed) = proxy(&self.client, PolicyKind::LeastRequest).await?;
                self.callers.turn_to(proxy.address());
                let before = std::mem::replace(&mut self.proxy, proxy);
                before.stop(DRAIN).await;
                self.followed = followed;
            }
            Act::Killed => self.site("shop-1").die(),
            Act::Leaves => {
                for name in ["shop-1", "shop-3"] {
                    let at = self.sites.iter().position(|site| site.name() == name);
                    if let Some(at) = at {
                        self.sites.remove(at).leave().await;
                    }
                }
            }
        }
        Ok(())
    }

    fn site(&self, name: &str) -> &Site {
        self.sites.iter().find(|site| site.name() == name).unwrap_or_else(|| unreachable!("{name} is there"))
    }

    /// Lets it go on for a while, and draws meanwhile.
    async fn play(&self, length: Duration, picture: &Picture) -> Seen {
        drop(self.callers.take());
        let (mut all, end) = (Seen::default(), tokio::time::Instant::now() + length);
        while tokio::time::Instant::now() < end {
            tokio::time::sleep(DRAW_EVERY).await;
            let seen = self.callers.take();
            picture.draw(&seen);
            all.add(seen);
        }
        all
    }

    async fn end(self) {
        self.callers.stop().await;
        self.proxy.stop(DRAIN).await;
        for site in self.sites {
            site.leave().await;
        }
        drop(self.followed);
        self.client.close().await;
    }
}

/// A proxy that follows the service.
async fn proxy(client: &Client, policy: PolicyKind) -> Result<(Proxy, Followed), Failure> {
    let follower = client.registry().follow(SERVICE).await?;
    let (followed, told) = Followed::start(follower, Chosen { service: SERVICE.to_owned(), tag: None });
    let settings = Settings { policy, seed: rand::random(), ..Settings::default() };
    Ok((Proxy::start(settings, told).await?, followed))
}

/// What people see meanwhile, on standard error: who answers how much.
struct Picture {
    all: MultiProgress,
    bars: Vec<(String, ProgressBar)>,
    quiet: bool,
}

impl Picture {
    fn new(quiet: bool) -> Self {
        let target = if quiet { ProgressDrawTarget::hidden() } else { ProgressDrawTarget::stderr() };
        let all = MultiProgress::with_draw_target(target);
        let style = ProgressStyle::with_template("  {prefix:7} {bar:40} {msg}");
        let bar = |number: u32| {
            let name = format!("{SERVICE}-{number}");
            let bar = all.add(ProgressBar::new(100));
            if let Ok(style) = &style {
                bar.set_style(style.clone());
            }
            bar.set_prefix(name.clone());
            (name, bar)
        };
        let bars = (1..=4).map(bar).collect();
        Self { all, bars, quiet }
    }

    fn say(&self, what: &str) {
        if self.quiet {
            return;
        }
        // Where there is no terminal nothing is drawn.
        if self.all.is_hidden() || self.all.println(what).is_err() {
            eprintln!("{what}");
        }
    }

    fn draw(&self, seen: &Seen) {
        for (name, bar) in &self.bars {
            let share = seen.share(name);
            bar.set_position((share * 100.0).round() as u64);
            bar.set_message(format!("{:.0} % of {:.0} a second", share * 100.0, seen.rate(DRAW_EVERY)));
        }
    }

    fn end(&self) {
        self.bars.iter().for_each(|(_, bar)| bar.finish_and_clear());
    }
}

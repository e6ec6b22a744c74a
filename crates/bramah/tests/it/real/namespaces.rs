//! Each replica in a network namespace of its own, all on one bridge, whose own address the clients have.

use std::process::Command;
use std::sync::OnceLock;

use super::leftovers::{LINK_PREFIX, PREFIX};
use super::network::{CLIENTS, Host};
use super::tool::{must, tool};
use crate::support::BRAMAH;

/// The two networks of RFC 2544, for tests of network devices: nobody routes them.
const NETWORK: [u8; 2] = [198, 18];
/// So many small networks of 16 addresses each fit in there.
const SUBNETS: u32 = 1 << 13;

/// The bridge and the namespaces of one cell. Dropping it removes them.
pub(crate) struct Namespaces {
    /// Of all namespaces: `bramah-real-PID-CELL-`.
    prefix: String,
    /// Of the bridge, and with a number of the links.
    link: String,
    subnet: u32,
    replicas: usize,
}

/// Whether this machine lets us, or why not; found out once.
pub(crate) fn are_possible() -> &'static Result<(), String> {
    static POSSIBLE: OnceLock<Result<(), String>> = OnceLock::new();
    POSSIBLE.get_or_init(|| {
        for program in ["ip", "nsenter", "nft", "tc"] {
            tool(program, &["-V"])?;
        }
        Namespaces::make(0, 2)?.try_out()
    })
}

impl Namespaces {
    /// `cell` tells the cells of this process apart.
    pub(crate) fn make(cell: u32, replicas: usize) -> Result<Self, String> {
        let pid = std::process::id();
        let link = format!("{LINK_PREFIX}{pid}{}", char::from(b'a' + (cell % 26) as u8));
        let made =
            Self { prefix: format!("{PREFIX}{pid}-{cell}-"), link, subnet: free_subnet(pid)?, replicas };
        made.make_bridge()?;
        for replica in 1..=replicas {
            made.make_namespace(replica)?;
        }
        Ok(made)
    }

    fn make_bridge(&self) -> Result<(), String> {
        let (bridge, address) = (&self.link, format!("{}/28", self.address(CLIENTS)));
        tool("ip", &["link", "add", bridge, "type", "bridge"])?;
        tool("ip", &["address", "add", &address, "dev", bridge])?;
        tool("ip", &["link", "set", bridge, "up"]).map(drop)
    }

    fn make_namespace(&self, replica: Host) -> Result<(), String> {
        let (name, link) = (self.name(replica), self.link_of(replica));
        let address = format!("{}/28", self.address(replica));
        tool("ip", &["netns", "add", &name])?;
        tool("ip", &["link", "add", &link, "type", "veth", "peer", "name", "eth0", "netns", &name])?;
        tool("ip", &["link", "set", &link, "master", &self.link, "up"])?;
        tool("ip", &["-n", &name, "address", "add", &address, "dev", "eth0"])?;
        tool("ip", &["-n", &name, "link", "set", "eth0", "up"])?;
        tool("ip", &["-n", &name, "link", "set", "lo", "up"])?;
        self.nft(replica, "add table ip bramah")?;
        self.nft(replica, "add chain ip bramah input { type filter hook input priority 0 ; }")?;
        self.nft(replica, "add chain ip bramah output { type filter hook output priority 0 ; }").map(drop)
    }

    /// Whether packets get from here to a namespace and from one to another: a firewall may filter bridges.
    fn try_out(&self) -> Result<(), String> {
        let port = 9;
        let address = format!("{}:{port}", self.address(2));
        let arguments = ["--addresses", &address, "--timeout", "2s", "status"];
        for mut command in [Command::new(BRAMAH), self.enclose(1, &Command::new(BRAMAH))] {
            let output = command.args(arguments).output().map_err(|error| error.to_string())?;
            let error = String::from_utf8_lossy(&output.stderr);
            if !error.contains("refused") {
                return Err(format!("nothing refuses connections at {address}: {}", error.trim()));
            }
        }
        Ok(())
    }

    pub(crate) fn address(&self, host: Host) -> String {
        let number = (self.subnet << 4) + host as u32 + 1;
        let [_, high, middle, low] = number.to_be_bytes();
        format!("{}.{}.{middle}.{low}", NETWORK[0], NETWORK[1] + high)
    }

    /// The same command, within the replica's namespace. It becomes the process itself, no child.
    pub(crate) fn enclose(&self, replica: Host, command: &Command) -> Command {
        let mut enclosed = Command::new("nsenter");
        enclosed.arg(format!("--net=/run/netns/{}", self.name(replica)));
        enclosed.arg("--").arg(command.get_program()).args(command.get_args());
        for (name, value) in command.get_envs() {
            match value {
                Some(value) => enclosed.env(name, value),
                None => enclosed.env_remove(name),
            };
        }
        enclosed
    }

    /// From now on no packet gets from one to the other; the way back stays open.
    pub(crate) fn cut(&self, from: Host, to: Host) {
        let (chain, side, address) = match to {
            // The clients' namespace is everybody's.
            CLIENTS => (("output", from), "daddr", self.address(CLIENTS)),
            to => (("input", to), "saddr", self.address(from)),
        };
        let (chain, at) = chain;
        self.add_rule(at, &format!("{chain} ip {side} {address} counter drop"));
    }

    /// From now on each packet to a replica is lost with this probability.
    pub(crate) fn lose(&self, to: Host, percent: u32) {
        self.add_rule(to, &format!("input numgen random mod 100 < {percent} counter drop"));
    }

    fn add_rule(&self, at: Host, rule: &str) {
        self.nft(at, &format!("add rule ip bramah {rule}")).unwrap_or_else(|why| panic!("{why}"));
    }

    /// From now on a replica sends and is sent no more than this.
    pub(crate) fn slow(&self, replica: Host, kilobits_per_second: u32) {
        let rate = format!("{kilobits_per_second}kbit");
        let shape = ["root", "tbf", "rate", &rate, "burst", "16kb", "latency", "300ms"];
        let (name, link) = (self.name(replica), self.link_of(replica));
        must("tc", &[&["-n", &name, "qdisc", "add", "dev", "eth0"], shape.as_slice()].concat());
        must("tc", &[&["qdisc", "add", "dev", &link], shape.as_slice()].concat());
    }

    /// All is as it was in the beginning. Packets that were dropped until now, and those that a slow link held back.
    pub(crate) fn heal(&self) -> u64 {
        let mut held = 0;
        for replica in 1..=self.replicas {
            let (name, link) = (self.name(replica), self.link_of(replica));
            held += dropped(&self.nft(replica, "list table ip bramah").unwrap_or_else(|why| panic!("{why}")));
            for chain in ["input", "output"] {
                self.nft(replica, &format!("flush chain ip bramah {chain}"))
                    .unwrap_or_else(|why| panic!("{why}"));
            }
            held += unshape(&["-n", &name], "eth0") + unshape(&[], &link);
        }
        held
    }

    fn name(&self, replica: Host) -> String {
        format!("{}{replica}", self.prefix)
    }

    fn link_of(&self, replica: Host) -> String {
        format!("{}{replica}", self.link)
    }

    fn nft(&self, replica: Host, order: &str) -> Result<String, String> {
        let namespace = format!("--net=/run/netns/{}", self.name(replica));
        tool("nsenter", &[&namespace, "--", "nft", order])
    }
}

impl Drop for Namespaces {
    fn drop(&mut self) {
        // Some may not be there yet, if not all could be made.
        for replica in 1..=self.replicas {
            let _ = tool("ip", &["link", "delete", &self.link_of(replica)]);
            let _ = tool("ip", &["netns", "delete", &self.name(replica)]);
        }
        let _ = tool("ip", &["link", "delete", &self.link]);
    }
}

/// The number of a network in which this machine has no address.
fn free_subnet(pid: u32) -> Result<u32, String> {
    let taken = tool("ip", &["-oneline", "-4", "address", "show"])?;
    let first = |subnet: u32| {
        let [_, high, middle, low] = ((subnet << 4) + 1).to_be_bytes();
        format!(" {}.{}.{middle}.{low}/", NETWORK[0], NETWORK[1] + high)
    };
    // Runs at the same time begin at different numbers.
    let mut candidates = (0..64).map(|try_| (pid.wrapping_mul(67) + try_) % SUBNETS);
    candidates.find(|subnet| !taken.contains(&first(*subnet))).ok_or("no network is free".to_owned())
}

/// Ends the shaping of a link, if it is shaped; what had to wait because of it.
fn unshape(place: &[&str], link: &str) -> u64 {
    let statistics = must("tc", &[place, &["-s", "qdisc", "show", "dev", link]].concat());
    if !statistics.contains("tbf") {
        return 0;
    }
    must("tc", &[place, &["qdisc", "delete", "dev", link, "root"]].concat());
    number_after(&statistics, "overlimits ")
}

fn dropped(table: &str) -> u64 {
    table.lines().filter(|line| line.contains("drop")).map(|line| number_after(line, "packets ")).sum()
}

fn number_after(text: &str, mark: &str) -> u64 {
    let rest = text.split(mark).nth(1).unwrap_or_default();
    let digits: String = rest.chars().take_while(char::is_ascii_digit).collect();
    digits.parse().unwrap_or(0)
}

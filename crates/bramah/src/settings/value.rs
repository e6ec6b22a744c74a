//! Reading one value of each kind, with an error that shows a good one.

use std::time::Duration;

use super::table::Kind;

/// Addresses of one replica in `members`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemberAddresses {
    /// The replica's number.
    pub id: u64,
    /// Where the other replicas find it.
    pub peers: String,
    /// Where clients find it.
    pub clients: String,
}

/// Checks that `text` is a value of `kind`.
pub fn check(kind: Kind, text: &str) -> Result<(), String> {
    match kind {
        Kind::Text | Kind::Path if text.is_empty() => Err("it is empty".into()),
        Kind::Text | Kind::Path => Ok(()),
        Kind::Number => number(text).map(drop),
        Kind::Address => address(text).map(drop),
        Kind::Duration => duration(text).map(drop),
        Kind::Bytes => bytes(text).map(drop),
        Kind::Switch => switch(text).map(drop),
        Kind::Choice(words) if words.contains(&text) => Ok(()),
        Kind::Choice(words) => Err(format!("{text:?} is not one of {}", words.join(", "))),
        Kind::Addresses => addresses(text).map(drop),
        Kind::SocketAddresses => socket_addresses(text).map(drop),
        Kind::Members => members(text).map(drop),
    }
}

/// A whole number from 1.
pub fn number(text: &str) -> Result<u64, String> {
    match text.parse::<u64>() {
        Ok(number) if number > 0 => Ok(number),
        _ => Err(format!("{text:?} is not a whole number from 1")),
    }
}

/// `true` or `false`.
pub fn switch(text: &str) -> Result<bool, String> {
    match text {
        "true" => Ok(true),
        "false" => Ok(false),
        _ => Err(format!("{text:?} is neither true nor false")),
    }
}

/// A year. What is longer is a mistake, and times that far ahead overflow clocks.
const LONGEST_DURATION: Duration = Duration::from_secs(365 * 24 * 3600);

/// A number with a unit, as `50ms`, `1.5s` or `2m`; at most a year.
pub fn duration(text: &str) -> Result<Duration, String> {
    let wrong = || format!("{text:?} is not a duration; write a number and a unit, as 50ms, 2s or 1m");
    let (number, unit) = split_unit(text).ok_or_else(wrong)?;
    let seconds = match unit {
        "us" => 1e-6,
        "ms" => 1e-3,
        "s" => 1.0,
        "m" => 60.0,
        "h" => 3600.0,
        _ => return Err(wrong()),
    };
    let length = Duration::try_from_secs_f64(number * seconds).map_err(|_| wrong())?;
    if length > LONGEST_DURATION {
        return Err(format!("{text:?} is longer than a year; at most 8760h go"));
    }
    Ok(length)
}

/// A number of bytes: `65536`, `64KiB`, `1.5GiB`, `10MB`.
pub fn bytes(text: &str) -> Result<u64, String> {
    let wrong = || format!("{text:?} is not a number of bytes; write 65536, 64KiB or 64MiB");
    let (number, unit) = split_unit(text).ok_or_else(wrong)?;
    let factor: u64 = match unit {
        "" | "B" => 1,
        "kB" | "KB" => 1_000,
        "MB" => 1_000_000,
        "GB" => 1_000_000_000,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        _ => return Err(wrong()),
    };
    let product = number * factor as f64;
    if product.fract() != 0.0 || product >= u64::MAX as f64 {
        return Err(wrong());
    }
    Ok(product as u64)
}

fn split_unit(text: &str) -> Option<(f64, &str)> {
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let number = text[..end].parse().ok()?;
    Some((number, text[end..].trim_start()))
}

/// `HOST:PORT` as its two halves.
pub fn address(text: &str) -> Result<(&str, u16), String> {
    let wrong = || {
        format!(
            "{text:?} is not an address; write HOST:PORT, as 10.0.0.1:7501, [::1]:7501 or cell-1.example:7501"
        )
    };
    let (host, port) = text.rsplit_once(':').ok_or_else(wrong)?;
    let port = port.parse().map_err(|_| wrong())?;
    let bracketed = host.starts_with('[')
        && host.ends_with(']')
        && host[1..host.len() - 1].parse::<std::net::Ipv6Addr>().is_ok();
    let plain =
        !host.is_empty() && host.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_'));
    if bracketed || plain { Ok((host, port)) } else { Err(wrong()) }
}

/// `IP:PORT,IP:PORT,…`, at least one.
pub fn socket_addresses(text: &str) -> Result<Vec<std::net::SocketAddr>, String> {
    let items = text.split(',').map(str::trim).filter(|item| !item.is_empty());
    let wrong = |item: &str| format!("{item:?} is not an address; write IP:PORT, as 10.0.0.1:53 or [::1]:53");
    let list: Vec<_> = items.map(|item| item.parse().map_err(|_| wrong(item))).collect::<Result<_, _>>()?;
    if list.is_empty() { Err("it is empty: give at least one IP:PORT".into()) } else { Ok(list) }
}

/// Whether an address can be dialled by others: neither "any address" nor port 0.
pub fn is_dialable(text: &str) -> bool {
    match address(text) {
        Ok((host, port)) => port != 0 && host != "0.0.0.0" && host != "[::]",
        Err(_) => false,
    }
}

/// `HOST:PORT,HOST:PORT,…`, at least one that can be dialled.
pub fn addresses(text: &str) -> Result<Vec<String>, String> {
    let list: Vec<&str> = text.split(',').map(str::trim).filter(|item| !item.is_empty()).collect();
    if list.is_empty() {
        return Err("it is empty: give the address of at least one replica".into());
    }
    for item in &list {
        address(item)?;
        if !is_dialable(item) {
            return Err(format!("{item} cannot be dialled; give the address that the replica is reached by"));
        }
    }
    Ok(list.into_iter().map(str::to_owned).collect())
}

/// `1=HOST:PORT/HOST:PORT,2=…`: number, peers' address, clients' address.
pub fn members(text: &str) -> Result<Vec<MemberAddresses>, String> {
    let members: Vec<MemberAddresses> = text
        .split(',')
        .map(str::trim)
        .filter(|item| !item.is_empty())
        .map(member)
        .collect::<Result<_, _>>()?;
    if members.is_empty() {
        Err("it is empty: list every replica, this one among them".into())
    } else {
        Ok(members)
    }
}

/// `1=HOST:PORT/HOST:PORT`: number, peers' address, clients' address.
pub fn member(text: &str) -> Result<MemberAddresses, String> {
    let wrong = || {
        format!(
            "{text:?} is not a member; write ID=PEER_ADDRESS/CLIENT_ADDRESS, as 1=10.0.0.1:7502/10.0.0.1:7501"
        )
    };
    let (id, addresses) = text.split_once('=').ok_or_else(wrong)?;
    let (peers, clients) = addresses.split_once('/').ok_or_else(wrong)?;
    let id = number(id.trim()).map_err(|error| format!("{}: {error}", wrong()))?;
    for address_text in [peers, clients] {
        address(address_text)?;
        if !is_dialable(address_text) {
            return Err(format!(
                "member {id}: {address_text} cannot be dialled by others; give the address they reach it by"
            ));
        }
    }
    Ok(MemberAddresses { id, peers: peers.into(), clients: clients.into() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_need_a_unit() {
        assert_eq!(duration("50ms"), Ok(Duration::from_millis(50)));
        assert_eq!(duration("1.5s"), Ok(Duration::from_millis(1_500)));
        assert_eq!(duration("2m"), Ok(Duration::from_secs(120)));
        for wrong in ["50", "", "ms", "-1s", "1 year", "99999999999999999999999h"] {
            assert!(duration(wrong).is_err(), "{wrong:?} was taken");
        }
    }

    #[test]
    fn bytes_are_whole() {
        assert_eq!(bytes("65536"), Ok(65_536));
        assert_eq!(bytes("64MiB"), Ok(64 << 20));
        assert_eq!(bytes("1.5KiB"), Ok(1_536));
        for wrong in ["", "1.5", "64M", "MiB", "1e9"] {
            assert!(bytes(wrong).is_err(), "{wrong:?} was taken");
        }
    }

    #[test]
    fn addresses_have_a_host_and_a_port() {
        assert_eq!(address("10.0.0.1:7501"), Ok(("10.0.0.1", 7501)));
        assert_eq!(address("[::1]:7501"), Ok(("[::1]", 7501)));
        for wrong in ["7501", ":7501", "host", "host:70000", "::1:7501", "http://host:1", "a/b:1"] {
            assert!(address(wrong).is_err(), "{wrong:?} was taken");
        }
        assert!(is_dialable("cell-1.example:7501"));
        assert!(!is_dialable("0.0.0.0:7501") && !is_dialable("[::]:7501") && !is_dialable("127.0.0.1:0"));
    }

    #[test]
    fn members_are_listed_in_one_line() {
        let list = members("1=a:2/a:1, 2=b:2/b:1").expect("two members");
        assert_eq!(list[1], MemberAddresses { id: 2, peers: "b:2".into(), clients: "b:1".into() });
        for wrong in ["", "a:1", "1=a:1", "0=a:2/a:1", "x=a:2/a:1", "1=0.0.0.0:2/a:1"] {
            assert!(members(wrong).is_err(), "{wrong:?} was taken");
        }
    }
}

//! What an instance of a service is: the contents of the file `/services/<service>/<instance id>`.
//!
//! One JSON object, so that `bramah get` shows it to people and `bramah set` writes it. Fields that are not known here
//! are ignored, for versions to come. What is too long, too much or makes no sense is refused, by the same rules
//! for who writes and for who reads.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// The directory of all services.
pub const ROOT: &str = "/services";
/// Most bytes of an instance, encoded.
pub const MAX_INSTANCE_BYTES: usize = 16 << 10;
/// Most bytes of a name of a service, an instance, a tag or a zone: what a label of DNS holds.
pub const MAX_NAME_BYTES: usize = 63;
/// Most bytes of a host name.
pub const MAX_ADDRESS_BYTES: usize = 253;
/// The greatest weight: what DNS has room for, and few enough that nobody's sum of weights overflows.
pub const MAX_WEIGHT: u32 = 65_535;
/// Most tags.
pub const MAX_TAGS: usize = 64;
/// Most entries of the metadata.
pub const MAX_METADATA: usize = 64;
/// Most bytes of a value of the metadata.
pub const MAX_METADATA_VALUE_BYTES: usize = 1024;
/// Most bytes of what a check asks for: a path, or the name of a gRPC service.
pub const MAX_CHECK_TARGET_BYTES: usize = 1024;
/// How often an instance may be checked, in milliseconds.
pub const CHECK_INTERVALS_MS: std::ops::RangeInclusive<u64> = 100..=3_600_000;
/// How long a check may take, in milliseconds.
pub const CHECK_TIMEOUTS_MS: std::ops::RangeInclusive<u64> = 10..=60_000;
/// How many checks in a row may be asked for before the health changes.
pub const CHECKS_IN_A_ROW: std::ops::RangeInclusive<u32> = 1..=100;

/// One place at which a service is reached.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Instance {
    /// An IP address or a host name.
    pub address: String,
    /// From 1.
    pub port: u16,
    /// Its share, in proportion to the others'. 0: it is being drained, and gets no new calls. Default: 1.
    #[serde(default = "one")]
    pub weight: u32,
    /// Where it stands.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub zone: Option<String>,
    /// To choose instances by; each is a label of DNS.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tags: Vec<String>,
    /// What else is to be known of it.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub metadata: BTreeMap<String, String>,
    /// Whether it is well. Default: passing.
    #[serde(default)]
    pub health: Health,
    /// How that is found out. Default: it is well as long as its file is there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub check: Option<Check>,
}

/// Whether an instance is well (spec R-3).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Health {
    /// It is.
    #[default]
    Passing,
    /// It serves, but says that it is not as well as it should be. It gets calls.
    Warning,
    /// It gets no calls while others are well.
    Critical,
}

/// How an instance's health is found out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Check {
    /// What is asked of it.
    #[serde(flatten)]
    pub probe: Probe,
    /// So often, in milliseconds. Default: 5,000.
    #[serde(default = "Check::default_interval_ms")]
    pub interval_ms: u64,
    /// An answer that takes longer is none, in milliseconds. Default: 1,000.
    #[serde(default = "Check::default_timeout_ms")]
    pub timeout_ms: u64,
    /// So many better ones in a row make it better. Default: 2.
    #[serde(default = "Check::default_rise")]
    pub rise: u32,
    /// So many worse ones in a row make it worse. Default: 3.
    #[serde(default = "Check::default_fall")]
    pub fall: u32,
}

/// What is asked of an instance to see whether it is well.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
pub enum Probe {
    /// That it takes a connection.
    Tcp,
    /// `GET path`: an answer 2xx passes, 429 warns, any other fails.
    Http {
        /// With a slash at its beginning.
        path: String,
    },
    /// The gRPC health protocol, `grpc.health.v1.Health/Check`: `SERVING` passes, any other answer fails.
    Grpc {
        /// The gRPC service that is asked for; empty for the server as a whole.
        #[serde(default, skip_serializing_if = "String::is_empty")]
        service: String,
    },
}

/// What is wrong with an instance, or with a name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{what}: {problem}")]
pub struct Invalid {
    /// The field or name.
    pub what: String,
    /// What is wrong with it, and what would be right.
    pub problem: String,
}

impl Invalid {
    fn new(what: impl Into<String>, problem: impl Into<String>) -> Self {
        Self { what: what.into(), problem: problem.into() }
    }
}

fn one() -> u32 {
    1
}

impl Instance {
    /// At this place, with defaults for the rest.
    pub fn new(address: impl Into<String>, port: u16) -> Self {
        Self {
            address: address.into(),
            port,
            weight: 1,
            zone: None,
            tags: Vec::new(),
            metadata: BTreeMap::new(),
            health: Health::Passing,
            check: None,
        }
    }

    /// From a file's contents.
    ///
    /// # Errors
    /// For what is no JSON object of the fields above, and as [`Instance::validate`].
    pub fn decode(contents: &[u8]) -> Result<Self, Invalid> {
        within("the file", contents.len(), MAX_INSTANCE_BYTES)?;
        let instance: Self = serde_json::from_slice(contents).map_err(|error| {
            let example = r#"{"address":"10.0.0.7","port":8080}"#;
            Invalid::new("the file", format!("{error}; it should be one JSON object such as {example}"))
        })?;
        instance.validate()?;
        Ok(instance)
    }

    /// As a file's contents.
    ///
    /// # Errors
    /// As [`Instance::validate`].
    pub fn encode(&self) -> Result<Vec<u8>, Invalid> {
        self.validate()?;
        let contents = serde_json::to_vec(self).map_err(|error| Invalid::new("it", error.to_string()))?;
        within("the instance, encoded,", contents.len(), MAX_INSTANCE_BYTES)?;
        Ok(contents)
    }

    /// Whether all fields are within their limits.
    ///
    /// # Errors
    /// Names the first field that is not.
    pub fn validate(&self) -> Result<(), Invalid> {
        valid_address(&self.address)?;
        if self.port == 0 {
            return Err(Invalid::new("port", "it is 0; give one from 1 to 65535"));
        }
        if self.weight > MAX_WEIGHT {
            return Err(Invalid::new("weight", format!("{} is more than {MAX_WEIGHT}", self.weight)));
        }
        if let Some(zone) = &self.zone {
            valid_name("zone", zone)?;
        }
        count("tags", self.tags.len(), MAX_TAGS)?;
        self.tags.iter().try_for_each(|tag| valid_name("tag", tag))?;
        count("metadata", self.metadata.len(), MAX_METADATA)?;
        self.metadata.iter().try_for_each(|(key, value)| valid_metadata(key, value))?;
        self.check.as_ref().map_or(Ok(()), Check::validate)
    }

    /// `address:port`, as it is dialled.
    #[must_use]
    pub fn authority(&self) -> String {
        match self.address.parse() {
            Ok(IpAddr::V6(address)) => format!("[{address}]:{}", self.port),
            _ => format!("{}:{}", self.address, self.port),
        }
    }
}

impl Health {
    /// Whether it gets calls.
    #[must_use]
    pub fn serves(self) -> bool {
        self != Self::Critical
    }

    /// As it stands in the file.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Passing => "passing",
            Self::Warning => "warning",
            Self::Critical => "critical",
        }
    }
}

impl std::fmt::Display for Health {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.pad(self.name())
    }
}

impl Check {
    /// Asks this, with defaults for the rest.
    pub fn new(probe: Probe) -> Self {
        Self {
            probe,
            interval_ms: Self::default_interval_ms(),
            timeout_ms: Self::default_timeout_ms(),
            rise: Self::default_rise(),
            fall: Self::default_fall(),
        }
    }

    fn default_interval_ms() -> u64 {
        5_000
    }

    fn default_timeout_ms() -> u64 {
        1_000
    }

    fn default_rise() -> u32 {
        2
    }

    fn default_fall() -> u32 {
        3
    }

    /// How often it is made.
    #[must_use]
    pub fn interval(&self) -> Duration {
        Duration::from_millis(self.interval_ms)
    }

    /// How long it may take.
    #[must_use]
    pub fn timeout(&self) -> Duration {
        Duration::from_millis(self.timeout_ms)
    }

    /// Whether all fields are within their limits.
    ///
    /// # Errors
    /// Names the first field that is not.
    pub fn validate(&self) -> Result<(), Invalid> {
        between("check.interval_ms", self.interval_ms, CHECK_INTERVALS_MS)?;
        between("check.timeout_ms", self.timeout_ms, CHECK_TIMEOUTS_MS)?;
        between("check.rise", self.rise, CHECKS_IN_A_ROW)?;
        between("check.fall", self.fall, CHECKS_IN_A_ROW)?;
        match &self.probe {
            Probe::Tcp => Ok(()),
            Probe::Http { path } => valid_check_path(path),
            Probe::Grpc { service } => valid_grpc_service(service),
        }
    }
}

/// A service's directory.
///
/// # Errors
/// For what is no name of a service.
pub fn service_path(service: &str) -> Result<String, Invalid> {
    valid_name("service", service)?;
    Ok(format!("{ROOT}/{service}"))
}

/// An instance's file.
///
/// # Errors
/// For what is no name of a service or of an instance.
pub fn instance_path(service: &str, id: &str) -> Result<String, Invalid> {
    valid_name("instance", id)?;
    Ok(format!("{}/{id}", service_path(service)?))
}

/// The service and the instance whose file this is; none: it is another node.
#[must_use]
pub fn of_path(path: &str) -> Option<(&str, &str)> {
    let (service, id) = path.strip_prefix(ROOT)?.strip_prefix('/')?.split_once('/')?;
    (is_name(service) && is_name(id)).then_some((service, id))
}

/// Whether it can be the name of a service, an instance, a tag or a zone: a label of DNS in lower case.
#[must_use]
pub fn is_name(name: &str) -> bool {
    let inside = |byte: &u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || *byte == b'-';
    (1..=MAX_NAME_BYTES).contains(&name.len())
        && name.as_bytes().iter().all(inside)
        && !name.starts_with('-')
        && !name.ends_with('-')
}

/// As [`is_name`], with an error that says what is wrong.
///
/// # Errors
/// For what is no name.
pub fn valid_name(what: &str, name: &str) -> Result<(), Invalid> {
    if is_name(name) {
        return Ok(());
    }
    let problem = format!(
        "{:?} is no name; use 1 to {MAX_NAME_BYTES} of a to z, 0 to 9 and '-', with no '-' at either end",
        shown(name)
    );
    Err(Invalid::new(what, problem))
}

fn valid_address(address: &str) -> Result<(), Invalid> {
    within("address", address.len(), MAX_ADDRESS_BYTES)?;
    if address.parse::<IpAddr>().is_ok() {
        return Ok(());
    }
    // What looks like numbers alone is no host name but an IP address gone wrong.
    let numbers = address.rsplit('.').next().is_some_and(|last| last.bytes().all(|b| b.is_ascii_digit()));
    if address.split('.').all(is_name) && !numbers {
        return Ok(());
    }
    let problem = format!("{:?} is neither an IP address nor a host name in lower case", shown(address));
    Err(Invalid::new("address", problem))
}

fn valid_metadata(key: &str, value: &str) -> Result<(), Invalid> {
    let printable = |byte: u8| (b' '..=b'~').contains(&byte) && byte != b'=';
    if !(1..=MAX_NAME_BYTES).contains(&key.len()) || !key.bytes().all(printable) {
        let problem =
            format!("the key {:?} is not 1 to {MAX_NAME_BYTES} characters of ASCII without '='", shown(key));
        return Err(Invalid::new("metadata", problem));
    }
    if value.chars().any(char::is_control) {
        return Err(Invalid::new(format!("metadata {key:?}"), "it holds a control character; leave it out"));
    }
    within(&format!("metadata {key:?}"), value.len(), MAX_METADATA_VALUE_BYTES)
}

fn valid_check_path(path: &str) -> Result<(), Invalid> {
    within("check.path", path.len(), MAX_CHECK_TARGET_BYTES)?;
    if path.starts_with('/') && path.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'#') {
        return Ok(());
    }
    let problem =
        format!("{:?} is no path of HTTP; begin it with '/', and escape what is not ASCII", shown(path));
    Err(Invalid::new("check.path", problem))
}

fn valid_grpc_service(service: &str) -> Result<(), Invalid> {
    within("check.service", service.len(), MAX_CHECK_TARGET_BYTES)?;
    if service.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Ok(());
    }
    let problem = format!("{:?} is no name of a gRPC service such as shop.v1.Carts", shown(service));
    Err(Invalid::new("check.service", problem))
}

fn within(what: &str, bytes: usize, most: usize) -> Result<(), Invalid> {
    if bytes <= most {
        return Ok(());
    }
    Err(Invalid::new(what, format!("it has {bytes} bytes; at most {most} are allowed")))
}

fn count(what: &str, count: usize, most: usize) -> Result<(), Invalid> {
    if count <= most {
        return Ok(());
    }
    Err(Invalid::new(what, format!("there are {count}; at most {most} are allowed")))
}

fn between<N: PartialOrd + std::fmt::Display>(
    what: &str,
    number: N,
    range: std::ops::RangeInclusive<N>,
) -> Result<(), Invalid> {
    if range.contains(&number) {
        return Ok(());
    }
    Err(Invalid::new(what, format!("{number} is not from {} to {}", range.start(), range.end())))
}

/// What an error shows of it.
fn shown(text: &str) -> String {
    text.chars().take(MAX_NAME_BYTES + 1).collect()
}

#[cfg(test)]
mod tests;

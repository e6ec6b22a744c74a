//! How a client is made.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bramah_wire::limits::{DEFAULT_DEADLINE, MAX_CLIENT_NAME_BYTES, MAX_DEADLINE};
use bramah_wire::transport::{Tcp, Transport};

use crate::client::Client;
use crate::error::Error;
use crate::session::Settings;
use crate::token::Token;

/// Longest lease that may be asked for.
const MAX_LEASE: Duration = Duration::from_secs(600);

/// Chubby's grace period, §2.8.
const GRACE: Duration = Duration::from_secs(45);

/// Which replica a client's session is at.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Route {
    /// With the leader as soon as it is known: calls take the fewest hops.
    #[default]
    Leader,
    /// With the first replica that answers, starting at a random address, until its connection breaks: load spreads.
    Any,
    /// As [`Route::Any`], starting at the address with this index (counted around).
    Fixed(usize),
}

/// Addresses of a cell's replicas, each a `host:port`.
pub trait IntoAddresses {
    /// The addresses in the order they are to be tried.
    fn into_addresses(self) -> Vec<String>;
}

/// One address, or several with commas between.
impl IntoAddresses for &str {
    fn into_addresses(self) -> Vec<String> {
        self.split(',')
            .map(|address| address.trim().to_owned())
            .filter(|address| !address.is_empty())
            .collect()
    }
}

/// One address, or several with commas between.
impl IntoAddresses for String {
    fn into_addresses(self) -> Vec<String> {
        self.as_str().into_addresses()
    }
}

/// One address, or several with commas between.
impl IntoAddresses for &String {
    fn into_addresses(self) -> Vec<String> {
        self.as_str().into_addresses()
    }
}

impl<T: AsRef<str>> IntoAddresses for Vec<T> {
    fn into_addresses(self) -> Vec<String> {
        self.iter().flat_map(|address| address.as_ref().into_addresses()).collect()
    }
}

impl<T: AsRef<str>> IntoAddresses for &[T] {
    fn into_addresses(self) -> Vec<String> {
        self.iter().flat_map(|address| address.as_ref().into_addresses()).collect()
    }
}

impl<T: AsRef<str>, const N: usize> IntoAddresses for [T; N] {
    fn into_addresses(self) -> Vec<String> {
        self.as_slice().into_addresses()
    }
}

/// Settings of a [`Client`] to be; made by [`Client::builder`].
#[derive(Clone)]
#[must_use]
pub struct ClientBuilder {
    addresses: Vec<String>,
    name: String,
    lease: Duration,
    grace: Duration,
    pub(crate) deadline: Duration,
    route: Route,
    pub(crate) token: Token,
    pub(crate) transport: Arc<dyn Transport>,
    seed: Option<u64>,
}

impl Default for ClientBuilder {
    fn default() -> Self {
        Self {
            addresses: Vec::new(),
            name: String::new(),
            lease: Duration::ZERO,
            grace: GRACE,
            deadline: DEFAULT_DEADLINE,
            route: Route::default(),
            token: Token::default(),
            transport: Arc::new(Tcp),
            seed: None,
        }
    }
}

impl ClientBuilder {
    /// Where the cell's replicas are. One is enough: it names the others.
    pub fn addresses(mut self, addresses: impl IntoAddresses) -> Self {
        self.addresses = addresses.into_addresses();
        self
    }

    /// What people see of this client; at most 256 bytes.
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.name = name.into();
        self
    }

    /// How long the session outlives its last sign of life. Default: what the cell gives, 12 s.
    pub fn lease(mut self, lease: Duration) -> Self {
        self.lease = lease;
        self
    }

    /// How long the client holds on to a session whose lease ran out, in the hope that the cell still knows it: so it
    /// outlives a change of the leader (spec S-4; Chubby §2.8). Default: 45 s; at most 10 min.
    pub fn grace(mut self, grace: Duration) -> Self {
        self.grace = grace;
        self
    }

    /// The signed token that says who this client is; at most 1,024 bytes. Default: nobody in particular.
    pub fn token(mut self, token: impl Into<String>) -> Self {
        self.token = Token::Given(token.into().into());
        self
    }

    /// As [`ClientBuilder::token`], from a file that is read for each connection, so that it can be renewed.
    pub fn token_file(mut self, path: impl Into<PathBuf>) -> Self {
        self.token = Token::File(Arc::new(path.into()));
        self
    }

    /// How long a call may take, and [`ClientBuilder::connect`]. Default: 10 s; at most 60 s.
    pub fn deadline(mut self, deadline: Duration) -> Self {
        self.deadline = deadline;
        self
    }

    /// Which replica the session is at. Default: the leader.
    pub fn route(mut self, route: Route) -> Self {
        self.route = route;
        self
    }

    /// How connections are made. Default: TCP.
    pub fn transport(mut self, transport: Arc<dyn Transport>) -> Self {
        self.transport = transport;
        self
    }

    /// Makes all that is random repeatable: for simulations only, because two clients with one seed
    /// would share a session.
    pub fn seed(mut self, seed: u64) -> Self {
        self.seed = Some(seed);
        self
    }

    /// Opens a session. Must be called within a tokio runtime, which also runs the client's task.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] for a wrong setting; [`Error::Unavailable`] when no replica opened a session
    /// within the deadline, with what came of each address.
    pub async fn connect(self) -> Result<Client, Error> {
        self.check()?;
        self.token.sign(()).await.map_err(|message| Error::InvalidArgument { message })?;
        let settings = Settings {
            addresses: self.addresses,
            route: self.route,
            name: self.name,
            lease_ms: u32::try_from(self.lease.as_millis()).unwrap_or(u32::MAX),
            grace: self.grace,
            token: self.token,
            transport: self.transport,
            seed: self.seed,
        };
        Client::start(settings, self.deadline).await
    }

    fn check(&self) -> Result<(), Error> {
        if self.addresses.is_empty() {
            return invalid("no address of a replica was given: give at least one host:port".into());
        }
        for address in &self.addresses {
            check_address(address)?;
        }
        if self.name.len() > MAX_CLIENT_NAME_BYTES {
            let length = self.name.len();
            return invalid(format!(
                "the client's name has {length} bytes, at most {MAX_CLIENT_NAME_BYTES} go"
            ));
        }
        if self.lease > MAX_LEASE {
            return invalid(format!("a lease of {:?} is too long: at most {MAX_LEASE:?} go", self.lease));
        }
        if self.grace > MAX_LEASE {
            return invalid(format!(
                "a grace period of {:?} is too long: at most {MAX_LEASE:?} go",
                self.grace
            ));
        }
        check_deadline(self.deadline)
    }
}

pub(crate) fn check_deadline(deadline: Duration) -> Result<(), Error> {
    if deadline.is_zero() || deadline > MAX_DEADLINE {
        return invalid(format!(
            "a deadline of {deadline:?} can't be: more than 0, at most {MAX_DEADLINE:?}"
        ));
    }
    Ok(())
}

pub(crate) fn check_address(address: &str) -> Result<(), Error> {
    let port = address.rsplit_once(':').filter(|(host, _)| !host.is_empty()).map(|(_, port)| port);
    if port.is_none_or(|port| port.parse::<u16>().is_err()) {
        return invalid(format!("{address:?} is no address of a replica: give host:port, as 127.0.0.1:7501"));
    }
    Ok(())
}

fn invalid<T>(message: String) -> Result<T, Error> {
    Err(Error::InvalidArgument { message })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_come_in_many_shapes() {
        let expected = ["a:1".to_owned(), "b:2".to_owned()];
        assert_eq!("a:1, b:2,".into_addresses(), expected);
        assert_eq!(["a:1", "b:2"].into_addresses(), expected);
        assert_eq!(vec!["a:1".to_owned(), "b:2".to_owned()].into_addresses(), expected);
    }

    #[tokio::test]
    async fn wrong_settings_are_refused_with_their_names() {
        let good = || Client::builder().addresses("127.0.0.1:1");
        let wrong = [
            (Client::builder(), "no address"),
            (Client::builder().addresses("localhost"), "\"localhost\" is no address"),
            (Client::builder().addresses("host:99999"), "host:99999"),
            (good().name("n".repeat(257)), "257 bytes"),
            (good().deadline(Duration::from_secs(61)), "61s"),
            (good().deadline(Duration::ZERO), "0ns"),
            (good().lease(Duration::from_secs(601)), "601s"),
        ];
        for (builder, text) in wrong {
            let error = builder.connect().await.expect_err("refused");
            assert!(
                matches!(&error, Error::InvalidArgument { message } if message.contains(text)),
                "{error}"
            );
        }
    }
}

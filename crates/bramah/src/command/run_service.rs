//! `bramah run`: a command as an instance of a service.

use std::net::{IpAddr, UdpSocket};
use std::time::Duration;

use bramah_client::discovery::{Check, Health, Instance, Registration, RegistrationState, is_name, probe};
use bramah_client::{Client, Error};
use parking_lot::Mutex;

use super::child;
use super::connect::{client_with_lease, host_name};
use super::lock::after;
use crate::cli::{RunServiceArgs, Shared};
use crate::output::Failure;

/// How often a command that has just been started is checked until that passes for the first time.
const FIRST_CHECKS: Duration = Duration::from_millis(100);
/// Before the command is told to end it is taken out of the registry, if that takes no longer.
const DEREGISTERING: Duration = Duration::from_secs(2);

/// Does it.
pub async fn run(shared: &Shared, args: RunServiceArgs) -> Result<(), Failure> {
    let address = args.address.clone().map_or_else(|| own_address(shared), Ok)?;
    let instance = args.instance.at(address);
    instance.validate().map_err(|invalid| Failure::usage(invalid.to_string()))?;
    let id = args.id.clone().map_or_else(|| default_id(args.instance.port), Ok)?;
    let client = client_with_lease(shared, "bramah run", args.lease).await?;
    let service = Service {
        client: client.clone(),
        name: &args.service,
        id: &id,
        instance,
        registered: Mutex::default(),
    };
    let ended = service.run(&args).await;
    service.deregister().await;
    client.close().await;
    after(ended?, &format!("the registration {}/{id}", args.service))
}

/// The address that this host has in the direction of the cell. Nothing is sent.
fn own_address(shared: &Shared) -> Result<String, Failure> {
    let towards = |cell: &String| {
        let socket = UdpSocket::bind("[::]:0").or_else(|_| UdpSocket::bind("0.0.0.0:0")).ok()?;
        socket.connect(&**cell).ok()?;
        Some(socket.local_addr().ok()?.ip())
    };
    let found = shared.addresses.iter().find_map(towards);
    let unknown = || Failure::usage("the address of this host is not clear; give it with --address");
    Ok(found
        .map(|address| address.to_canonical())
        .filter(|address| !is_nowhere(*address))
        .ok_or_else(unknown)?
        .to_string())
}

fn is_nowhere(address: IpAddr) -> bool {
    address.is_unspecified()
}

/// The same after a restart, so that the instance takes its own place again.
fn default_id(port: u16) -> Result<String, Failure> {
    let host: String = host_name()
        .to_ascii_lowercase()
        .chars()
        .take(50)
        .map(|one| if one.is_ascii_alphanumeric() { one } else { '-' })
        .collect();
    let id = format!("{}-{port}", host.trim_matches('-'));
    is_name(&id)
        .then_some(id)
        .ok_or_else(|| Failure::usage("this host's name makes no name of an instance; give one with --id"))
}

struct Service<'a> {
    client: Client,
    name: &'a str,
    id: &'a str,
    instance: Instance,
    registered: Mutex<Option<Registration>>,
}

impl Service<'_> {
    async fn run(&self, args: &RunServiceArgs) -> Result<child::Ended, Failure> {
        let environment = [("BRAMAH_SERVICE", self.name.to_owned()), ("BRAMAH_INSTANCE", self.id.to_owned())];
        // First no more calls come here, then the command ends.
        let first = async {
            let _ = tokio::time::timeout(DEREGISTERING, self.deregister()).await;
        };
        child::run_with(&args.run.command_line, &environment, args.run.grace, self.stay(), first).await
    }

    /// Registers when the first check passes, and stays registered. Ends only if the cell does not take it.
    async fn stay(&self) -> String {
        if let Some(check) = &self.instance.check {
            self.until_well(check).await;
        }
        let registration = match self.register().await {
            Ok(registration) => registration,
            Err(error) => return error.to_string(),
        };
        self.say(&format!("registered at {}", self.instance.authority()));
        if let Some(check) = &self.instance.check {
            registration.run_checks(check.clone());
        }
        let mut states = registration.states();
        *self.registered.lock() = Some(registration);
        loop {
            if states.changed().await.is_err() {
                return std::future::pending().await;
            }
            let state = states.borrow_and_update().clone();
            match state {
                RegistrationState::Registered { session } => {
                    self.say(&format!("registered in session {session}"))
                }
                RegistrationState::Away { error } => {
                    self.say(&format!("may not be registered now; it is tried again: {error}"))
                }
                RegistrationState::Removed => {
                    self.say("was deregistered by somebody else; the command runs on without")
                }
                RegistrationState::Replaced => {
                    self.say("another process registered by this id; the command runs on without")
                }
                RegistrationState::Refused { error } => return error.to_string(),
                _ => {}
            }
        }
    }

    async fn until_well(&self, check: &Check) {
        let pause = check.interval().min(FIRST_CHECKS);
        while probe(&self.instance, check).await.health == Health::Critical {
            tokio::time::sleep(pause).await;
        }
    }

    /// Until the cell takes it or says that it won't.
    async fn register(&self) -> Result<Registration, Error> {
        loop {
            match self.client.registry().register(self.name, self.id, self.instance.clone()).await {
                Err(error) if error.is_retryable() => {
                    self.say(&format!("not registered yet; it is tried again: {error}"));
                    tokio::time::sleep(FIRST_CHECKS).await;
                }
                done => return done,
            }
        }
    }

    async fn deregister(&self) {
        let registration = self.registered.lock().take();
        if let Some(registration) = registration {
            registration.deregister().await;
            self.say("deregistered");
        }
    }

    /// To standard error: standard output is the command's.
    fn say(&self, what: &str) {
        eprintln!("bramah run: {}/{} {what}", self.name, self.id);
    }
}

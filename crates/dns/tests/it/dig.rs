//! `dig`, as operators use it.

use std::io::Write;
use std::process::{Command, Stdio};

use crate::registry::{example, settings, started};

/// What `dig` prints. `None`, and a line that says so, if this machine has none.
fn dig(port: u16, arguments: &[&str]) -> Option<String> {
    let mut command = Command::new("dig");
    command.args([
        "@127.0.0.1",
        "-p",
        &port.to_string(),
        "+time=5",
        "+tries=2",
        "+noall",
        "+answer",
        "+comments",
    ]);
    match command.args(arguments).stdin(Stdio::null()).output() {
        Ok(output) => {
            let printed = String::from_utf8(output.stdout).unwrap();
            assert!(output.status.success(), "{printed}");
            Some(printed)
        }
        Err(error) => {
            let why = format!("dig can't be run: {error}; Debian has it in bind9-dnsutils");
            // `cargo xtask test` counts such lines; the other is for people, past the test harness.
            println!("LEFT OUT: {why}");
            let _ = writeln!(std::io::stderr(), "dig: left out, {why}");
            None
        }
    }
}

/// Spec F-3: over UDP with EDNS and cookies as dig sends them, without, over TCP, and when it doesn't fit.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dig_gets_its_answers() {
    let (server, _registry) = started(settings(), example()).await;
    let port = server.addresses()[0].port();
    let cases: &[(&[&str], &[&str])] = &[
        (
            &["web.service.berlin.example"],
            &["status: NOERROR", "flags: qr aa rd;", "ANSWER: 2", "10.0.0.1", "10.0.0.2"],
        ),
        (
            &["WEB.Service.berlin.EXAMPLE", "AAAA", "+noedns"],
            &["fd00::1", "ANSWER: 1", "WEB.Service.berlin.EXAMPLE."],
        ),
        (
            &["_web._tcp.service.berlin.example", "SRV"],
            &["ANSWER: 2", "ADDITIONAL: 4", "0 1 8001 one.instance.web"],
        ),
        (&["one.instance.web.service.berlin.example", "TXT"], &["\"zone=a\""]),
        (&["many.service.berlin.example"], &["ANSWER: 300"]),
        (&["many.service.berlin.example", "+ignore", "+bufsize=700"], &["flags: qr aa tc rd;"]),
        (&["many.service.berlin.example", "+tcp"], &["ANSWER: 300"]),
        (&["berlin.example", "SOA"], &["ns.berlin.example. hostmaster.berlin.example. 7 3600 600 86400 5"]),
        (&["berlin.example", "NS"], &["ANSWER: 1", "ADDITIONAL: 3", "ns.berlin.example."]),
        (&["gone.service.berlin.example"], &["status: NXDOMAIN", "AUTHORITY: 1"]),
        (&["empty.service.berlin.example"], &["status: NOERROR", "ANSWER: 0, AUTHORITY: 1"]),
        (&["example.org"], &["status: REFUSED"]),
        (&["berlin.example", "IXFR=1"], &["status: REFUSED"]),
        (&["version.bind", "CH", "TXT"], &["status: REFUSED"]),
        (&["web.service.berlin.example", "+edns=1", "+noednsnegotiation"], &["status: BADVERS"]),
        (&["web.service.berlin.example", "+opcode=notify"], &["status: NOTIMP"]),
    ];
    for (arguments, parts) in cases {
        let Some(printed) = dig(port, arguments) else { break };
        for part in *parts {
            assert!(printed.contains(part), "dig {arguments:?} lacks `{part}`:\n{printed}");
        }
        assert!(!printed.contains("WARNING: Message"), "dig {arguments:?}:\n{printed}");
    }
    server.stop().await;
}

//! nginx, the peer, and the instances behind both proxies: where it comes from, and how it is told what to do.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};

use super::super::debian;
use super::loads::Load;
use super::{PROXY_CORE, free_address, pinned, wait_until_listening};
use crate::processes::{Output, Process};

/// Where Debian's package puts it, which is on no user's path.
const PROGRAM: &str = "/usr/sbin/nginx";
/// The peer, and what makes the loads.
const PACKAGES: [(&str, &str); 4] = [
    ("nginx-light", PROGRAM),
    ("wrk", "/usr/bin/wrk"),
    ("nghttp2-client", "/usr/bin/h2load"),
    ("nghttp2-server", "/usr/bin/nghttpd"),
];

/// Installs what is missing of Debian's packages. Gives back nginx's version.
pub(super) fn install() -> Result<String> {
    debian::install(&PACKAGES)?;
    let output = Command::new(PROGRAM).arg("-v").output().context("cannot start nginx")?;
    let text = String::from_utf8_lossy(&output.stderr);
    Ok(text.trim().rsplit('/').next().unwrap_or_default().to_owned())
}

/// Two instances each: nginx's answer some bytes by HTTP/1.1, and nghttp2's give back what they get by HTTP/2. (nginx itself answers
/// before it has read a body, and refuses the rest of it, which its own proxy takes for a failure.)
pub(super) struct Instances {
    http1: Vec<String>,
    http2: Vec<String>,
    _processes: Vec<Process>,
}

impl Instances {
    pub(super) fn of(&self, load: &Load) -> &[String] {
        if load.grpc { &self.http2 } else { &self.http1 }
    }
}

pub(super) fn instances(folder: &Path, cores: &str) -> Result<Instances> {
    let addresses = || Ok::<_, anyhow::Error>(vec![free_address()?, free_address()?]);
    let (http1, http2) = (addresses()?, addresses()?);
    let mut servers = String::new();
    for listen in &http1 {
        servers += &format!(
            "server {{ listen {listen} backlog=4096; location / {{ return 200 \"0123456789\"; }} }}\n"
        );
    }
    let file = write(folder, "instances", "1", &servers)?;
    let mut command = pinned(cores, PROGRAM);
    command.arg("-c").arg(&file).arg("-p").arg(folder);
    let mut processes = vec![Process::start(command, &folder.join("nginx-instances.log"), Output::Log)?];
    for address in &http1 {
        wait_until_listening(&processes[0], address)?;
    }
    for address in &http2 {
        let (host, port) = address.rsplit_once(':').context("an address without a port")?;
        let mut command = pinned(cores, "nghttpd");
        command.args(["--no-tls", "--echo-upload", "--address", host, "--htdocs"]).arg(folder).arg(port);
        let process = Process::start(command, &folder.join("nghttpd.log"), Output::Log)?;
        wait_until_listening(&process, address)?;
        processes.push(process);
    }
    Ok(Instances { http1, http2, _processes: processes })
}

/// As its documentation says to proxy with connections that are kept.
pub(super) fn proxy(folder: &Path, instances: &Instances, load: &Load, address: &str) -> Result<Command> {
    let servers: String = instances.of(load).iter().map(|instance| format!("server {instance};\n")).collect();
    let (listen, pass) = if load.grpc {
        (format!("{address} http2"), "grpc_pass grpc://service;".to_owned())
    } else {
        let pass = "proxy_pass http://service; proxy_http_version 1.1; proxy_set_header Connection \"\";";
        (address.to_owned(), pass.to_owned())
    };
    let forwarded = if load.grpc { "grpc_set_header" } else { "proxy_set_header" };
    let text = format!(
        "upstream service {{ {servers} keepalive 256; keepalive_requests 1000000000; }}\n\
         server {{ listen {listen} backlog=4096; location / {{ {pass}\n\
         {forwarded} X-Forwarded-For $proxy_add_x_forwarded_for;\n\
         {forwarded} X-Forwarded-Proto $scheme;\n\
         {forwarded} X-Forwarded-Host $http_host; }} }}\n"
    );
    let file = write(folder, "proxy", "1", &text)?;
    let mut command = pinned(PROXY_CORE, PROGRAM);
    command.arg("-c").arg(&file).arg("-p").arg(folder);
    Ok(command)
}

fn write(folder: &Path, name: &str, workers: &str, servers: &str) -> Result<std::path::PathBuf> {
    let file = folder.join(format!("{name}.conf"));
    let temporary: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .iter()
        .map(|what| format!("{what}_temp_path {}/{name}-{what};\n", folder.display()))
        .collect();
    let text = format!(
        "daemon off; worker_processes {workers}; pid {folder}/{name}.pid; error_log stderr error;\n\
         worker_rlimit_nofile 20000; events {{ worker_connections 15000; }}\n\
         http {{ access_log off; keepalive_requests 1000000000; keepalive_timeout 75s; tcp_nodelay on;\n\
         {temporary}{servers}}}\n",
        folder = folder.display()
    );
    fs::write(&file, text).with_context(|| format!("cannot write {}", file.display()))?;
    Ok(file)
}

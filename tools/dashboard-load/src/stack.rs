//! `giemsa up` as a process of its own, so that clients and server do not share threads.
//!
//! The process ends with its [`Stack`].

use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::Context;
use giemsa_local::credentials;
use giemsa_store::aws::Clients;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};

/// A running stack.
pub struct Stack {
    /// Clients of its servers.
    pub clients: Clients,
    /// Host and port of the dashboard.
    pub dashboard: String,
    _child: Child,
}

/// Starts the program on free ports with its data in `folder`, and reads where it listens.
pub async fn start(program: Option<&Path>, folder: &Path) -> anyhow::Result<Stack> {
    let program = program.map_or_else(beside_this_program, |path| Ok(path.to_owned()))?;
    let mut command = Command::new(&program);
    command.arg("up").arg("--data-dir").arg(folder.join("data"));
    command.args(["--s3-port", "0", "--dynamodb-port", "0", "--sqs-port", "0", "--http-port", "0"]);
    command.env("RUST_LOG", "error").stdout(Stdio::piped()).kill_on_drop(true);
    let mut child = command.spawn().with_context(|| format!("{program:?} does not start: build it first"))?;
    let mut lines = BufReader::new(child.stdout.take().expect("it is piped")).lines();
    let (mut s3, mut dynamodb, mut dashboard) = (None, None, None);
    while let Some(line) = lines.next_line().await? {
        for word in line.split_whitespace() {
            if let Some(url) = word.strip_prefix("AWS_ENDPOINT_URL_S3=") {
                s3 = Some(url.to_owned());
            } else if let Some(url) = word.strip_prefix("AWS_ENDPOINT_URL_DYNAMODB=") {
                dynamodb = Some(url.to_owned());
            } else if line.trim().starts_with("Dashboard") && word.starts_with("http://") {
                dashboard = word.strip_prefix("http://").map(str::to_owned);
            }
        }
        if line.contains("Ctrl-C stops it.") {
            break;
        }
    }
    let clients = Clients::at(
        &s3.context("giemsa up printed no endpoint of S3")?,
        &dynamodb.context("giemsa up printed no endpoint of DynamoDB")?,
        credentials(),
    );
    Ok(Stack { clients, dashboard: dashboard.context("giemsa up printed no dashboard")?, _child: child })
}

fn beside_this_program() -> anyhow::Result<PathBuf> {
    Ok(std::env::current_exe()?.with_file_name("giemsa"))
}

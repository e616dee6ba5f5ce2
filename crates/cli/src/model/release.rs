//! `giemsa model promote` and `rollback`. `giemsa_ops::release` decides; a release is printed only after it happened.

use giemsa_config::user_name;
use giemsa_ops::release::{Author, ReleaseError, Released};

use super::super::Failed;
use super::{DEV, Deployment, PROD, parse_stage, print, short, shown_model, shown_time};

#[derive(Debug, clap::Args)]
struct AuthorArguments {
    /// Why; stays in the history.
    #[arg(long)]
    reason: Option<String>,
    /// Release it without a passing report of the golden set; needs a reason, and is recorded.
    #[arg(long)]
    force: bool,
    /// Who releases; default: `GIEMSA_USER`, or the name of the system's user.
    #[arg(long)]
    who: Option<String>,
}

#[derive(Debug, clap::Args)]
pub struct PromoteArguments {
    /// Stage to take the model from.
    #[arg(long, default_value = DEV, value_parser = parse_stage)]
    from: String,
    /// Stage to put it into.
    #[arg(long, default_value = PROD, value_parser = parse_stage)]
    to: String,
    #[command(flatten)]
    author: AuthorArguments,
}

#[derive(Debug, clap::Args)]
pub struct RollbackArguments {
    /// The first digits of the archived model's sha256; default: the model before the present one.
    digest: Option<String>,
    /// Stage to put it into.
    #[arg(long, default_value = PROD, value_parser = parse_stage)]
    stage: String,
    #[command(flatten)]
    author: AuthorArguments,
}

/// Promotes.
pub async fn promote(arguments: &PromoteArguments, json: bool) -> Result<(), Failed> {
    if arguments.from == arguments.to {
        let error = anyhow::anyhow!("--from and --to are both {:?}; expected two stages", arguments.to);
        return Err(Failed::Usage(error));
    }
    let deployment = Deployment::of_environment(&arguments.to).await?;
    let author = author_of(&arguments.author);
    print_released(deployment.releaser().promote(&arguments.from, &arguments.to, &author).await, json)
}

/// Rolls back.
pub async fn rollback(arguments: &RollbackArguments, json: bool) -> Result<(), Failed> {
    let deployment = Deployment::of_environment(&arguments.stage).await?;
    let author = author_of(&arguments.author);
    print_released(
        deployment.releaser().rollback(&arguments.stage, arguments.digest.as_deref(), &author).await,
        json,
    )
}

fn author_of(arguments: &AuthorArguments) -> Author {
    let who = arguments.who.clone().or_else(user_name).unwrap_or_else(|| "unknown".to_owned());
    let why = arguments.reason.clone().filter(|reason| !reason.trim().is_empty());
    Author { who, why, force: arguments.force }
}

fn print_released(released: Result<Released, ReleaseError>, json: bool) -> Result<(), Failed> {
    let released = released.map_err(|error| match error {
        ReleaseError::NoReason => Failed::Usage(error.into()),
        other => Failed::Work(other.into()),
    })?;
    print(json, &released, |released| {
        let model = shown_model(&released.model);
        match (released.kind, released.released_at) {
            (Some(kind), Some(at)) => {
                let previous = released.previous_sha256.as_deref().map_or("nothing", short);
                let kind = format!("{kind:?}").to_lowercase();
                format!(
                    "{} serves {model} since {} ({kind}); before: {previous}",
                    released.stage,
                    shown_time(at)
                )
            }
            _ => format!("{} serves {model} already; nothing was changed", released.stage),
        }
    })
}

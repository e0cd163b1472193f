//! All three services in one process.

mod app;
mod storage;

use std::process::ExitCode;

use shared::config::{Config, environment};
use shared::http::elsewhere::PROJECTOR;
use shared::metrics::Part;
use shared::process::{self, Failure, Program};

use storage::Kind;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const PROGRAM: Program = Program {
    name: "monolith",
    version: env!("CARGO_PKG_VERSION"),
    about: "answers as key-value pairs, event-sourced, in one process",
    // Both sides' ports; each serves every route.
    ports: &[8080, 8081],
    admin: Some(PROJECTOR.port),
    counts: &[Part::Store, Part::Projection],
};
const ON_DATABASES: Program = Program { counts: &[Part::Esdb, Part::Projection], ..PROGRAM };

const HELP: &str = "\
monolith: answers as key-value pairs, event-sourced, in one process

usage: monolith [-memdb | --repair | --health | --help | --version]

  -memdb     keep everything in memory; nothing survives the process
  --repair   mend the damaged event log in DATA_DIR, say what is lost, and end
  --health   ask the one that runs with these settings whether it is alive
  --help     this text
  --version  the version

Settings come from the environment and from .env: see the README.";

/// What the command line asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Asked {
    Serve { in_memory: bool },
    Repair,
    Health,
    Help,
    Version,
}

fn asked(arguments: impl Iterator<Item = String>) -> Result<Asked, String> {
    let mut asked = Asked::Serve { in_memory: false };
    for argument in arguments {
        asked = match argument.as_str() {
            "-memdb" | "--memdb" => Asked::Serve { in_memory: true },
            "-repair" | "--repair" => Asked::Repair,
            "-health" | "--health" => Asked::Health,
            "-h" | "-help" | "--help" => Asked::Help,
            "-V" | "-version" | "--version" => Asked::Version,
            other => return Err(process::unknown(other)),
        };
    }
    Ok(asked)
}

fn run() -> Result<(), Failure> {
    let asked = asked(std::env::args().skip(1))?;
    match asked {
        Asked::Help => println!("{HELP}"),
        Asked::Version => PROGRAM.print_version(),
        Asked::Health => PROGRAM.ask_health(&Config::from_vars(environment()?)?)?,
        Asked::Repair => {
            let config = Config::from_vars(environment()?)?;
            println!("{}", shared::adapters::embedded::repair(&config.data_dir)?);
        }
        Asked::Serve { in_memory } => {
            let config = Config::from_vars(environment()?)?;
            let choice = storage::choose(&config, in_memory)?;
            let program = if matches!(choice.kind, Kind::Databases(..)) { &ON_DATABASES } else { &PROGRAM };
            program.run(config, async |process| app::serve(process, choice).await)?;
        }
    }
    Ok(())
}

fn main() -> ExitCode {
    PROGRAM.exit(run())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_are_read() {
        let read = |list: &[&str]| asked(list.iter().map(|text| (*text).to_owned()));
        assert_eq!(read(&[]), Ok(Asked::Serve { in_memory: false }));
        assert_eq!(read(&["-memdb"]), Ok(Asked::Serve { in_memory: true }));
        assert_eq!(read(&["--memdb"]), Ok(Asked::Serve { in_memory: true }));
        assert_eq!(read(&["--repair"]), Ok(Asked::Repair));
        assert_eq!(read(&["--health"]), Ok(Asked::Health));
        assert!(read(&["memdb"]).is_err());
    }
}

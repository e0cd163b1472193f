//! The test server as a program, for those who want to try services that need an
//! EventStoreDB without installing one.

use std::io::{self, Write as _};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use testkit::{EsdbServer, Options};
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::EnvFilter;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const HELP: &str = "\
esdb-testd: a server for tests that speaks EventStoreDB's gRPC protocol

usage: esdb-testd [--listen ADDRESS] [--data DIR] [--append-delay-ms N]

  --listen ADDRESS      where to listen (default 127.0.0.1:2113; port 0 takes a free one)
  --data DIR            keep the log in this folder, synced before each reply; without
                        it the log is in memory and ends with the process
  --append-delay-ms N   answer each append no sooner than that, as a slow disk would
  --help                this text
  --version             the version

It serves streams, without persistent subscriptions, projections, users and TLS, and
has no access rules: do not expose it. It says where it listens on standard output
once it does, and ends on SIGTERM and SIGINT.";

/// What the command line asks for.
#[derive(Debug)]
enum Asked {
    Serve(Options),
    Help,
    Version,
}

fn asked(mut arguments: impl Iterator<Item = String>) -> Result<Asked, String> {
    let mut options = Options { listen: SocketAddr::from(([127, 0, 0, 1], 2113)), ..Options::default() };
    while let Some(argument) = arguments.next() {
        let (name, value) = match argument.split_once('=') {
            Some((name, value)) => (name.to_owned(), Some(value.to_owned())),
            None => (argument, None),
        };
        let mut value = || value.clone().or_else(|| arguments.next()).ok_or(format!("{name} needs a value"));
        match name.as_str() {
            "--listen" => options.listen = parsed(&name, &value()?)?,
            "--data" => options.data = Some(PathBuf::from(value()?)),
            "--append-delay-ms" => options.append_delay = Duration::from_millis(parsed(&name, &value()?)?),
            "-h" | "--help" => return Ok(Asked::Help),
            "-V" | "--version" => return Ok(Asked::Version),
            other => return Err(format!("unknown argument {other:?}; --help names those that there are")),
        }
    }
    Ok(Asked::Serve(options))
}

fn parsed<T: std::str::FromStr>(name: &str, value: &str) -> Result<T, String>
where
    T::Err: std::fmt::Display,
{
    value.parse().map_err(|error| format!("{name} {value:?}: {error}"))
}

fn run(options: Options) -> io::Result<()> {
    let listen = options.listen;
    let name = |error: io::Error| io::Error::new(error.kind(), format!("cannot serve {listen}: {error}"));
    let mut server = EsdbServer::start(options).map_err(name)?;
    let address = server.address();
    tracing::info!(addresses = %address, "serving");
    writeln!(io::stdout(), "esdb-testd serves esdb://{address}?tls=false")?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let (mut end, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
        tokio::select! {
            _ = end.recv() => Ok(()),
            _ = interrupt.recv() => io::Result::Ok(()),
        }
    })?;
    server.shut_down();
    Ok(())
}

fn log() {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    let lines = tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr);
    if std::env::var("LOG_FORMAT").as_deref() == Ok("json") {
        lines.json().init();
    } else {
        lines.with_ansi(io::IsTerminal::is_terminal(&io::stderr())).init();
    }
}

fn main() -> ExitCode {
    let result = match asked(std::env::args().skip(1)) {
        Ok(Asked::Help) => {
            println!("{HELP}");
            Ok(())
        }
        Ok(Asked::Version) => {
            println!("esdb-testd {}", env!("CARGO_PKG_VERSION"));
            Ok(())
        }
        Ok(Asked::Serve(options)) => {
            log();
            run(options).map_err(|error| error.to_string())
        }
        Err(error) => Err(error),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("esdb-testd: {error}");
            ExitCode::FAILURE
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(arguments: &[&str]) -> Result<Asked, String> {
        asked(arguments.iter().map(|text| (*text).to_owned()))
    }

    #[test]
    fn arguments_are_read() {
        let asked = read(&["--listen", "127.0.0.1:0", "--data=here", "--append-delay-ms", "3"]);
        let Ok(Asked::Serve(options)) = asked else { panic!("{asked:?}") };
        assert_eq!(options.listen.port(), 0);
        assert_eq!(options.data, Some("here".into()));
        assert_eq!(options.append_delay, Duration::from_millis(3));
        assert!(matches!(read(&["--help"]), Ok(Asked::Help)));
    }

    #[test]
    fn wrong_arguments_are_named() {
        for (arguments, said) in [
            (["--listen", "here"].as_slice(), "--listen"),
            (&["--data"], "--data needs"),
            (&["--append-delay-ms", "-1"], "--append-delay-ms"),
            (&["data"], "\"data\""),
        ] {
            let error = read(arguments).unwrap_err();
            assert!(error.contains(said), "{error}");
        }
    }
}

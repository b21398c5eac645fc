//! Everything a person runs.

mod bench;
mod conformance;
mod mutants;
mod qemu;
mod test;
mod told;

use std::process::ExitCode;

use clap::error::ErrorKind;
use clap::{Parser, Subcommand};

/// Everything a person runs.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    // What they do, and their exit codes, is said where their arguments are.
    Qemu(qemu::cli::QemuArgs),
    Mutants(mutants::cli::MutantsArgs),
    Test(test::TestArgs),
    Bench(bench::BenchArgs),
    Conformance(conformance::ConformanceArgs),
    #[command(name = qemu::native::AGENT, hide = true)]
    QemuAgent,
    #[command(name = qemu::native::PROBE, hide = true)]
    QemuNativeProbe,
}

fn main() -> ExitCode {
    if qemu::init::is_init() {
        qemu::init::main();
    }
    let words: Vec<String> = std::env::args().skip(1).collect();
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            let asked = matches!(
                error.kind(),
                ErrorKind::DisplayHelp | ErrorKind::DisplayVersion
            );
            let message = error.render().to_string();
            match words.first().map(String::as_str) {
                Some("qemu") if !asked => qemu::usage_error(words, &message),
                Some("mutants") if !asked => mutants::usage_error(words, &message),
                Some("bench") if !asked => bench::usage_error(words, &message),
                Some("test") if !asked => test::usage_error(words, &message),
                Some("conformance") if !asked => conformance::usage_error(words, &message),
                _ => {}
            }
            // It prints to the right stream; a stream that is closed hears nothing.
            drop(error.print());
            return ExitCode::from(if asked { 0 } else { 2 });
        }
    };
    match cli.command {
        Command::Qemu(args) => ExitCode::from(qemu::main(&args, words)),
        Command::Mutants(args) => ExitCode::from(mutants::main(&args, words)),
        Command::Bench(args) => ExitCode::from(bench::main(&args, words)),
        Command::Test(args) => ExitCode::from(test::main(&args, words)),
        Command::Conformance(args) => ExitCode::from(conformance::main(&args, words)),
        Command::QemuAgent => plain(qemu::native::agent_main()),
        Command::QemuNativeProbe => plain(qemu::native::probe_main()),
    }
}

fn plain(result: anyhow::Result<()>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

//! Who gets a session, and when: all contenders in turn, several times.

use std::time::Duration;

use anyhow::Context as _;
use bench_sampling::placement::{Placement, two_cores};
use bench_sampling::report::{Subject, note};
use bench_sampling::run::Run;
use vring_hosted::memory::Pages;

use crate::block::BLKIO;
use crate::host::{Host, find_program};
use crate::hugepages::HugePages;
use crate::net::Devices;
use crate::{Args, block, incumbent, net};

/// Samples of a session.
const SAMPLES: u32 = 4;
/// What a session takes that has its first sample in it.
const SESSION: Duration = Duration::from_secs(3);

/// A contender of a case.
struct Entry {
    subject: Subject,
    /// Program that its device needs, and the package that has it.
    needs: (&'static str, &'static str),
    quick: bool,
    session: Box<dyn Fn(&Host, &mut Devices, &Subject) -> anyhow::Result<()>>,
}

/// Runs all of it.
///
/// # Errors
/// When nothing can be measured at all; what concerns one contender is said in a line of its own.
pub(crate) fn carry_out(args: &Args, run: &Run) -> anyhow::Result<()> {
    let entries: Vec<_> = entries()
        .into_iter()
        .filter(|entry| chosen(args, entry))
        .collect();
    let Ok((here, there)) = two_cores() else {
        for entry in &entries {
            entry.subject.skipped("this process may use one core only");
        }
        return Ok(());
    };
    let is_net = |entry: &Entry| entry.subject.group == net::GROUP;
    let net = entries.iter().any(is_net);
    let reserved = if net { reserve(args) } else { None };
    let host = Host {
        here,
        there,
        pages: if reserved.is_some() {
            Pages::Huge
        } else {
            Pages::Plain
        },
        samples: if args.bounds.quick { 1 } else { SAMPLES },
        run: run.clone(),
        placement: Placement::new(there).context("cannot use a second core")?,
    };
    if net {
        note(net::GROUP, net::pages_note(host.pages));
        note(
            net::GROUP,
            &format!(
                "{BLKIO} takes no part with its packed ring: it leaves NEXT set on a chain of one \
                 descriptor, so that the device walks on into what is behind it"
            ),
        );
    }
    let rounds = if args.bounds.quick { 1 } else { args.rounds };
    let mut state = vec![Err("the time was up before its first session".to_owned()); entries.len()];
    play(&host, &entries, rounds, &mut state);
    for (entry, state) in entries.iter().zip(&state) {
        if let Err(why) = state {
            entry.subject.skipped(why);
        }
    }
    Ok(())
}

/// All rounds, as far as there is time. The state of a contender is an error until it has had a
/// session: a device may fail once and work again.
fn play(host: &Host, entries: &[Entry], rounds: u32, state: &mut [Result<(), String>]) {
    let mut devices = Devices::default();
    for round in 1..=rounds {
        for (index, entry) in entries.iter().enumerate() {
            if !host.run.has_time_for(SESSION) {
                eprintln!("bench-native: the time is up");
                return;
            }
            let Subject {
                case, contender, ..
            } = &entry.subject;
            let number = index + 1;
            let all = entries.len();
            eprintln!("round {round}/{rounds}, {number}/{all}: {case}: {contender}");
            let session = attempt(host, &mut devices, entry);
            if let Err(why) = &session {
                eprintln!("  failed: {why}");
            }
            if state[index].is_err() {
                state[index] = session;
            }
        }
    }
}

fn chosen(args: &Args, entry: &Entry) -> bool {
    let Subject {
        group,
        case,
        contender,
    } = &entry.subject;
    let text = format!("{group} {case} {contender}");
    (entry.quick || !args.bounds.quick) && text.contains(&args.only)
}

fn reserve(args: &Args) -> Option<HugePages> {
    if args.bounds.quick || args.plain_pages {
        return None;
    }
    match HugePages::reserve() {
        Ok(pages) => Some(pages),
        Err(why) => {
            eprintln!("bench-native: without huge pages: {why:#}");
            note(net::GROUP, &format!("no huge pages: {why:#}"));
            None
        }
    }
}

fn attempt(host: &Host, devices: &mut Devices, entry: &Entry) -> Result<(), String> {
    let (program, package) = entry.needs;
    if find_program(program).is_none() {
        return Err(format!("{program} is needed: apt-get install {package}"));
    }
    (entry.session)(host, devices, &entry.subject).map_err(|error| format!("{error:#}"))
}

fn entries() -> Vec<Entry> {
    let mut entries = Vec::new();
    // The short ones first, in case the time is.
    block_entries(&mut entries);
    for operation in net::Operation::ALL {
        for packed in [false, true] {
            net_entries(&mut entries, operation, packed);
        }
    }
    entries
}

/// The contenders of one case, next to each other in time.
fn net_entries(entries: &mut Vec<Entry>, operation: net::Operation, packed: bool) {
    let needs = ("dpdk-testpmd", "dpdk-dev");
    let rings = || net::Ring::all().filter(move |ring| ring.packed == packed);
    let mut here = |name: &str, ring: net::Ring, quick, make: net::Make| {
        entries.push(Entry {
            subject: ring.subject(operation, format!("{name} {}", ring.name())),
            needs,
            quick,
            session: Box::new(move |host, devices, subject| {
                net::session(host, devices, subject, ring, operation, make)
            }),
        });
    };
    for ring in rings() {
        let plain = !ring.in_order && !ring.mergeable;
        here("vring", ring, plain, net::queues::make);
    }
    // The driver implements no buffers that are merged.
    for ring in rings().filter(|ring| !ring.mergeable) {
        here("vring net driver", ring, false, net::whole::make);
    }
    if !packed {
        // The first has no packed ring, and that of the second takes no chain of one descriptor.
        let plain = net::Ring::SPLIT;
        here(incumbent::NAME, plain, false, net::others::incumbent);
        here(BLKIO, plain, false, net::others::blkio);
    }
    for path in net::dpdk::Path::all().filter(|path| path.ring.packed == packed) {
        let plain = !path.ring.in_order && !path.ring.mergeable && !path.vectorized;
        entries.push(Entry {
            subject: path.ring.subject(operation, path.name()),
            needs,
            quick: plain,
            session: Box::new(move |host, devices, subject| {
                net::dpdk::session(host, devices, subject, path, operation)
            }),
        });
    }
}

fn block_entries(entries: &mut Vec<Entry>) {
    for depth in block::DEPTHS {
        for contender in block::Contender::ALL {
            entries.push(Entry {
                subject: contender.subject(depth),
                needs: ("qemu-storage-daemon", "qemu-utils"),
                quick: depth == block::QUICK_DEPTH,
                session: Box::new(move |host, _, subject| {
                    block::session(host, subject, contender, depth)
                }),
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn names(entries: &[Entry]) -> BTreeSet<String> {
        let name = |entry: &Entry| {
            let Subject {
                group,
                case,
                contender,
            } = &entry.subject;
            format!("{group}: {case}: {contender}")
        };
        entries.iter().map(name).collect()
    }

    #[test]
    fn every_contender_of_a_case_has_a_name_of_its_own() {
        let entries = entries();
        assert_eq!(names(&entries).len(), entries.len());
    }

    #[test]
    fn a_quick_run_compares_in_every_operation() {
        let mut entries = entries();
        entries.retain(|entry| entry.quick);
        let names = names(&entries);
        for operation in ["transmit", "receive", "loop"] {
            for format in ["split", "packed"] {
                for contender in ["vring", "DPDK virtio-user"] {
                    let name =
                        format!("native-net: {operation} 64 B, {format}: {contender} {format}");
                    assert!(names.contains(&name), "{name}");
                }
            }
        }
        for contender in ["vring", block::BLKIO] {
            let name = format!("native-block: read 512 B, depth 32: {contender} split");
            assert!(names.contains(&name), "{name}");
        }
    }
}

//! What the guest kernel and the host's harness say to each other.
//!
//! The guest speaks on its first serial port, in lines:
//!
//! - `test <name> ... ok` or `test <name> ... FAILED` for a person and for a tool that counts;
//! - [`EVENT_PREFIX`] followed by one JSON object, an [`Event`], for the harness;
//! - anything else is log text.
//!
//! The harness speaks first through the kernel command line ([`Options`]), then over the network:
//! the guest offers the services in [`port`], the harness (or the Linux at the other end of the
//! tap) is the client of each. Every number on the wire is little-endian.
//!
//! | port | protocol | what happens |
//! |---|---|---|
//! | [`port::CONTROL`] | TCP | the peer sends `finish\n`, the guest answers `bye\n`, resets the device, reports, exits |
//! | [`port::SINK`] | TCP | the peer sends bytes and shuts down its writing side; the guest answers with their SHA-256 (32 bytes) and closes |
//! | [`port::SOURCE`] | TCP | the peer sends a `u64` count; the guest sends that many bytes, then their SHA-256, and closes |
//! | [`port::PACED`] | UDP | [`Datagram`]s, paced by acknowledgement, in either direction |
//! | [`port::BURST`] | UDP | [`Datagram`]s as fast as they go, in either direction |
#![no_std]

extern crate alloc;

use alloc::string::String;
use alloc::vec::Vec;

use serde::{Deserialize, Serialize};

/// Opens a line that carries an [`Event`].
pub const EVENT_PREFIX: &str = "@vring ";

/// Version of this protocol; both sides refuse another.
pub const VERSION: u32 = 5;

/// I/O port of QEMU's `isa-debug-exit` device. Writing `v` ends QEMU with [`exit_status`]`(v)`.
///
/// Machines without ports end it by a semihosting call, with the same status.
pub const DEBUG_EXIT_PORT: u16 = 0xf4;

/// The guest's exit code when every test passed (QEMU's status: 33).
pub const EXIT_OK: u8 = 0x10;

/// The guest's exit code when a test failed or it panicked (QEMU's status: 35).
pub const EXIT_FAILED: u8 = 0x11;

/// QEMU's exit status for an exit code of the guest: never 0, as when it was only reset, and none
/// of those that QEMU has for its own errors.
#[must_use]
pub const fn exit_status(code: u8) -> i32 {
    code as i32 * 2 + 1
}

/// The guest's services. See the table at the top.
pub mod port {
    /// TCP: ends the run.
    pub const CONTROL: u16 = 7000;
    /// TCP: bulk data from the peer to the guest.
    pub const SINK: u16 = 7001;
    /// TCP: bulk data from the guest to the peer.
    pub const SOURCE: u16 = 7002;
    /// UDP: datagrams paced by acknowledgement.
    pub const PACED: u16 = 7003;
    /// UDP: datagrams without pacing.
    pub const BURST: u16 = 7004;
}

/// The kernel command line: words of the form `key=value`, separated by spaces.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// `ip=10.0.2.15/24`: the guest's address and prefix length.
    pub ip: String,
    /// `gw=10.0.2.2`: the gateway.
    pub gateway: String,
    /// `ping=100`: how many echo requests the guest sends to its gateway (0: none).
    pub ping: u32,
    /// `queue_size=256`: the size that the driver asks for.
    pub queue_size: u16,
    /// `interrupts=msix|intx|poll`.
    pub interrupts: String,
    /// `vectors=2`: how many the table of the device's messages has (nothing: as many as QEMU
    /// chooses, which is [`Options::USUAL_VECTORS`] or more).
    pub vectors: Option<u16>,
    /// `transport=pci-modern` or another [`Transport`]: how the device is driven.
    pub transport: Transport,
    /// `registers=plain|counted`: counted, every access of a register of the device is a call of a
    /// function, and the addresses that the driver has of them are mapped nowhere.
    pub counted_registers: bool,
    /// `pci_stack=crate|own`: own, configuration space is reached by functions of the kernel's.
    pub own_pci_stack: bool,
    /// `bars=firmware|kernel`: kernel, the device's BARs are cleared and assigned anew.
    pub kernel_assigns_bars: bool,
    /// `idle=60`: seconds without any request from the peer after which the guest gives up.
    pub idle_seconds: u32,
    /// `require=VIRTIO_F_RING_PACKED`: features without which the driver does not start, by the
    /// specification's names. [`RING_RESET`] is the exercise's to accept, where the network driver
    /// does not know it.
    pub require: Vec<String>,
    /// `refuse=VIRTIO_F_EVENT_IDX,VIRTIO_F_RING_PACKED`: features that the driver does not accept,
    /// by the specification's names.
    pub refuse: Vec<String>,
    /// `indirect=on|off`: whether queues have indirect tables.
    pub indirect: bool,
    /// `pieces=24`: how many echo requests the guest sends after its services, over queues of its
    /// own, each frame in several descriptors (0: none).
    pub pieces: u32,
    /// `batches=2048`: packets that the guest sends at the end in batches, each of another size, and
    /// counts what leaves the virtual machine (0: none).
    pub batches: u32,
    /// `awaited=256`: packets that the guest sends with each of its executors, where the device
    /// interrupts (0: none).
    pub awaited: u32,
    /// `pairs=4000`: pings that the guest sends over each of two queue pairs, each driven by a
    /// processor of its own (0: none, and one queue pair).
    pub pairs: u16,
    /// `suite=net` or another name that the guest knows: `interrupts` tries them and talks to nobody
    /// but the gateway, `boot` runs no device.
    pub suite: String,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            ip: "10.0.2.15/24".into(),
            gateway: "10.0.2.2".into(),
            ping: 0,
            queue_size: 256,
            interrupts: "msix".into(),
            vectors: None,
            transport: Transport::PciModern,
            counted_registers: false,
            own_pci_stack: false,
            kernel_assigns_bars: false,
            idle_seconds: 60,
            require: Vec::new(),
            refuse: Vec::new(),
            indirect: true,
            pieces: 24,
            batches: 0,
            awaited: 256,
            pairs: 0,
            suite: "net".into(),
        }
    }
}

impl Options {
    /// Seconds after which the guest gives up the exercise with pieces, on a host that is busy.
    pub const PIECES_SECONDS: u64 = 60;
    /// The same of each of its two executors.
    pub const AWAITED_SECONDS: u64 = 30;
    /// The same of each part of the exercise with queue pairs: the command, the traffic, and the
    /// other processor's end.
    pub const PAIRS_SECONDS: u64 = 60;
    /// Vectors that QEMU gives a network card at least: one for each of two queues, one for the
    /// control queue, one for changes of the configuration.
    pub const USUAL_VECTORS: u16 = 4;
    /// Packets of each batch, one size after the other. A queue has to have room for the largest.
    pub const BATCHES: [u32; 2] = [1, 64];

    /// Seconds that the exercises which are asked for take at most, each of which ends by itself.
    #[must_use]
    pub const fn exercise_seconds(&self) -> u64 {
        let pieces = Self::PIECES_SECONDS * (self.pieces > 0) as u64;
        let awaited = 2 * Self::AWAITED_SECONDS * (self.awaited > 0) as u64;
        let pairs = 3 * Self::PAIRS_SECONDS * (self.pairs > 0) as u64;
        pieces + awaited + pairs
    }

    /// Reads a command line; a word that is not understood is an error that names it.
    ///
    /// # Errors
    /// The offending word.
    pub fn parse(line: &str) -> Result<Self, String> {
        let mut options = Self::default();
        for word in line.split_ascii_whitespace() {
            let (key, value) = word.split_once('=').ok_or(word)?;
            match key {
                "ip" => options.ip = value.into(),
                "gw" => options.gateway = value.into(),
                "ping" => options.ping = value.parse().map_err(|_| word)?,
                "queue_size" => options.queue_size = value.parse().map_err(|_| word)?,
                "interrupts" if matches!(value, "msix" | "intx" | "poll") => {
                    options.interrupts = value.into();
                }
                "vectors" if value.is_empty() => options.vectors = None,
                "vectors" => options.vectors = Some(value.parse().map_err(|_| word)?),
                "transport" => options.transport = Transport::from_name(value).ok_or(word)?,
                "registers" => options.counted_registers = one_of(value, "plain", "counted", word)?,
                "pci_stack" => options.own_pci_stack = one_of(value, "crate", "own", word)?,
                "bars" => options.kernel_assigns_bars = one_of(value, "firmware", "kernel", word)?,
                "idle" => options.idle_seconds = value.parse().map_err(|_| word)?,
                "require" => options.require = names(value),
                "refuse" => options.refuse = names(value),
                "indirect" if matches!(value, "on" | "off") => options.indirect = value == "on",
                "pieces" => options.pieces = value.parse().map_err(|_| word)?,
                "batches" => options.batches = value.parse().map_err(|_| word)?,
                "awaited" => options.awaited = value.parse().map_err(|_| word)?,
                "pairs" => options.pairs = value.parse().map_err(|_| word)?,
                "suite" => options.suite = value.into(),
                // The machine's word, for the kernel: where its windows of registers are.
                "virtio_mmio.device" => {}
                _ => return Err(word.into()),
            }
        }
        Ok(options)
    }

    /// Writes the command line that [`Options::parse`] reads.
    #[must_use]
    pub fn to_command_line(&self) -> String {
        alloc::format!(
            "ip={} gw={} ping={} queue_size={} interrupts={} vectors={} transport={} registers={} \
             pci_stack={} bars={} idle={} require={} refuse={} indirect={} pieces={} batches={} \
             awaited={} pairs={} suite={}",
            self.ip,
            self.gateway,
            self.ping,
            self.queue_size,
            self.interrupts,
            self.vectors
                .map(|n| alloc::format!("{n}"))
                .unwrap_or_default(),
            self.transport.name(),
            if self.counted_registers {
                "counted"
            } else {
                "plain"
            },
            if self.own_pci_stack { "own" } else { "crate" },
            if self.kernel_assigns_bars {
                "kernel"
            } else {
                "firmware"
            },
            self.idle_seconds,
            self.require.join(","),
            self.refuse.join(","),
            if self.indirect { "on" } else { "off" },
            self.pieces,
            self.batches,
            self.awaited,
            self.pairs,
            self.suite
        )
    }
}

/// How the guest drives its device.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Transport {
    /// PCI, the modern interface, its structures in memory BARs.
    #[default]
    PciModern,
    /// PCI, the modern interface, its doorbells in an I/O BAR.
    PciPorts,
    /// PCI, the modern interface, through the window in configuration space.
    PciWindow,
    /// PCI, the legacy interface.
    PciLegacy,
    /// MMIO, version 2.
    Mmio,
    /// MMIO, version 1: the legacy interface.
    MmioLegacy,
}

impl Transport {
    /// All of them.
    pub const ALL: [Self; 6] = [
        Self::PciModern,
        Self::PciPorts,
        Self::PciWindow,
        Self::PciLegacy,
        Self::Mmio,
        Self::MmioLegacy,
    ];

    /// Its name on command lines and in reports.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::PciModern => "pci-modern",
            Self::PciPorts => "pci-ports",
            Self::PciWindow => "pci-window",
            Self::PciLegacy => "pci-legacy",
            Self::Mmio => "mmio",
            Self::MmioLegacy => "mmio-legacy",
        }
    }

    /// The one of this name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|one| one.name() == name)
    }

    /// Whether the device is a PCI function.
    #[must_use]
    pub const fn is_pci(self) -> bool {
        !matches!(self, Self::Mmio | Self::MmioLegacy)
    }

    /// Whether it is the interface from before VIRTIO 1.0.
    #[must_use]
    pub const fn is_legacy(self) -> bool {
        matches!(self, Self::PciLegacy | Self::MmioLegacy)
    }
}

/// Whether a value is the second of two.
fn one_of<'a>(value: &str, no: &str, yes: &str, word: &'a str) -> Result<bool, &'a str> {
    if value == yes {
        Ok(true)
    } else if value == no {
        Ok(false)
    } else {
        Err(word)
    }
}

/// The one feature that is not asked of the network driver alone: see [`Options::require`].
pub const RING_RESET: &str = "VIRTIO_F_RING_RESET";

fn names(list: &str) -> Vec<String> {
    let names = list.split(',').filter(|name| !name.is_empty());
    names.map(String::from).collect()
}

/// A UDP datagram of the paced and burst services: a 16-byte header, then padding.
///
/// Paced, peer to guest: the peer sends `Data` with rising `seq`; the guest answers `Ack` with the
/// highest `seq` that it has seen and how many distinct ones, at least every
/// [`Datagram::ACK_EVERY`] datagrams and whenever it runs dry. The sender keeps at most
/// [`Datagram::WINDOW`] datagrams beyond the highest acknowledged one; after 200 ms without an
/// acknowledgement it takes the outstanding ones for lost and goes on.
///
/// Paced, guest to peer: the peer sends `Start { value: count }`; from then on the roles are
/// exchanged until the guest has seen `count` acknowledged as received, when it sends `Stats`.
///
/// Burst, peer to guest: the peer floods `Data`, then sends `Query` until the guest answers
/// `Stats { seq: sent, value: received }` (its own counts since the last `Start`).
/// Burst, guest to peer: `Start { value: count }`; the guest sends `count` `Data` as fast as its
/// transmit ring takes them, then answers `Query` with `Stats`.
/// `Start { value: 0 }` resets the guest's burst counts and is answered with `Stats`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Datagram {
    /// What it is.
    pub kind: Kind,
    /// Sequence number (`Data`), highest seen (`Ack`), datagrams sent (`Stats`).
    pub seq: u32,
    /// Count (`Start`), distinct datagrams received (`Ack`, `Stats`).
    pub value: u32,
}

/// Kinds of [`Datagram`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Kind {
    /// Payload.
    Data = 1,
    /// Acknowledgement.
    Ack = 2,
    /// Asks the guest to send.
    Start = 3,
    /// Asks for counts.
    Query = 4,
    /// Answers with counts.
    Stats = 5,
}

impl Datagram {
    /// Bytes of the header.
    pub const LEN: usize = 16;
    /// Datagrams beyond the highest acknowledged one.
    pub const WINDOW: u32 = 64;
    /// An acknowledgement is owed after so many datagrams.
    pub const ACK_EVERY: u32 = 16;
    const MAGIC: u32 = 0x474e_5256;

    /// The header as bytes.
    #[must_use]
    pub fn to_bytes(self) -> [u8; Self::LEN] {
        let mut bytes = [0; Self::LEN];
        let words = [Self::MAGIC, self.kind as u32, self.seq, self.value];
        for (chunk, word) in bytes.chunks_exact_mut(4).zip(words) {
            chunk.copy_from_slice(&word.to_le_bytes());
        }
        bytes
    }

    /// Reads the header from the front of a datagram.
    #[must_use]
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        let word = |i: usize| {
            let chunk = bytes.get(i * 4..i * 4 + 4)?;
            Some(u32::from_le_bytes(chunk.try_into().ok()?))
        };
        if word(0)? != Self::MAGIC {
            return None;
        }
        let kind = match word(1)? {
            1 => Kind::Data,
            2 => Kind::Ack,
            3 => Kind::Start,
            4 => Kind::Query,
            5 => Kind::Stats,
            _ => return None,
        };
        Some(Self {
            kind,
            seq: word(2)?,
            value: word(3)?,
        })
    }
}

/// Counts of one virtqueue, as its driver kept them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct QueueCounters {
    /// Index of the queue.
    pub index: u16,
    /// `rx`, `tx`, ...
    pub name: String,
    /// Buffers given to the device.
    pub submitted: u64,
    /// Buffers that came back by a used element.
    pub completed: u64,
    /// Buffers that came back by the final reset.
    pub returned_by_reset: u64,
    /// Doorbell stores.
    pub kicks: u64,
    /// Doorbell stores that the device had asked to leave out.
    pub suppressed_kicks: u64,
    /// Faults: things the device said that cannot be.
    pub faults: u64,
}

/// Counts of one queue pair, and of the processor that drove it: see [`Options::pairs`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PairCounters {
    /// The processor.
    pub cpu: u16,
    /// Echo requests sent.
    pub sent: u32,
    /// Echo replies that came by the pair's own receive queue.
    pub received: u32,
    /// Echo replies that came twice, or with other bytes.
    pub damaged: u32,
    /// Echo replies that another pair's queue received.
    pub astray: u64,
    /// Interrupts of the pair's receive queue on its processor.
    pub interrupts: u64,
    /// Interrupts of the pair's transmit queue on its processor, which asks for none.
    pub transmit_interrupts: u64,
    /// Interrupts of either queue on another processor.
    pub interrupts_elsewhere: u64,
    /// Buffers that the device used in the receive queue.
    pub receive_used: u64,
    /// Buffers that the device used in the transmit queue.
    pub transmit_used: u64,
    /// Buffers submitted to the transmit queue.
    pub transmit_submitted: u64,
    /// Faults of both queues: things the device said that cannot be.
    pub faults: u64,
}

/// What the guest tells the harness.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Event {
    /// First line.
    Hello {
        /// [`VERSION`].
        version: u32,
        /// `aarch64`, `riscv64` or `x86_64`.
        arch: String,
        /// How PCI configuration space is reached: `ecam`, `cf8` or `none`; `functions`, where the
        /// crate is given the kernel's own ([`Options::own_pci_stack`]).
        pci_access: String,
    },
    /// The device was found and initialized.
    Device {
        /// `0000:00:02.0`; over MMIO, of the registers: `0xfeb00e00`.
        address: String,
        /// Type id of the specification (1: network).
        device_type: u16,
        /// What it is driven by.
        transport: Transport,
        /// `52:54:00:12:34:56`.
        mac: Option<String>,
        /// Bytes, where the device said.
        mtu: Option<u16>,
        /// `msix`, `intx` or `poll`: what is in use.
        interrupts: String,
    },
    /// What was negotiated, by the specification's names.
    Features {
        /// What the device offered.
        offered: Vec<String>,
        /// What the driver accepted.
        acked: Vec<String>,
        /// What was offered and not accepted.
        refused: Vec<String>,
    },
    /// Where the driver laid out a virtqueue: physical addresses.
    Queue {
        /// Index of the queue.
        index: u16,
        /// `rx`, `tx`, ...
        name: String,
        /// Ring format: `split` or `packed`.
        ring: String,
        /// Number of descriptors.
        num: u16,
        /// Descriptor table.
        desc: u64,
        /// Available ring (driver area).
        avail: u64,
        /// Used ring (device area).
        used: u64,
    },
    /// The services are up: the peer may begin, and the host may look at the live device.
    Ready {
        /// The guest's address.
        ip: String,
    },
    /// What came of the guest's own pings.
    Ping {
        /// Echo requests sent.
        sent: u32,
        /// Echo replies that matched.
        received: u32,
    },
    /// What came of the exercise over queues of its own: see [`Options::pieces`].
    Pieces {
        /// The features that were in use, by the specification's names.
        acked: Vec<String>,
        /// Echo requests sent.
        sent: u32,
        /// Echo replies that matched. A queue that is reset may take one with it.
        received: u32,
        /// Descriptors of the ring that a chain took.
        descriptors: u16,
        /// Sizes that the queues had, one after the other, receive and transmit.
        sizes: Vec<(u16, u16)>,
        /// Queues that were reset while the device ran.
        queue_resets: u32,
        /// Buffers that those resets gave back.
        returned: u64,
    },
    /// What packets took that were sent in batches of one size: see [`Options::batches`].
    Batches {
        /// Packets that were sent with one kick.
        batch: u32,
        /// Packets sent, each answered.
        packets: u32,
        /// Doorbell stores of the transmit queue.
        transmit_kicks: u64,
        /// Doorbell stores of the receive queue.
        receive_kicks: u64,
        /// Doorbell stores, of both, that the device had asked to leave out.
        suppressed_kicks: u64,
        /// Interrupts for queues.
        interrupts: u64,
        /// Accesses of the card's registers other than the doorbells.
        register_accesses: u64,
    },
    /// Asks the harness to take the first card's link down, or up again.
    SetLink {
        /// Up.
        up: bool,
    },
    /// What the interrupts of a device came to in an exercise.
    Interrupts {
        /// The exercise: `shared line`, `vectors: one`, ...
        exercise: String,
        /// The device's address.
        device: String,
        /// Questions that were answered.
        answers: u32,
        /// Interrupts for its queues.
        queues: u64,
        /// Interrupts for its configuration.
        config: u64,
        /// Interrupts of its line that were another device's.
        foreign: u64,
        /// Interrupts of its line that no device had raised.
        unclaimed: u64,
    },
    /// What a way to wait for an answer cost.
    Waiting {
        /// `poll`, `interrupt` or `hybrid`: poll for a while, arm, look again, sleep.
        mode: String,
        /// Questions, each sent when the last one was answered.
        packets: u32,
        /// The median of the time from the question to the answer, of the guest's clock.
        median_ns: u64,
        /// Interrupts for queues.
        interrupts: u64,
        /// Doorbell stores, of both queues.
        doorbells: u64,
        /// Times that the processor was halted.
        halts: u64,
    },
    /// What packets took that tasks sent and awaited: see [`Options::awaited`].
    Awaited {
        /// `embassy`, or `block_on`: one future.
        executor: String,
        /// Packets sent, each answered.
        packets: u32,
        /// Polls of futures that the executor made.
        polls: u64,
        /// Times that the processor was halted because nobody was to be polled.
        halts: u64,
        /// Interrupts for queues.
        interrupts: u64,
        /// Times that a task awaited room in a queue that was full.
        waits_for_room: u32,
        /// Times that the clock woke a task.
        ticks: u32,
        /// Changes of the configuration that were awaited.
        config_changes: u32,
        /// Futures that were dropped in flight.
        dropped: u32,
        /// Futures that were forgotten in flight.
        forgotten: u32,
    },
    /// What came of two queue pairs: see [`Options::pairs`].
    Pairs {
        /// The features that were in use, by the specification's names.
        acked: Vec<String>,
        /// Pairs that the device has.
        max_pairs: u16,
        /// Each pair that was driven.
        pairs: Vec<PairCounters>,
    },
    /// Something that was asked for and that this machine cannot do.
    Skipped {
        /// What.
        what: String,
        /// Why.
        why: String,
        /// What to do.
        fix: String,
    },
    /// How often registers were reached, from finding the device to its reset, where that is
    /// counted: see [`Options::counted_registers`].
    Registers {
        /// Loads and stores other than the two below.
        accesses: u64,
        /// Doorbell stores.
        doorbells: u64,
        /// Interrupts that were acknowledged.
        acknowledged: u64,
    },
    /// The last counts, after the device was reset.
    Counters {
        /// Each queue.
        queues: Vec<QueueCounters>,
        /// Interrupts for queues.
        interrupts: u64,
        /// Interrupts with no work behind them.
        spurious_interrupts: u64,
    },
    /// A check that failed, beside its `test ... FAILED` line.
    Failure {
        /// Name of the check.
        check: String,
        /// What had to be.
        expected: String,
        /// What was.
        seen: String,
        /// Where to look.
        hint: String,
    },
    /// Last line.
    Done {
        /// Tests that passed.
        passed: u32,
        /// Tests that failed.
        failed: u32,
    },
}

impl Event {
    /// The event as a line for the serial port, without the line end.
    #[must_use]
    pub fn to_line(&self) -> String {
        // An enum of strings and integers always has a JSON form.
        let json = serde_json::to_string(self).unwrap_or_default();
        alloc::format!("{EVENT_PREFIX}{json}")
    }

    /// Reads a line of the serial port; `None` when it is not an event.
    #[must_use]
    pub fn parse(line: &str) -> Option<Result<Self, serde_json::Error>> {
        let json = line.trim_end().strip_prefix(EVENT_PREFIX)?;
        Some(serde_json::from_str(json))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exercises_that_are_not_asked_for_take_no_time() {
        let none = Options {
            pieces: 0,
            awaited: 0,
            pairs: 0,
            ..Options::default()
        };
        assert_eq!(none.exercise_seconds(), 0);
        let pairs = Options {
            pairs: 1,
            ..none.clone()
        };
        let seconds = [pairs, Options::default()].map(|options| options.exercise_seconds());
        assert_eq!(seconds, [180, 120]);
    }

    #[test]
    fn options_survive_the_command_line() {
        let options = Options {
            ping: 7,
            queue_size: 64,
            require: alloc::vec!["C".into()],
            refuse: alloc::vec!["A".into(), "B".into()],
            indirect: false,
            pieces: 3,
            batches: 9,
            awaited: 11,
            vectors: Some(0),
            pairs: 11,
            transport: Transport::MmioLegacy,
            counted_registers: true,
            own_pci_stack: true,
            kernel_assigns_bars: true,
            ..Options::default()
        };
        let line = options.to_command_line();
        let told = alloc::format!("{line} virtio_mmio.device=512@0xfeb00e00:12");
        for line in [line, told] {
            assert_eq!(Options::parse(&line), Ok(options.clone()));
        }
        for word in ["transport=ccw", "registers=maybe", "bars=", "pci_stack=1"] {
            assert_eq!(Options::parse(word), Err(word.into()));
        }
        assert_eq!(Options::parse("bogus=1"), Err("bogus=1".into()));
    }

    #[test]
    fn transports_have_names_of_their_own() {
        for transport in Transport::ALL {
            assert_eq!(Transport::from_name(transport.name()), Some(transport));
            let json = serde_json::to_string(&transport).unwrap();
            assert_eq!(json.trim_matches('"'), transport.name());
        }
        assert_eq!(Transport::from_name("pci"), None);
    }

    #[test]
    fn datagrams_survive_the_wire() {
        let datagram = Datagram {
            kind: Kind::Stats,
            seq: 70_000,
            value: 69_999,
        };
        assert_eq!(Datagram::parse(&datagram.to_bytes()), Some(datagram));
        assert_eq!(Datagram::parse(&[0; 16]), None);
        assert_eq!(Datagram::parse(&datagram.to_bytes()[..15]), None);
    }

    #[test]
    fn events_survive_the_serial_line() {
        let event = Event::Done {
            passed: 3,
            failed: 0,
        };
        assert_eq!(Event::parse(&event.to_line()).unwrap().unwrap(), event);
        assert!(Event::parse("hello").is_none());
    }
}

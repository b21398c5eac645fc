//! The driver side of vhost-user in a Linux process: the crate drives devices that others wrote,
//! without a virtual machine.
//!
//! ```text
//!   this process                                        the back end (DPDK, QEMU's daemons, ...)
//!   ┌────────────────────────────┐   Unix socket        ┌───────────────────────────┐
//!   │ vring ── VhostUser         │─────────────────────▶│ vhost-user protocol       │
//!   │   │        (Transport)     │   eventfd: kick      │                           │
//!   │   │      Bell ─────────────│─────────────────────▶│ virtqueues                │
//!   │   │                        │◀─────────────────────│                           │
//!   │   ▼                        │   eventfd: call      │                           │
//!   │ Shared (Platform) ═════════│══ one memfd ═════════│ mapped elsewhere          │
//!   └────────────────────────────┘                      └───────────────────────────┘
//! ```
//!
//! - [`memory`]: one region of shared memory, its allocator, the
//!   [`Platform`](vring::Platform) over it, and buffers in it.
//! - [`vhost_user`]: the [`Transport`](vring::transport::Transport), with rust-vmm's `vhost` crate
//!   as the front end of the protocol.
//! - [`event`]: doorbells and interrupts, which are eventfds.
//! - [`process`]: a back end that does not outlive whoever started it.
//! - [`testpmd`]: DPDK's network device as such a process; [`storage_daemon`]: QEMU's disk.
//! - [`frame`]: Ethernet frames that say what must be in them.
//!
//! Only the last three know what kind of device it is. Another back end is another
//! [`process::BackEnd`] and another [`vhost_user::Identity`].
#![deny(unsafe_code)]

#[allow(unsafe_code)] // turns the number in a doorbell into the eventfd that it stands for
pub mod event;
pub mod frame;
#[allow(unsafe_code)] // memory that the back end shares
pub mod memory;
pub mod process;
pub mod storage_daemon;
pub mod testpmd;
#[allow(unsafe_code)] // signs the contract of a transport
pub mod vhost_user;

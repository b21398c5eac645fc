//! Drivers: wire structures and a state machine each, over queues of owned buffers.
//!
//! Every driver has the same groups of methods in the same order: birth (`new`), facts, submit and
//! `kick`, harvest (`receive`, `reclaim`, `arm`, `disarm`), and the end (`shutdown`).

pub mod net;

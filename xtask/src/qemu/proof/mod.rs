//! Proof of what ran: the host's view of the live device, and the steps of `vhost_net_start`.

pub(crate) mod queues;
pub(crate) mod steps;
pub(crate) mod strace;

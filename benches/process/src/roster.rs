//! Who takes part, by the names that reports use, and how they are made.

use std::fmt;

use crate::device::{Device, Rules};
use crate::driver::{
    Burst, Calls, Cells, Driver, Libblkio, Single, Site, VirtioDrivers, Vring, Wants,
};
use crate::item::{Block, Frame, FrameData, FramePair, Item, Read, ReadData, ReadTriple};

/// Descriptors of a chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Chain {
    /// A block that the device reads.
    One,
    /// A frame and its header.
    Two,
    /// A block read.
    Three,
}

impl Chain {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::One, Self::Two, Self::Three];

    /// How many descriptors it has.
    #[must_use]
    pub const fn len(self) -> usize {
        match self {
            Self::One => 1,
            Self::Two => 2,
            Self::Three => 3,
        }
    }

    /// Never: a chain has a descriptor.
    #[must_use]
    pub const fn is_empty(self) -> bool {
        false
    }
}

impl fmt::Display for Chain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::One => f.write_str("1 descriptor"),
            chain => write!(f, "{} descriptors", chain.len()),
        }
    }
}

/// How vring is called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Call {
    /// `submit_burst` and `drain`, of one handle with a `DmaBuf` of its own.
    Burst,
    /// `submit` and `next_completion`.
    Single,
    /// `submit_with` and `drain`: header and reply in the queue's cells.
    Cells,
    /// As `Burst`, of the crate's own pairs and triples.
    Tuple,
}

/// What the order of use is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// Not negotiated.
    Any,
    /// `VIRTIO_F_IN_ORDER`, and a used element for each chain.
    InOrder,
    /// `VIRTIO_F_IN_ORDER`, and a used element for each burst of the device.
    InOrderBatches,
}

/// A driver, its ring and how it is called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Contender {
    /// This crate.
    Vring {
        /// `VIRTIO_F_RING_PACKED`.
        packed: bool,
        /// `VIRTIO_F_IN_ORDER`.
        order: Order,
        /// `VIRTIO_F_INDIRECT_DESC`.
        indirect: bool,
        /// How it is called.
        call: Call,
    },
    /// `virtio-drivers`, from crates.io.
    VirtioDrivers {
        /// `VIRTIO_F_INDIRECT_DESC`.
        indirect: bool,
    },
    /// `virtio-driver`, from crates.io, libblkio's.
    Libblkio {
        /// `VIRTIO_F_RING_PACKED`.
        packed: bool,
    },
}

impl fmt::Display for Contender {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ring = |packed| if packed { "packed" } else { "split" };
        match *self {
            Self::Vring {
                packed,
                order,
                indirect,
                call,
            } => {
                let in_order = if order == Order::Any { "" } else { " in-order" };
                let table = if indirect { " indirect" } else { "" };
                let call = match call {
                    Call::Burst => "burst",
                    Call::Single => "single",
                    Call::Cells => "cells",
                    Call::Tuple => "burst of tuples",
                };
                write!(f, "vring {}{in_order}{table} {call}", ring(packed))?;
                if order == Order::InOrderBatches {
                    f.write_str(", used in batches")?;
                }
                Ok(())
            }
            Self::VirtioDrivers { indirect } => {
                let table = if indirect { " indirect" } else { "" };
                write!(f, "virtio-drivers 0.13{table}")
            }
            Self::Libblkio { packed } => {
                let packed = if packed { " packed" } else { "" };
                write!(f, "virtio-driver 0.6.1 (libblkio){packed}")
            }
        }
    }
}

/// Why `virtio-driver` does not take part where it does not.
const NEXT_IS_LEFT_SET: &str = "its packed ring leaves NEXT set on a request of one descriptor, so \
                                that a device walks on into the next request";

/// What is done with a driver and its device once they are made.
pub trait Visit {
    /// Where it is done.
    type Site: Site;
    /// What comes of it.
    type Out;

    /// Does it.
    fn visit<D: Driver + Send>(self, driver: D, device: Device) -> Self::Out;
}

impl Contender {
    /// All that can take part with this chain.
    #[must_use]
    pub fn all(chain: Chain) -> Vec<Self> {
        let mut all = Vec::new();
        for packed in [false, true] {
            for order in [Order::Any, Order::InOrder, Order::InOrderBatches] {
                all.extend(Self::vring(chain, packed, order));
            }
        }
        all.push(Self::VirtioDrivers { indirect: false });
        if chain != Chain::One {
            all.push(Self::VirtioDrivers { indirect: true });
        }
        all.push(Self::Libblkio { packed: false });
        all.push(Self::Libblkio { packed: true });
        all
    }

    fn vring(chain: Chain, packed: bool, order: Order) -> impl Iterator<Item = Self> {
        let calls: &[Call] = match (chain, order) {
            (Chain::One, _) => &[Call::Burst, Call::Single],
            (_, Order::Any) => &[Call::Burst, Call::Single, Call::Cells, Call::Tuple],
            _ => &[Call::Burst],
        };
        let direct = calls.iter().map(move |call| Self::Vring {
            packed,
            order,
            indirect: false,
            call: *call,
        });
        // Tables are used from three descriptors on.
        let tables = chain == Chain::Three && order == Order::Any;
        let tables: &[Call] = if tables {
            &[Call::Burst, Call::Cells]
        } else {
            &[]
        };
        let indirect = tables.iter().map(move |call| Self::Vring {
            packed,
            order,
            indirect: true,
            call: *call,
        });
        direct.chain(indirect)
    }

    /// Why it cannot run, when it cannot.
    #[must_use]
    pub fn cannot(self, chain: Chain) -> Option<&'static str> {
        match (self, chain) {
            (Self::Libblkio { packed: true }, Chain::One) => Some(NEXT_IS_LEFT_SET),
            _ => None,
        }
    }

    fn rules(self, event_idx: bool) -> Rules {
        match self {
            Self::Vring { packed, order, .. } => Rules {
                packed,
                event_idx,
                one_used_a_burst: order == Order::InOrderBatches,
            },
            Self::VirtioDrivers { .. } => Rules {
                event_idx,
                ..Rules::default()
            },
            Self::Libblkio { packed } => Rules {
                packed,
                event_idx,
                ..Rules::default()
            },
        }
    }

    /// Makes the driver with a pool of so many items, and its device, and gives both to `visit`.
    ///
    /// # Panics
    /// When it [cannot](Self::cannot).
    pub fn meet<V: Visit>(self, chain: Chain, event_idx: bool, items: usize, visit: V) -> V::Out {
        assert_eq!(self.cannot(chain), None, "{self}, {chain}");
        let rules = self.rules(event_idx);
        match self {
            Self::Vring {
                packed,
                order,
                indirect,
                call,
            } => {
                let wants = Wants {
                    packed,
                    event_idx,
                    in_order: order != Order::Any,
                    indirect,
                };
                meet_vring(chain, call, wants, items, rules, visit)
            }
            Self::VirtioDrivers { indirect } => match chain {
                Chain::One => meet(
                    VirtioDrivers::<Block, V::Site>::new(indirect, event_idx, items),
                    rules,
                    visit,
                ),
                Chain::Two => meet(
                    VirtioDrivers::<Frame, V::Site>::new(indirect, event_idx, items),
                    rules,
                    visit,
                ),
                Chain::Three => meet(
                    VirtioDrivers::<Read, V::Site>::new(indirect, event_idx, items),
                    rules,
                    visit,
                ),
            },
            Self::Libblkio { packed } => match chain {
                Chain::One => meet(
                    Libblkio::<Block>::new(packed, event_idx, items),
                    rules,
                    visit,
                ),
                Chain::Two => meet(
                    Libblkio::<Frame>::new(packed, event_idx, items),
                    rules,
                    visit,
                ),
                Chain::Three => meet(
                    Libblkio::<Read>::new(packed, event_idx, items),
                    rules,
                    visit,
                ),
            },
        }
    }
}

fn meet_vring<V: Visit>(
    chain: Chain,
    call: Call,
    wants: Wants,
    items: usize,
    rules: Rules,
    visit: V,
) -> V::Out {
    match (chain, call) {
        (Chain::One, Call::Single) => vring::<Block, Single, V>(wants, items, rules, visit),
        // A block has no header, and is no tuple.
        (Chain::One, _) => vring::<Block, Burst, V>(wants, items, rules, visit),
        (Chain::Two, Call::Burst) => vring::<Frame, Burst, V>(wants, items, rules, visit),
        (Chain::Two, Call::Single) => vring::<Frame, Single, V>(wants, items, rules, visit),
        (Chain::Two, Call::Cells) => vring::<FrameData, Cells, V>(wants, items, rules, visit),
        (Chain::Two, Call::Tuple) => vring::<FramePair, Burst, V>(wants, items, rules, visit),
        (Chain::Three, Call::Burst) => vring::<Read, Burst, V>(wants, items, rules, visit),
        (Chain::Three, Call::Single) => vring::<Read, Single, V>(wants, items, rules, visit),
        (Chain::Three, Call::Cells) => vring::<ReadData, Cells, V>(wants, items, rules, visit),
        (Chain::Three, Call::Tuple) => vring::<ReadTriple, Burst, V>(wants, items, rules, visit),
    }
}

fn vring<B, C, V>(wants: Wants, items: usize, rules: Rules, visit: V) -> V::Out
where
    B: ::vring::buffer::DmaBuf + Item + Send,
    C: Calls<B, V::Site> + Send,
    V: Visit,
{
    meet(Vring::<B, C, V::Site>::new(wants, items), rules, visit)
}

fn meet<D: Driver + Send, V: Visit>(driver: D, rules: Rules, visit: V) -> V::Out {
    // SAFETY: all drivers here lay out valid chains of their items, whose provenance is exposed
    // where they are mapped; visitors end the device before the driver.
    let device = unsafe { Device::new(&driver.areas(), rules) };
    visit.visit(driver, device)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_two_contenders_of_a_case_have_one_name() {
        for chain in Chain::ALL {
            let all = Contender::all(chain);
            let mut names: Vec<String> = all.iter().map(ToString::to_string).collect();
            names.sort();
            names.dedup();
            assert_eq!(names.len(), all.len());
        }
    }

    #[test]
    fn the_names_are_those_that_reports_look_for() {
        let names: Vec<String> = Contender::all(Chain::Three)
            .iter()
            .map(ToString::to_string)
            .collect();
        for name in [
            "vring split burst",
            "vring packed single",
            "vring split in-order burst",
            "vring packed in-order burst, used in batches",
            "vring split indirect burst",
            "virtio-drivers 0.13",
            "virtio-drivers 0.13 indirect",
            "virtio-driver 0.6.1 (libblkio)",
            "virtio-driver 0.6.1 (libblkio) packed",
        ] {
            assert!(names.iter().any(|n| n == name), "{name} of {names:?}");
        }
    }
}

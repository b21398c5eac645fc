//! The choice of features, from what is offered, wished and possible.

use core::fmt;

use super::{Feature, Features, Needs, Requirement};
use crate::platform::Access;

/// What a driver wishes. `want` and `require` name only features that it implements: those of its
/// device type, and generic ones, all of which this crate implements for it ([`Wish::ring`]).
///
/// ```
/// use vring::features::{Feature, Features, Wish};
///
/// const MULTI_PORT: Feature = Feature::of::<1>();
/// let wish = Wish {
///     want: Features::RING.with(MULTI_PORT),
///     refuse: Feature::IN_ORDER.into(),
///     ..Wish::default()
/// };
/// # let _ = wish;
/// ```
#[derive(Clone, Copy, Debug, Default)]
pub struct Wish<'a> {
    /// Accepted where offered.
    pub want: Features,
    /// Accepted; without one of these the driver cannot start.
    pub require: Features,
    /// Not accepted, even if wanted: the user's choice over the driver's.
    pub refuse: Features,
    /// Prerequisites between the features of this device type.
    pub requirements: &'a [Requirement],
    /// The driver takes legacy devices, too: it keeps to the *Legacy Interface* sections of its
    /// device type, of which those on framing bind it where `VIRTIO_F_ANY_LAYOUT` is not accepted.
    pub legacy: bool,
}

impl Wish<'_> {
    /// Everything that this crate implements for every device, [`Features::RING`]: the packed ring,
    /// `VIRTIO_F_ORDER_PLATFORM`, `VIRTIO_F_NOTIF_CONFIG_DATA` and the others that a driver should
    /// accept (VIRTIO 1.4, 6.1).
    #[must_use]
    pub const fn ring() -> Self {
        Self {
            want: Features::RING,
            require: Features::EMPTY,
            refuse: Features::EMPTY,
            requirements: &[],
            legacy: false,
        }
    }
}

/// What came of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Negotiation {
    /// To be written to the device.
    pub accepted: Features,
    /// Offered, and not accepted.
    pub refused: Features,
}

/// Why a device cannot be driven.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum NegotiateError {
    /// The device does not offer `VIRTIO_F_VERSION_1`: it is older than VIRTIO 1.0, and its driver
    /// does not take such devices, or it is not reached by its legacy interface.
    NoVersion1 {
        /// What it offers.
        offered: Features,
    },
    /// The driver requires a feature that no legacy device can have.
    NeedsVersion1 {
        /// The feature.
        feature: Feature,
    },
    /// The platform's addresses are translated, and `VIRTIO_F_ACCESS_PLATFORM` is not offered (or
    /// was refused): the device would take them for physical addresses.
    NoAccessPlatform {
        /// What it offers.
        offered: Features,
    },
    /// The driver requires a feature that the device does not offer.
    NotOffered {
        /// The feature.
        feature: Feature,
    },
    /// The driver requires a feature that was also refused.
    Refused {
        /// The feature.
        feature: Feature,
    },
    /// A feature is required that is offered, and that the driver, or the transport, has no code
    /// for.
    Unimplemented {
        /// The feature.
        feature: Feature,
    },
    /// The driver requires a feature that is offered without what it needs.
    Unsupported {
        /// The feature.
        feature: Feature,
        /// What it needs.
        needs: Needs,
    },
}

impl fmt::Display for NegotiateError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::NoVersion1 { offered } => write!(
                f,
                "the device offers {offered}, without {}: it is a legacy device; give it a modern \
                 interface (QEMU: disable-modern=off, or virtio-mmio.force-legacy=off), or reach it \
                 by the legacy one, with a driver that takes legacy devices",
                Feature::VERSION_1
            ),
            Self::NeedsVersion1 { feature } => write!(
                f,
                "the driver needs {feature}, and the device is a legacy one, which has features 0 \
                 to 31 only; give it a modern interface (QEMU: disable-modern=off, or \
                 virtio-mmio.force-legacy=off)"
            ),
            Self::NoAccessPlatform { .. } => write!(
                f,
                "the platform translates addresses and the device does not take part in it: it \
                 must offer {} (QEMU: iommu_platform=on)",
                Feature::ACCESS_PLATFORM
            ),
            Self::NotOffered { feature } => {
                write!(
                    f,
                    "the driver needs {feature}, which the device does not offer"
                )
            }
            Self::Refused { feature } => {
                write!(
                    f,
                    "the driver needs {feature}, which was told to be refused"
                )
            }
            Self::Unimplemented { feature } => {
                write!(
                    f,
                    "{feature} is required, and the driver or the transport does not implement it"
                )
            }
            Self::Unsupported { feature, needs } => {
                let (quantity, needs) = match needs {
                    Needs::All(needs) => ("all", needs),
                    Needs::Any(needs) => ("one", needs),
                };
                write!(
                    f,
                    "the driver needs {feature}, which needs {quantity} of: {needs}"
                )
            }
        }
    }
}

impl core::error::Error for NegotiateError {}

/// Chooses the features of a modern device (VIRTIO 1.4, 2.2.1 and 6.1).
///
/// `VIRTIO_F_VERSION_1` is always accepted, and needed. `VIRTIO_F_ACCESS_PLATFORM` is accepted
/// where it is offered and not refused: every [`Platform`](crate::platform::Platform) gives
/// addresses that are right for the device. Features without their prerequisites are dropped, and
/// those that need the dropped ones, until nothing changes. [`Features::FOREIGN`] are not accepted.
///
/// # Errors
/// Any [`NegotiateError`]; it names the feature.
pub fn negotiate(
    offered: Features,
    wish: &Wish<'_>,
    access: Access,
) -> Result<Negotiation, NegotiateError> {
    negotiate_over(offered, wish, access, Features::TRANSPORT)
}

/// As [`negotiate`], over a transport that implements `transport` of [`Features::TRANSPORT`].
pub(crate) fn negotiate_over(
    offered: Features,
    wish: &Wish<'_>,
    access: Access,
    transport: Features,
) -> Result<Negotiation, NegotiateError> {
    if !offered.has(Feature::VERSION_1) {
        return Err(NegotiateError::NoVersion1 { offered });
    }
    let always = Feature::VERSION_1 | Feature::ACCESS_PLATFORM;
    let refuse = wish.refuse.without(Feature::VERSION_1);
    let unimplemented = Features::FOREIGN | (Features::TRANSPORT - transport);
    let candidates = (offered & (wish.want | wish.require | always)) - refuse - unimplemented;
    if access == Access::Translated && !candidates.has(Feature::ACCESS_PLATFORM) {
        return Err(NegotiateError::NoAccessPlatform { offered });
    }
    settle(offered, candidates, unimplemented, wish)
}

/// Chooses the features of a legacy device, which has bits 0 to 31 only (VIRTIO 1.4, 2.2.3 and
/// 6.3). So none is accepted that VIRTIO 1.0 or a later version brought: `VIRTIO_F_VERSION_1`, the
/// packed ring, `VIRTIO_F_IN_ORDER` and all others from 32 on.
///
/// `VIRTIO_F_ANY_LAYOUT` is accepted where it is offered and not refused, as it must be: a driver
/// that [takes legacy devices](Wish::legacy) does without it, too. `VIRTIO_F_NOTIFY_ON_EMPTY` is
/// not: no driver here waits for that interrupt. Nor is bit 30.
///
/// # Errors
/// Any [`NegotiateError`]; it names the feature. [`NegotiateError::NoAccessPlatform`], when the
/// platform translates addresses: a legacy device takes them for physical ones.
pub fn negotiate_legacy(
    offered: Features,
    wish: &Wish<'_>,
    access: Access,
) -> Result<Negotiation, NegotiateError> {
    let offered = offered & Features::LEGACY;
    if !wish.legacy {
        return Err(NegotiateError::NoVersion1 { offered });
    }
    if access == Access::Translated {
        return Err(NegotiateError::NoAccessPlatform { offered });
    }
    if let Some(feature) = (wish.require - Features::LEGACY).iter().next() {
        return Err(NegotiateError::NeedsVersion1 { feature });
    }
    let always = Feature::ANY_LAYOUT;
    let unimplemented = Features::FOREIGN.without(always);
    let candidates = (offered & (wish.want | wish.require | always)) - wish.refuse - unimplemented;
    settle(offered, candidates, unimplemented, wish)
}

/// Accepts the candidates, without those that lack what they need.
fn settle(
    offered: Features,
    candidates: Features,
    unimplemented: Features,
    wish: &Wish<'_>,
) -> Result<Negotiation, NegotiateError> {
    let accepted = close(candidates, wish.requirements);
    if let Some(feature) = (wish.require - accepted).iter().next() {
        if offered.has(feature) && unimplemented.has(feature) {
            return Err(NegotiateError::Unimplemented { feature });
        }
        return Err(why_not(feature, offered, accepted, wish));
    }
    Ok(Negotiation {
        accepted,
        refused: offered - accepted,
    })
}

/// Drops features whose prerequisites are missing. Each round drops at least one of 128.
fn close(mut features: Features, requirements: &[Requirement]) -> Features {
    while let Some(unmet) = requirements.iter().find(|r| !r.is_met_by(features)) {
        features = features.without(unmet.feature);
    }
    features
}

#[cold]
fn why_not(
    feature: Feature,
    offered: Features,
    accepted: Features,
    wish: &Wish<'_>,
) -> NegotiateError {
    if !offered.has(feature) {
        return NegotiateError::NotOffered { feature };
    }
    let unmet = |r: &&Requirement| r.feature == feature && !r.is_met_by(accepted.with(feature));
    match wish.requirements.iter().find(unmet) {
        Some(row) if !wish.refuse.has(feature) => NegotiateError::Unsupported {
            feature,
            needs: row.needs,
        },
        _ => NegotiateError::Refused { feature },
    }
}

//! The choice of features, from what is offered, wished and possible.

use core::fmt;

use super::{Feature, Features, Needs, Requirement};
use crate::platform::Access;

/// What a driver wishes. `want`, `require` and `refuse` name only features that it implements.
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
    /// The device is older than VIRTIO 1.0: it does not offer `VIRTIO_F_VERSION_1`.
    NoVersion1 {
        /// What it offers.
        offered: Features,
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
    /// A feature is required that the driver has no code for.
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
                 interface (QEMU: disable-modern=off)",
                Feature::VERSION_1
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
                    "{feature} is required, and the driver does not implement it"
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
/// those that need the dropped ones, until nothing changes.
///
/// # Errors
/// Any [`NegotiateError`]; it names the feature.
pub fn negotiate(
    offered: Features,
    wish: &Wish<'_>,
    access: Access,
) -> Result<Negotiation, NegotiateError> {
    if !offered.has(Feature::VERSION_1) {
        return Err(NegotiateError::NoVersion1 { offered });
    }
    let always = Feature::VERSION_1 | Feature::ACCESS_PLATFORM;
    let refuse = wish.refuse.without(Feature::VERSION_1);
    let candidates = (offered & (wish.want | wish.require | always)) - refuse;
    if access == Access::Translated && !candidates.has(Feature::ACCESS_PLATFORM) {
        return Err(NegotiateError::NoAccessPlatform { offered });
    }
    let accepted = close(candidates, wish.requirements);
    if let Some(feature) = (wish.require - accepted).iter().next() {
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

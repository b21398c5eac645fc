use std::format;
use std::string::ToString;
use std::vec::Vec;

use super::{Feature, Features, Needs, NegotiateError, Requirement, Wish, negotiate};
use crate::platform::Access::{Physical, Translated};

const A: Feature = Feature::of::<0>();
const B: Feature = Feature::of::<1>();
const C: Feature = Feature::of::<2>();
const D: Feature = Feature::of::<3>();
const E: Feature = Feature::of::<127>();

/// A needs B and C; B needs C or D; D needs E.
const TABLE: [Requirement; 3] = [
    Requirement::all(A, &[B, C]),
    Requirement::any(B, &[C, D]),
    Requirement::all(D, &[E]),
];
const ALL: [Feature; 5] = [A, B, C, D, E];
/// Of the offers and of the wishes, every so manieth is tried; fewer where Miri does it.
const STEP: usize = if cfg!(miri) { 5 } else { 1 };

fn subsets() -> impl Iterator<Item = Features> {
    (0..1 << ALL.len()).map(|set: u32| {
        let chosen = ALL
            .iter()
            .enumerate()
            .filter(move |(i, _)| set >> i & 1 != 0);
        chosen.map(|(_, feature)| *feature).collect()
    })
}

fn allowed(set: Features) -> bool {
    TABLE.iter().all(|row| row.is_met_by(set))
}

/// Defends: FE-001, FE-002.
#[test]
fn bug_class_62_of_every_offer_and_wish_the_largest_allowed_set_is_accepted() {
    for offered in subsets().step_by(STEP) {
        for want in subsets().step_by(STEP) {
            let wish = Wish {
                want,
                requirements: &TABLE,
                ..Wish::default()
            };
            let result = negotiate(offered | Feature::VERSION_1, &wish, Physical).unwrap();
            let accepted = result.accepted - Feature::VERSION_1;
            assert!(allowed(accepted), "{accepted} of {offered}");
            assert!((offered & want).contains(accepted));
            // Every allowed subset of the candidates lies in it: none is larger.
            for other in subsets().filter(|s| (offered & want).contains(*s) && allowed(*s)) {
                assert!(accepted.contains(other), "{accepted} lacks {other}");
            }
            assert_eq!(
                result.accepted | result.refused,
                offered | Feature::VERSION_1
            );
            assert!(!result.accepted.intersects(result.refused));
        }
    }
}

#[test]
fn bug_class_62_the_order_of_the_table_does_not_matter() {
    let mut reversed = TABLE;
    reversed.reverse();
    for offered in subsets() {
        let [one, other] = [&TABLE, &reversed].map(|requirements| {
            let wish = Wish {
                want: !Features::EMPTY,
                requirements,
                ..Wish::default()
            };
            negotiate(offered | Feature::VERSION_1, &wish, Physical)
        });
        assert_eq!(one, other);
    }
}

#[test]
fn a_feature_that_needs_itself_or_nothing_ends_the_closure() {
    let rows = [
        Requirement::all(A, &[A]),
        Requirement::all(B, &[]),
        Requirement::any(C, &[]),
        Requirement::all(D, &[E]),
        Requirement::all(E, &[D]),
    ];
    let want = Features::of(&ALL);
    let wish = Wish {
        want,
        requirements: &rows,
        ..Wish::default()
    };
    let result = negotiate(want | Feature::VERSION_1, &wish, Physical).unwrap();
    // Any of none is never met; two that need each other are both there.
    assert_eq!(
        result.accepted,
        Features::of(&[A, B, D, E, Feature::VERSION_1])
    );
}

/// Defends: FE-004, FE-005, FE-008.
#[test]
fn a_feature_that_nobody_wishes_is_not_accepted_and_fails_nothing() {
    let offered = !Features::EMPTY;
    let result = negotiate(offered, &Wish::default(), Physical).unwrap();
    let both = Feature::VERSION_1 | Feature::ACCESS_PLATFORM;
    assert_eq!(result.accepted, both);
    assert_eq!(result.refused, !both);
}

/// Defends: FE-003, FE-009.
#[test]
fn bug_class_63_version_1_is_accepted_always_and_needed() {
    let offered = Features::of(&[A, Feature::VERSION_1]);
    let refuse = Feature::VERSION_1.into();
    let wish = Wish {
        refuse,
        ..Wish::default()
    };
    assert!(
        negotiate(offered, &wish, Physical)
            .unwrap()
            .accepted
            .has(Feature::VERSION_1)
    );
    let offered = Features::of(&[A]);
    let error = negotiate(offered, &wish, Physical).unwrap_err();
    assert_eq!(error, NegotiateError::NoVersion1 { offered });
    assert!(error.to_string().contains("VIRTIO_F_VERSION_1"));
}

/// Defends: FE-010, FE-012.
#[test]
fn bug_class_63_translated_addresses_need_access_platform() {
    let without = Features::of(&[Feature::VERSION_1]);
    let with = without | Feature::ACCESS_PLATFORM;
    let wish = Wish::default();
    for access in [Physical, Translated] {
        let accepted = negotiate(with, &wish, access).unwrap().accepted;
        assert!(
            accepted.has(Feature::ACCESS_PLATFORM),
            "accepted where offered"
        );
    }
    assert_eq!(
        negotiate(without, &wish, Physical).unwrap().accepted,
        without
    );
    let error = NegotiateError::NoAccessPlatform { offered: without };
    assert_eq!(negotiate(without, &wish, Translated), Err(error));

    let refuse = Feature::ACCESS_PLATFORM.into();
    let wish = Wish {
        refuse,
        ..Wish::default()
    };
    assert_eq!(negotiate(with, &wish, Physical).unwrap().accepted, without);
    let error = NegotiateError::NoAccessPlatform { offered: with };
    assert_eq!(negotiate(with, &wish, Translated), Err(error));
}

/// Defends: FE-003.
#[test]
fn a_required_feature_that_is_missing_is_named_with_its_reason() {
    let base = Features::of(&[Feature::VERSION_1]);
    let error = |offered: Features, refuse| {
        let require = Features::of(&[B]);
        let wish = Wish {
            require,
            refuse,
            requirements: &TABLE,
            ..Wish::default()
        };
        negotiate(base | offered, &wish, Physical).unwrap_err()
    };
    assert_eq!(
        error(C.into(), Features::EMPTY),
        NegotiateError::NotOffered { feature: B }
    );
    assert_eq!(
        error(B | C, B.into()),
        NegotiateError::Refused { feature: B }
    );
    // C is offered, but nobody asked for it.
    let needs = Needs::Any(C | D);
    let unsupported = NegotiateError::Unsupported { feature: B, needs };
    assert_eq!(error(B | C, Features::EMPTY), unsupported);
    assert_eq!(
        unsupported.to_string(),
        "the driver needs feature bit 1, which needs one of: feature bit 2, feature bit 3"
    );
}

#[test]
fn generic_features_have_their_bits_and_names() {
    let table = [
        (24, "VIRTIO_F_NOTIFY_ON_EMPTY"),
        (27, "VIRTIO_F_ANY_LAYOUT"),
        (28, "VIRTIO_F_INDIRECT_DESC"),
        (29, "VIRTIO_F_EVENT_IDX"),
        (32, "VIRTIO_F_VERSION_1"),
        (33, "VIRTIO_F_ACCESS_PLATFORM"),
        (34, "VIRTIO_F_RING_PACKED"),
        (35, "VIRTIO_F_IN_ORDER"),
        (36, "VIRTIO_F_ORDER_PLATFORM"),
        (37, "VIRTIO_F_SR_IOV"),
        (38, "VIRTIO_F_NOTIFICATION_DATA"),
        (39, "VIRTIO_F_NOTIF_CONFIG_DATA"),
        (40, "VIRTIO_F_RING_RESET"),
        (41, "VIRTIO_F_ADMIN_VQ"),
        (43, "VIRTIO_F_SUSPEND"),
    ];
    for bit in 0..=255 {
        let name = table.iter().find(|row| row.0 == bit).map(|row| row.1);
        assert_eq!(Feature::new(bit).and_then(Feature::name), name);
        assert_eq!(
            Feature::new(bit).map(Feature::bit),
            (bit < 128).then_some(bit)
        );
        assert_eq!(
            name.and_then(Feature::from_name),
            name.and(Feature::new(bit))
        );
    }
    assert_eq!(Feature::from_name("VIRTIO_F_NO_SUCH"), None);
}

#[test]
fn sets_print_and_iterate_from_the_lowest_bit() {
    let set = E | Feature::VERSION_1 | A;
    assert_eq!(
        set.iter().map(Feature::bit).collect::<Vec<_>>(),
        [0, 32, 127]
    );
    assert_eq!(set.into_iter().collect::<Features>(), set);
    assert_eq!(set.len(), 3);
    assert_eq!(
        set.to_string(),
        "feature bit 0, VIRTIO_F_VERSION_1, feature bit 127"
    );
    assert_eq!(Features::EMPTY.to_string(), "no features");
    assert!(format!("{set:?}").starts_with("Features(0x80000000000000000000000100000001: "));
    assert_eq!((!Features::EMPTY).iter().count(), 128);
}

#[test]
fn words_are_32_bits_of_128() {
    let set = Features(0x4444_4444_3333_3333_2222_2222_1111_1111);
    let words = [0x1111_1111, 0x2222_2222, 0x3333_3333, 0x4444_4444, 0, 0];
    assert_eq!(
        [0, 1, 2, 3, 4, u32::MAX].map(|select| set.word(select)),
        words
    );
    let whole = (0..6).fold(Features::EMPTY, |all, select| {
        all.with_word(select, set.word(select))
    });
    assert_eq!(whole, set);
    assert_eq!(Features::EMPTY.with_word(4, 1), Features::EMPTY);
}

#[test]
fn set_operations_are_those_of_bits() {
    let (ab, bc) = (A | B, B | C);
    assert_eq!(ab | bc, Features::of(&[A, B, C]));
    assert_eq!(ab & bc, B.into());
    assert_eq!(ab - bc, A.into());
    assert_eq!(ab.without(A).with(C), bc);
    assert!(ab.contains(B.into()) && !ab.contains(bc) && ab.intersects(bc));
    assert!(Features::EMPTY.is_empty() && !ab.is_empty());
    let mut set = Features::EMPTY;
    set |= E;
    assert_eq!(set, E.into());
}

use clap::Parser;

use super::*;

#[derive(Parser)]
struct Cli {
    #[command(flatten)]
    qemu: QemuArgs,
}

fn args(words: &str) -> QemuArgs {
    let words = ["qemu"].into_iter().chain(words.split_ascii_whitespace());
    Cli::try_parse_from(words).unwrap().qemu
}

fn attach(words: &str) -> Result<(Attach, Steer), Stop> {
    let args = args(words);
    let attach = Attach::new(&args)?;
    let mut steer = args.steer()?;
    attach.check_steer(&mut steer, args.queue_size)?;
    Ok((attach, steer))
}

#[test]
fn a_machine_belongs_to_its_architecture() {
    for (words, expected) in [
        ("", Machine::Q35),
        ("--machine pc", Machine::Pc),
        ("--machine microvm", Machine::Microvm),
        ("--arch x86_64", Machine::Q35),
        ("--arch aarch64", Machine::Virt),
        ("--arch riscv64 --machine virt", Machine::Virt),
    ] {
        assert_eq!(attach(words).unwrap().0.machine, expected, "{words}");
    }
    for (words, known) in [
        ("--machine virt", "q35 and pc and microvm"),
        ("--arch aarch64 --machine pc", "virt"),
        ("--arch riscv64 --machine microvm", "virt"),
    ] {
        match attach(words) {
            Err(Stop::Usage(text)) => assert!(text.ends_with(known), "{text}"),
            other => panic!("{words}: {other:?}"),
        }
    }
}

#[test]
fn what_is_left_open_goes_with_what_is_said() {
    use Interrupts::{Intx, Msix, Poll};
    use Machine::{Microvm, Pc, Q35, Virt};
    for (words, machine, transport, interrupts) in [
        ("", Q35, Transport::PciModern, Msix),
        ("--transport pci-legacy", Q35, Transport::PciLegacy, Msix),
        ("--transport mmio", Microvm, Transport::Mmio, Intx),
        (
            "--transport mmio-legacy",
            Microvm,
            Transport::MmioLegacy,
            Intx,
        ),
        ("--machine microvm", Microvm, Transport::Mmio, Intx),
        ("--machine pc", Pc, Transport::PciModern, Msix),
        (
            "--arch riscv64 --transport mmio",
            Virt,
            Transport::Mmio,
            Intx,
        ),
        (
            "--transport mmio --interrupts poll",
            Microvm,
            Transport::Mmio,
            Poll,
        ),
    ] {
        let (attach, _) = attach(words).unwrap();
        let seen = (attach.machine, attach.transport, attach.interrupts);
        assert_eq!(seen, (machine, transport, interrupts), "{words}");
    }
}

#[test]
fn what_does_not_go_together_is_refused_with_what_does() {
    for (words, advice) in [
        ("--machine q35 --transport mmio", "--machine microvm"),
        ("--machine pc --transport mmio-legacy", "--machine microvm"),
        ("--machine microvm --transport pci-modern", "--machine q35"),
        (
            "--machine microvm --transport pci-legacy",
            "--transport mmio",
        ),
        ("--transport mmio --interrupts msix", "--interrupts intx"),
        (
            "--transport pci-window --interrupts intx",
            "--interrupts msix",
        ),
        (
            "--transport pci-window --registers counted",
            "another --transport",
        ),
        ("--transport pci-window --batches 64", "another --transport"),
        ("--transport pci-legacy --nic modern", "--nic transitional"),
        ("--transport mmio --nic modern", "--transport mmio"),
        ("--transport pci-legacy --bars kernel", "pci-window"),
        ("--transport mmio --bars kernel", "--transport pci-modern"),
        ("--transport mmio --pci-stack own", "--transport pci-modern"),
        ("--transport pci-legacy --queue-size 64", "256, 512 or 1024"),
        (
            "--transport pci-legacy --features +in_order",
            "leave it out",
        ),
        (
            "--transport mmio-legacy --features +ring_reset",
            "leave it out",
        ),
        (
            "--transport pci-legacy --ring packed --vhost off",
            "leave it out",
        ),
    ] {
        match attach(words) {
            Err(Stop::Usage(text)) => assert!(text.contains(advice), "{words}: {text}"),
            other => panic!("{words}: {other:?}"),
        }
    }
    match attach("--transport mmio --features +ring_reset") {
        Err(Stop::Missing { fix, .. }) => assert!(fix.contains("pci-modern"), "{fix}"),
        other => panic!("{other:?}"),
    }
    assert!(Cli::try_parse_from(["qemu", "--transport", "ccw"]).is_err());
}

#[test]
fn a_card_has_the_interfaces_that_it_is_driven_by() {
    for (words, model, property) in [
        ("", "virtio-net-pci", Some("disable-legacy=on")),
        (
            "--transport pci-legacy",
            "virtio-net-pci",
            Some("disable-legacy=off,disable-modern=on"),
        ),
        (
            "--transport pci-legacy --nic transitional",
            "virtio-net-pci",
            Some("disable-legacy=off,disable-modern=off"),
        ),
        (
            "--transport pci-ports",
            "virtio-net-pci",
            Some("modern-pio-notify=on"),
        ),
        ("--transport mmio", "virtio-net-device", None),
    ] {
        let (attach, _) = attach(words).unwrap();
        assert_eq!(attach.model(), model, "{words}");
        let properties = attach.properties();
        match property {
            Some(property) => assert!(properties.iter().any(|p| p == property), "{properties:?}"),
            None => assert!(properties.is_empty(), "{properties:?}"),
        }
        assert_eq!(attach.arguments().is_empty(), attach.transport.is_pci());
    }
}

#[test]
fn queues_are_not_reset_over_mmio() {
    let refused = |words: &str| attach(words).unwrap().1.refuse;
    assert_eq!(refused("--transport mmio"), ["VIRTIO_F_RING_RESET"]);
    assert_eq!(
        refused("--transport mmio --features -ring_reset"),
        ["VIRTIO_F_RING_RESET"]
    );
    assert!(refused("").is_empty());
}

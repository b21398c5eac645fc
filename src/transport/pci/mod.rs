//! virtio over PCI (VIRTIO 1.4, 4.1).

//! The registers of a legacy device, in a model that judges each access.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use vring::transport::pci::Area;
use vring::transport::{Doorbell, Isr};

/// An access: offset, width, and the value of a write.
pub type Access = (usize, u16, Option<u32>);

/// The registers of a legacy device, and whether MSI-X is on, which moves some.
pub struct Model {
    pub offered: u32,
    pub accepted: u32,
    pub select: u16,
    pub sizes: Vec<u16>,
    pub frames: Vec<u32>,
    pub vectors: Vec<u16>,
    pub config_vector: u16,
    pub vector_room: u16,
    pub status: u8,
    pub isr: u8,
    pub config: Vec<u8>,
    pub msix: bool,
    pub forgets_frames: bool,
    pub log: Vec<Access>,
    pub rings: Vec<u16>,
}

impl Model {
    pub fn queue(&self) -> Option<usize> {
        let queue = usize::from(self.select);
        (queue < self.sizes.len()).then_some(queue)
    }

    pub fn config_at(&self, at: usize) -> usize {
        at - if self.msix { 24 } else { 20 }
    }

    pub fn read(&mut self, at: usize, width: u16) -> u32 {
        self.log.push((at, width, None));
        let of = |table: &[u16], queue: Option<usize>| queue.map_or(0, |q| table[q]);
        match (at, width) {
            (0, 4) => self.offered,
            (8, 4) => self.queue().map_or(0, |q| self.frames[q]),
            (12, 2) => of(&self.sizes, self.queue()).into(),
            (18, 1) => self.status.into(),
            (19, 1) => std::mem::take(&mut self.isr).into(),
            (20, 2) if self.msix => self.config_vector.into(),
            (22, 2) if self.msix => of(&self.vectors, self.queue()).into(),
            (20.., _) => {
                let at = self.config_at(at);
                let mut bytes = [0; 4];
                for (i, byte) in bytes.iter_mut().take(width.into()).enumerate() {
                    *byte = self.config.get(at + i).copied().unwrap_or(0xff);
                }
                u32::from_le_bytes(bytes)
            }
            _ => panic!("a read of {width} bytes at {at}"),
        }
    }

    pub fn write(&mut self, at: usize, width: u16, value: u32) {
        self.log.push((at, width, Some(value)));
        let room = self.vector_room;
        let assign = |vector: u32| {
            if vector < room.into() {
                vector as u16
            } else {
                0xffff
            }
        };
        match (at, width) {
            (4, 4) => self.accepted = value,
            (8, 4) => {
                let queue = self.queue().expect("a queue that does not exist");
                if !self.forgets_frames {
                    self.frames[queue] = value;
                }
            }
            (14, 2) => self.select = value as u16,
            (16, 2) => self.rings.push(value as u16),
            (18, 1) if value == 0 => {
                self.status = 0;
                self.accepted = 0;
                self.frames.fill(0);
                self.vectors.fill(0xffff);
                self.config_vector = 0xffff;
            }
            (18, 1) => self.status = value as u8,
            (20, 2) if self.msix => self.config_vector = assign(value),
            (22, 2) if self.msix => {
                let queue = self.queue().expect("a queue that does not exist");
                self.vectors[queue] = assign(value);
            }
            (20.., _) => {
                let at = self.config_at(at);
                let bytes = &value.to_le_bytes()[..width.into()];
                self.config[at..at + bytes.len()].copy_from_slice(bytes);
            }
            _ => panic!("a write of {width} bytes at {at}"),
        }
    }
}

#[derive(Clone)]
pub struct Legacy {
    pub id: usize,
    pub len: usize,
    pub model: Arc<Mutex<Model>>,
}

static NEXT: AtomicUsize = AtomicUsize::new(0);
static LIVING: Mutex<Vec<Legacy>> = Mutex::new(Vec::new());

pub fn of_context(id: usize) -> Legacy {
    let living = LIVING.lock().unwrap();
    living
        .iter()
        .find(|legacy| legacy.id == id)
        .unwrap()
        .clone()
}

impl Legacy {
    pub fn new() -> Self {
        let model = Model {
            offered: 1 << 28 | 1 << 5,
            accepted: 0,
            select: 0,
            sizes: vec![256, 128],
            frames: vec![0; 2],
            vectors: vec![0xffff; 2],
            config_vector: 0xffff,
            vector_room: 2048,
            status: 0,
            isr: 0,
            config: (1..=8).collect(),
            msix: false,
            forgets_frames: false,
            log: Vec::new(),
            rings: Vec::new(),
        };
        let legacy = Self {
            id: NEXT.fetch_add(1, Ordering::Relaxed),
            len: 32,
            model: Arc::new(Mutex::new(model)),
        };
        LIVING.lock().unwrap().push(legacy.clone());
        legacy
    }

    pub fn model(&self) -> MutexGuard<'_, Model> {
        self.model
            .try_lock()
            .expect("the model is held by the test")
    }

    /// The writes since this was last asked.
    pub fn writes(&self) -> Vec<Access> {
        let mut log = std::mem::take(&mut self.model().log);
        log.retain(|access| access.2.is_some());
        log
    }
}

// SAFETY: the device is a model, and uses no memory.
unsafe impl Area for Legacy {
    fn size(&self) -> usize {
        self.len
    }
    fn is_aligned_to(&self, _: usize) -> bool {
        true
    }
    fn read8(&self, offset: usize) -> u8 {
        self.model().read(offset, 1) as u8
    }
    fn read16(&self, offset: usize) -> u16 {
        self.model().read(offset, 2) as u16
    }
    fn read32(&self, offset: usize) -> u32 {
        self.model().read(offset, 4)
    }
    fn write8(&self, offset: usize, value: u8) {
        self.model().write(offset, 1, value.into());
    }
    fn write16(&self, offset: usize, value: u16) {
        self.model().write(offset, 2, value.into());
    }
    fn write32(&self, offset: usize, value: u32) {
        self.model().write(offset, 4, value);
    }
    fn doorbell(&self, offset: usize, value: u16) -> Option<Doorbell> {
        assert_eq!(offset, 16);
        let ring = |id, value| of_context(id).model().write(16, 2, value);
        Some(Doorbell::function(ring, self.id, value))
    }
    fn doorbell_with_data(&self, _: usize, _: u16) -> Option<Doorbell> {
        panic!("a legacy device is not told the position");
    }
    fn isr(&self, offset: usize) -> Option<Isr> {
        assert_eq!(offset, 19);
        let read = |id| of_context(id).model().read(19, 1) as u8;
        Some(Isr::function(read, self.id))
    }
}

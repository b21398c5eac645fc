//! A card of which every completion is asked for: questions go out, and answers are waited for in
//! the way that an exercise chooses.

use alloc::boxed::Box;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec;
use core::time::Duration;

use guest_services::Config;
use vring::buffer::Window;
use vring::device::net::{Driver, Options as DriverOptions};
use vring::features::Feature;
use vring::transport::pci::{Address, PciTransport};
use vring_protocol::{Event, Options};

use super::super::arp::{FRAME, is_answer, question};
use super::super::net::{HEADER, LOCAL_MAC, QUEUES, facts};
use crate::kernel::device_interrupts::{DeviceInterrupts, Sharing};
use crate::kernel::platform::Identity;
use crate::kernel::{Machine, clock, pci};
use crate::report::event;

/// How long anything may take on a host that is busy.
pub(super) const PATIENCE: Duration = Duration::from_secs(20);

/// How a card interrupts.
#[derive(Clone, Copy, Debug)]
pub(super) enum How {
    /// By messages.
    Messages(Sharing),
    /// By its line.
    Line,
    /// Not at all.
    Poll,
}

/// A card, its buffers with the device.
pub(super) struct Card {
    driver: Driver<Identity, PciTransport, Box<[u8]>>,
    pub(super) interrupts: DeviceInterrupts,
    pub(super) address: Address,
    config: Config,
    question: [u8; FRAME],
    /// Questions that were answered.
    pub(super) answers: u32,
}

/// The modern transport of the function.
pub(super) fn transport(machine: &Machine, address: Address) -> Result<PciTransport, String> {
    let map = |address, len| pci::map_registers(machine, address, len);
    PciTransport::new(&machine.pci, address, map).map_err(|why| why.to_string())
}

/// What every driver of this suite asks for, interrupts aside.
pub(super) fn wanted(options: &Options) -> Result<DriverOptions, String> {
    let mut wanted = DriverOptions::default();
    wanted.receive_size = options.queue_size;
    wanted.transmit_size = options.queue_size;
    wanted.refuse = facts::by_name(&options.refuse)?;
    Ok(wanted)
}

impl Card {
    /// Drives the card at this address.
    pub(super) fn start(
        machine: &Machine,
        address: Address,
        how: How,
        options: &Options,
    ) -> Result<Self, String> {
        let mut transport = transport(machine, address)?;
        let interrupts = match how {
            How::Messages(sharing) => {
                DeviceInterrupts::msix(machine, &mut transport, QUEUES, sharing)
            }
            How::Line => DeviceInterrupts::intx(machine, &mut transport),
            How::Poll => Ok(DeviceInterrupts::poll()),
        };
        let interrupts = interrupts.map_err(|why| why.to_string())?;
        let mut wanted = wanted(options)?;
        // Queues are not reset here, which the driver may not know.
        wanted.require = facts::by_name(&options.require)?.without(Feature::RING_RESET);
        wanted.receive_vector = interrupts.queue_vector(0);
        wanted.transmit_vector = interrupts.queue_vector(1);
        wanted.config_vector = interrupts.config_vector();
        let driver = Driver::new(Identity, transport, wanted);
        let mut driver = driver.map_err(|error| error.why.to_string())?;
        let (rx, _, control) = driver.parts();
        let mac = control.mac().unwrap_or(LOCAL_MAC);
        let config = Config::new(mac, options).ok_or("addresses that are no IPv4")?;
        let len = rx.buffer_len();
        let mut buffers = core::iter::repeat_with(|| vec![0; len].into_boxed_slice());
        rx.refill(&mut buffers)
            .map_err(|error| format!("{:?}", error.why))?;
        Ok(Self {
            driver,
            interrupts,
            address,
            config,
            question: question(mac, &config),
            answers: 0,
        })
    }

    /// Sends so many questions with one kick, and takes the buffers of earlier ones back.
    pub(super) fn ask(&mut self, count: u32) -> Result<(), String> {
        let tx = self.driver.tx();
        tx.reclaim(drop).map_err(|fault| fault.to_string())?;
        for _ in 0..count {
            let mut bytes = vec![0; HEADER + FRAME].into_boxed_slice();
            bytes[HEADER..].copy_from_slice(&self.question);
            tx.transmit(Window::new(bytes, HEADER, FRAME))
                .map_err(|error| format!("{:?}", error.why))?;
        }
        tx.kick();
        Ok(())
    }

    /// Takes what has come, and gives the buffers back; how many answers there were.
    pub(super) fn poll(&mut self) -> Result<u32, String> {
        let rx = self.driver.rx();
        let (mut answers, mut frames) = (0, 0);
        while let Some(frame) = rx.receive().map_err(|fault| fault.to_string())? {
            frames += 1;
            answers += u32::from(is_answer(frame.as_slice(), &self.config));
            rx.give(frame.into_memory())
                .map_err(|(_, why)| format!("{why:?}"))?;
        }
        if frames > 0 {
            rx.kick();
        }
        self.answers += answers;
        Ok(answers)
    }

    /// Asks for an interrupt at the next frame; true when there is one already.
    pub(super) fn arm(&mut self) -> bool {
        self.driver.rx().arm()
    }

    /// Asks for no interrupts.
    pub(super) fn disarm(&mut self) {
        self.driver.rx().disarm();
    }

    /// Asks for an interrupt with no answer under way. A frame of somebody else's that is there is
    /// taken, and it is asked again.
    pub(super) fn arm_at_rest(&mut self) -> Result<(), String> {
        let until = clock::now() + PATIENCE;
        while clock::now() < until {
            self.interrupts.take();
            if !self.arm() {
                return Ok(());
            }
            self.disarm();
            if self.poll()? > 0 {
                return Err("an answer before the question".to_string());
            }
        }
        Err(format!("frames that nobody asked for, for {PATIENCE:?}"))
    }

    /// Sleeps until so many answers have come: poll, arm, look again, halt. What ends the sleep is an
    /// interrupt: an answer that comes without one is an error, however soon a look would find it.
    pub(super) fn sleep_for(&mut self, answers: u32) -> Result<(), String> {
        let until = clock::now() + PATIENCE;
        let mut seen = 0;
        loop {
            self.interrupts.take();
            seen += self.poll()?;
            if seen >= answers {
                return Ok(());
            }
            if clock::now() > until {
                return Err(format!("{seen} of {answers} answers in {PATIENCE:?}"));
            }
            if !self.arm() {
                self.sleep(until)?;
            }
            self.disarm();
        }
    }

    /// Halts until there is an interrupt, which has to come.
    pub(super) fn sleep(&mut self, until: Duration) -> Result<(), String> {
        if self.interrupts.wait(until) {
            self.interrupts.take();
            return Ok(());
        }
        let what = if self.interrupts.take() {
            "an interrupt that did not end the halt"
        } else {
            "no interrupt"
        };
        let missed = self.poll()?;
        Err(format!(
            "{what} by the deadline, {PATIENCE:?} at most; a look then found {missed} answers"
        ))
    }

    /// Takes so many answers without a thought of interrupts.
    pub(super) fn spin_for(&mut self, answers: u32) -> Result<(), String> {
        let until = clock::now() + PATIENCE;
        let mut seen = 0;
        loop {
            seen += self.poll()?;
            if seen >= answers {
                return Ok(());
            }
            if clock::now() > until {
                return Err(format!("{seen} of {answers} answers in {PATIENCE:?}"));
            }
            core::hint::spin_loop();
        }
    }

    /// So many questions, each after the last one's answer, which was slept for.
    pub(super) fn converse(&mut self, rounds: u32) -> Result<(), String> {
        for _ in 0..rounds {
            self.ask(1)?;
            self.sleep_for(1)?;
        }
        Ok(())
    }

    /// Has a conversation, and waits until the device has nothing left to tell: of the first frame that
    /// is out it tells whatever the event index says, and of the last answer perhaps when it is taken
    /// already. Frames that nobody asked for are taken, too.
    pub(super) fn settle(&mut self) -> Result<(), String> {
        self.ask(1)?;
        self.spin_for(1)?;
        self.disarm();
        clock::pause(Duration::from_millis(20));
        let answers = self.poll()?;
        if answers > 0 {
            return Err(format!("{answers} answers too many"));
        }
        let reclaimed = self.driver.tx().reclaim(drop);
        reclaimed.map(drop).map_err(|fault| fault.to_string())
    }

    /// The driver.
    pub(super) fn driver(&mut self) -> &mut Driver<Identity, PciTransport, Box<[u8]>> {
        &mut self.driver
    }

    /// Doorbell stores of both queues.
    pub(super) fn kicks(&mut self) -> u64 {
        self.driver.rx().counters().kicks + self.driver.tx().counters().kicks
    }

    /// Tells the harness what the interrupts came to.
    pub(super) fn tell(&self, exercise: &str) {
        let unclaimed = self.interrupts.vectors().into_iter();
        event(&Event::Interrupts {
            exercise: exercise.into(),
            device: self.address.to_string(),
            answers: self.answers,
            queues: self.interrupts.queue_count(),
            config: self.interrupts.config_count(),
            foreign: self.interrupts.foreign_count(),
            unclaimed: unclaimed.map(|vector| vector.unclaimed()).sum(),
        });
    }

    /// Resets the card. Every buffer has to come back.
    pub(super) fn stop(self) -> Result<(), String> {
        let mut driver = self.driver;
        let outstanding = driver.rx().outstanding() + driver.tx().outstanding();
        let mut returned = 0;
        let reset = driver.shutdown(|_, _| returned += 1);
        reset.map_err(|(_, why)| why.to_string())?;
        if returned != outstanding {
            return Err(format!("{returned} of {outstanding} buffers came back"));
        }
        Ok(())
    }
}

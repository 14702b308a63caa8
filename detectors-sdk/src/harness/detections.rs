//! Reads the detections that an instance has packed.

use crate::{Detection, Direction};

/// A detection with ids for names. Its `about` and `members` are empty.
pub(crate) struct RawDetection {
    pub(crate) row: u32,
    pub(crate) owner: u32,
    pub(crate) about: u32,
    pub(crate) members: Vec<u32>,
    pub(crate) detection: Detection,
}

/// Returns the detections that are packed in these bytes. The SDK has packed them, so they are whole.
pub(crate) fn unpack(packed: &[u8]) -> Vec<RawDetection> {
    let mut unread = Unread(packed);
    let mut detections = Vec::new();
    while !unread.0.is_empty() {
        let [row, owner, about] = [(); 3].map(|()| unread.u32());
        let confidence = unread.f64();
        let direction = match unread.take::<1>() {
            [0] => Direction::Up,
            [1] => Direction::Down,
            _ => Direction::None,
        };
        let members = (0..u16::from_le_bytes(unread.take())).map(|_| unread.u32()).collect();
        let [count] = unread.take();
        let evidence = (0..count).map(|_| (unread.name(), unread.f64())).collect();
        let detection = Detection { confidence, direction, evidence, about: None, members: Vec::new() };
        detections.push(RawDetection { row, owner, about, members, detection });
    }
    detections
}

struct Unread<'a>(&'a [u8]);

impl Unread<'_> {
    fn take<const N: usize>(&mut self) -> [u8; N] {
        let (taken, rest) = self.0.split_first_chunk().expect("the SDK packs whole detections");
        self.0 = rest;
        *taken
    }

    fn u32(&mut self) -> u32 {
        u32::from_le_bytes(self.take())
    }

    fn f64(&mut self) -> f64 {
        f64::from_le_bytes(self.take())
    }

    fn name(&mut self) -> String {
        let [length] = self.take();
        let (name, rest) = self.0.split_at(usize::from(length));
        self.0 = rest;
        String::from_utf8_lossy(name).into_owned()
    }
}

//! A worker's free frames.

use crate::frame::Frame;
use crate::pipeline::FrameSource;

/// Frames that nobody uses.
#[derive(Debug, Default)]
pub struct FramePool {
    free: Vec<Frame>,
}

impl FramePool {
    /// A pool of these frames.
    pub fn new(free: Vec<Frame>) -> Self {
        Self { free }
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.free.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.free.is_empty()
    }

    /// Takes one back.
    pub fn put(&mut self, frame: Frame) {
        self.free.push(frame);
    }

    /// Takes several back.
    pub fn put_all(&mut self, frames: &mut Vec<Frame>) {
        self.free.append(frames);
    }

    /// The frames, in the order in which they will be taken, from the last to the first.
    pub fn frames_mut(&mut self) -> &mut Vec<Frame> {
        &mut self.free
    }
}

impl FrameSource for FramePool {
    fn take(&mut self) -> Option<Frame> {
        self.free.pop()
    }
}

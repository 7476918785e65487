//! A worker's free frames.

use crate::frame::Frame;
use crate::pipeline::FrameSource;

/// Frames that nobody uses.
#[derive(Debug, Default)]
pub struct FramePool {
    free: Vec<Frame>,
    large: Vec<Frame>,
}

impl FramePool {
    /// A pool of these frames.
    pub fn new(frames: Vec<Frame>) -> Self {
        let (large, free) = frames.into_iter().partition(Frame::is_large);
        Self { free, large }
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.free.len() + self.large.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.free.is_empty() && self.large.is_empty()
    }

    /// Takes one back.
    pub fn put(&mut self, frame: Frame) {
        if frame.is_large() { self.large.push(frame) } else { self.free.push(frame) }
    }

    /// Takes several back.
    pub fn put_all(&mut self, frames: &mut Vec<Frame>) {
        frames.drain(..).for_each(|frame| self.put(frame));
    }

    /// The frames, in the order in which they will be taken, from the last to the first: large ones, or the others.
    pub fn frames_mut(&mut self, large: bool) -> &mut Vec<Frame> {
        if large { &mut self.large } else { &mut self.free }
    }

    /// Takes a large one.
    pub fn take_large(&mut self) -> Option<Frame> {
        self.large.pop()
    }
}

impl FrameSource for FramePool {
    fn take(&mut self) -> Option<Frame> {
        self.free.pop()
    }

    fn take_for(&mut self, octets: usize) -> Option<Frame> {
        let fits = self.free.last().is_some_and(|frame| frame.chunk().len() >= octets);
        if fits { self.take() } else { self.take_large().or_else(|| self.take()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::LARGE_FRAME;

    #[test]
    fn a_frame_is_as_large_as_what_it_is_for_if_there_is_one() {
        let (small, large) = (|| Frame::leaked(4096, 0), || Frame::leaked(LARGE_FRAME, 0));
        let mut pool = FramePool::new(vec![large(), small()]);
        pool.put_all(&mut vec![large(), small(), small()]);
        assert_eq!((pool.len(), pool.frames_mut(true).len()), (5, 2));
        let mut taken = [4096, 4097, 9000, 9000].map(|octets| pool.take_for(octets).unwrap());
        assert_eq!(taken.each_ref().map(|frame| frame.is_large()), [false, true, true, false]);
        assert!(pool.take_large().is_none() && pool.take().is_some_and(|frame| !frame.is_large()));
        assert!(pool.is_empty() && pool.take_for(1).is_none());
        taken[1].set_range(0, 0).then_some(()).unwrap();
        pool.put_all(&mut taken.into());
        assert_eq!(pool.len(), 4);
    }
}

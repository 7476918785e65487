//! Runs the programs over a frame without sending it anywhere (`BPF_PROG_TEST_RUN`): for packet traces, and for
//! the tests. Trials are counted like packets.

use aya::programs::{ProgramError, TestRun, TestRunOptions};
use portcullis_ebpf_common::Disposition;

/// `XDP_*` of `linux/bpf.h`.
const XDP_DROP: u32 = 1;
const XDP_PASS: u32 = 2;
const XDP_REDIRECT: u32 = 4;
/// `TC_ACT_UNSPEC` of `linux/pkt_cls.h`: on to the next program.
const TC_ACT_UNSPEC: u32 = u32::MAX;
const TC_ACT_SHOT: u32 = 2;

/// `struct xdp_md`: data, data_end, data_meta, ingress_ifindex, rx_queue_index, egress_ifindex.
const XDP_MD_WORDS: usize = 6;
/// `struct __sk_buff`.
const SK_BUFF_LEN: usize = 192;
const SK_BUFF_IFINDEX: usize = 40;

/// A frame could not be tried.
#[derive(Debug, thiserror::Error)]
pub enum TrialError {
    /// The kernel could not run it: the frame is shorter than an Ethernet header, or the interface has no XDP
    /// program attached.
    #[error("the kernel cannot try this frame on this interface")]
    Kernel(#[source] Box<ProgramError>),
    /// A result that the programs do not have.
    #[error("the program returned {0}")]
    UnknownResult(u32),
}

pub(super) fn ingress<P>(
    program: &P,
    ifindex: u32,
    queue: u32,
    frame: &[u8],
) -> Result<Disposition, TrialError>
where
    P: for<'a> TestRun<Opts<'a> = TestRunOptions<'a>, Result = aya::programs::TestRunResult>,
{
    let length = frame.len() as u32;
    let context: [u32; XDP_MD_WORDS] = [0, length, 0, ifindex, queue, 0];
    let context: Vec<u8> = context.into_iter().flat_map(u32::to_ne_bytes).collect();
    match run(program, &context, frame)? {
        XDP_PASS => Ok(Disposition::Pass),
        XDP_REDIRECT => Ok(Disposition::Redirect),
        XDP_DROP => Ok(Disposition::Drop),
        other => Err(TrialError::UnknownResult(other)),
    }
}

pub(super) fn egress<P>(program: &P, ifindex: u32, frame: &[u8]) -> Result<Disposition, TrialError>
where
    P: for<'a> TestRun<Opts<'a> = TestRunOptions<'a>, Result = aya::programs::TestRunResult>,
{
    let mut context = vec![0; SK_BUFF_IFINDEX];
    context.extend(ifindex.to_ne_bytes());
    context.resize(SK_BUFF_LEN, 0);
    match run(program, &context, frame)? {
        TC_ACT_UNSPEC => Ok(Disposition::Pass),
        TC_ACT_SHOT => Ok(Disposition::Drop),
        other => Err(TrialError::UnknownResult(other)),
    }
}

fn run<P>(program: &P, context: &[u8], frame: &[u8]) -> Result<u32, TrialError>
where
    P: for<'a> TestRun<Opts<'a> = TestRunOptions<'a>, Result = aya::programs::TestRunResult>,
{
    let options = TestRunOptions { data_in: Some(frame), ctx_in: Some(context), ..TestRunOptions::new() };
    let result = program.test_run(options).map_err(|e| TrialError::Kernel(Box::new(e)))?;
    Ok(result.return_value)
}

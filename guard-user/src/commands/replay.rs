//! `trainguard replay`: evaluates the frames of a capture, on the host or in the kernel.

use std::{
    fs::File,
    io::{self, Read},
    ops::ControlFlow,
    path::Path,
};

use guard_common::{Addr, Packet as _, packet::Fields as _, wire};

use super::shared::{
    backends::{self, Backends, CapturedBytes, Clock},
    load::{self, Offline},
};
use crate::{
    capture::{self, Captured},
    cli::ReplayArgs,
    exit::Exit,
    output,
    report::{
        progress::Progress,
        replay::{Summary, source},
    },
    system_error::SystemError,
};

/// Runs `trainguard replay`.
pub fn run(args: &ReplayArgs) -> Exit {
    let Some(offline) = load::prepare(&args.node) else { return Exit::NoAnswer };
    let mut length = None;
    let input: Box<dyn Read> = if args.capture == Path::new("-") {
        Box::new(io::stdin().lock())
    } else {
        match File::open(&args.capture) {
            Ok(file) => {
                // A named pipe has no length.
                length = file.metadata().ok().map(|data| data.len()).filter(|length| *length > 0);
                Box::new(file)
            }
            Err(error) => {
                output::error(format_args!("cannot open `{}`: {error}", args.capture.display()));
                return Exit::NoAnswer;
            }
        }
    };
    let tables = offline.policy.host();
    let kernel = match args.kernel.then(|| backends::in_kernel(&offline.policy)).transpose() {
        Ok(kernel) => kernel,
        Err(error) => return refuse(&error),
    };
    let backends = Backends::new(&tables, kernel);
    let mut summary = Summary::new(&offline.loaded, &offline.policy, args.format);
    let progress = Progress::new(length, args.format);
    let result = replay(args, progress.of(input), &offline, &backends, &mut summary);
    progress.finish();
    if summary.frames() > 0 {
        summary.finish();
    }
    match result {
        Err(Failure::Capture(error)) => {
            output::error(format_args!("`{}`: {error}", args.capture.display()));
            Exit::NoAnswer
        }
        Err(Failure::Kernel(error)) => refuse(&error),
        Ok(()) if summary.frames() == 0 => {
            output::error(if args.received && summary.left_out > 0 {
                "no frame of the capture is addressed to this node"
            } else {
                "the capture has no frames"
            });
            Exit::NoAnswer
        }
        Ok(()) if summary.evaluated() == 0 => {
            output::error("the capture cut every frame too short to be evaluated");
            output::hint("raise the snap length of the capture (tcpdump -s 0)");
            Exit::NoAnswer
        }
        Ok(()) => Exit::Yes,
    }
}

fn refuse(error: &SystemError) -> Exit {
    output::system_error(error);
    Exit::NoAnswer
}

enum Failure {
    Capture(capture::CaptureError),
    Kernel(SystemError),
}

fn replay(
    args: &ReplayArgs,
    input: impl Read,
    offline: &Offline,
    backends: &Backends<'_>,
    summary: &mut Summary<'_>,
) -> Result<(), Failure> {
    let mut failed = None;
    let further = args.own.iter().map(|addr| Addr::from(*addr));
    let own: Vec<Addr> = offline.addresses.iter().copied().chain(further).collect();
    let mut clock = Clock::default();
    let read = capture::read(input, |frame| {
        let now_ns = clock.at(frame.time_ns);
        let is_elsewhere = !is_received(&frame, &own);
        if args.received && is_elsewhere {
            summary.left_out += 1;
            return ControlFlow::Continue(());
        }
        match backends.evaluate(&frame, now_ns) {
            Ok(found) => {
                // Frames that the node itself sent are no frames to forward.
                let sent_here =
                    found.parsed.and_then(source).is_some_and(|addr| own.contains(&addr));
                summary.elsewhere += u64::from(is_elsewhere && !sent_here && is_ip(&frame));
                summary.add(&frame, &found)
            }
            Err(error) => {
                failed = Some(error);
                ControlFlow::Break(())
            }
        }
    });
    match (failed, read) {
        (Some(error), _) => Err(Failure::Kernel(error)),
        (None, Ok(_)) => Ok(()),
        (None, Err(error)) => Err(Failure::Capture(error)),
    }
}

/// Reports whether a frame is for a host with these addresses: sent to one of them, or to a group.
/// Also true if the capture cut the frame before its destination address, so that the frame is
/// reported as truncated.
fn is_received(frame: &Captured<'_>, addresses: &[Addr]) -> bool {
    // The lowest bit of the first octet marks a group address (IEEE 802).
    if frame.bytes.first().is_some_and(|first| first & 1 != 0) {
        return true;
    }
    let kept = CapturedBytes::of(frame);
    let destination = destination(&kept);
    kept.is_short.get() || destination.is_some_and(|addr| addresses.contains(&addr))
}

/// Reports whether the frame has a destination address.
fn is_ip(frame: &Captured<'_>) -> bool {
    destination(&CapturedBytes::of(frame)).is_some()
}

fn destination(frame: &CapturedBytes<'_>) -> Option<Addr> {
    let mut at = wire::ETHERTYPE_AT;
    let mut ethertype = frame.read::<2>(at)?.be16::<0>();
    while matches!(ethertype, wire::ETHERTYPE_VLAN | wire::ETHERTYPE_SERVICE_VLAN) {
        at = at.checked_add(wire::VLAN_TAG_LEN)?;
        ethertype = frame.read::<2>(at)?.be16::<0>();
    }
    // Offsets after the EtherType: 16 bytes into the IPv4 header, 24 into the IPv6 header.
    match ethertype {
        wire::ETHERTYPE_IPV4 => Some(Addr::V4(frame.read::<4>(at + 2 + 16)?.be32::<0>())),
        wire::ETHERTYPE_IPV6 => {
            let half = |at| frame.read::<8>(at).map(|half| half.be64::<0>());
            Some(Addr::V6([half(at + 2 + 24)?, half(at + 2 + 32)?]))
        }
        _ => None,
    }
}

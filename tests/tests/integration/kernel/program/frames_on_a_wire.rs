//! The corpus on a wire: each named frame is sent from one namespace to another, and the attached
//! program must count what the host decides.
//!
//! Test runs pass frames to the program directly. Here they come through a driver, with the tags,
//! lengths and buffers that it produces.

use std::{
    collections::BTreeMap,
    fs,
    os::fd::{AsFd as _, AsRawFd as _, OwnedFd},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use guard_common::Verdict;
use guard_tests::{
    backend::{Backend as _, Host, describe},
    node::WAIT_TIMEOUT,
    scenario::{self, Scenario},
    skip, text,
    wire::lab::{self, End, Lab},
    world::{self, data},
};
use nix::{
    ifaddrs::getifaddrs,
    sys::socket::{AddressFamily, MsgFlags, SockFlag, SockType, bind, send, socket},
};

/// Bytes of a frame besides its packet: the Ethernet header.
const ETHERNET: usize = 14;
const MTU: u32 = 9000;
/// Minimum number of frames in the corpus.
const AT_LEAST: u64 = 300;

/// Returns the frames of the corpus by world. Worlds with limits are left out, because the timing of a
/// wire cannot be controlled.
fn by_world() -> BTreeMap<String, Vec<Vec<u8>>> {
    let mut worlds: BTreeMap<String, Vec<Vec<u8>>> = BTreeMap::new();
    for entry in fs::read_dir(data("corpus")).expect("the corpus") {
        let path = entry.expect("an entry").path();
        if path.extension().is_none_or(|extension| extension != "yaml") {
            continue;
        }
        let without_limits = |scenario: &Scenario| !scenario.world.starts_with("limits");
        for scenario in scenario::read(&path).into_iter().filter(without_limits) {
            let frames = scenario.frames.iter().map(|sent| {
                text::frame(&sent.send).unwrap_or_else(|error| panic!("{}: {error}", scenario.name))
            });
            worlds.entry(scenario.world.clone()).or_default().extend(frames);
        }
    }
    worlds
}

/// Opens a socket that sends complete frames out of a device.
fn frames_from(end: &End) -> Result<OwnedFd> {
    end.inside(|| {
        let mut devices = getifaddrs()?.filter(|entry| entry.interface_name == end.device);
        let address = devices.find_map(|entry| entry.address?.as_link_addr().copied());
        let fd = socket(AddressFamily::Packet, SockType::Raw, SockFlag::empty(), None)?;
        bind(fd.as_raw_fd(), &address.context("the address of the device")?)?;
        Ok(fd)
    })
}

/// Sends the frames of a world and compares the counts. Returns the number of frames.
fn evaluate(world: &str, frames: &[Vec<u8>]) -> Result<u64> {
    let policy = world::named(world).compile();
    let lab = Lab::new(MTU)?;
    let guard = lab.receiver.guard(&policy)?;
    let _link = lab.receiver.attach(guard.program().fd().as_fd())?;
    lab.up()?;
    let socket = frames_from(&lab.sender)?;
    let total = || -> Result<u64> { Ok(guard.counts()?.values().sum()) };
    // A device that has just been set up drops frames for a short time, without an error.
    let deadline = Instant::now() + WAIT_TIMEOUT;
    while total()? == 0 {
        ensure!(Instant::now() < deadline, "no frame comes through");
        send(socket.as_raw_fd(), &[0; 60], MsgFlags::empty())?;
        thread::sleep(Duration::from_millis(20));
    }
    let mut sent = total()?;
    let mut host = Host::new(&policy);
    let mut expected: BTreeMap<String, (Verdict, u64)> = BTreeMap::new();
    let first = host.evaluate(&[0; 60], 0);
    expected.insert(describe(&policy, first), (first, sent));
    for frame in frames {
        if !(ETHERNET..=MTU as usize + ETHERNET).contains(&frame.len()) {
            continue;
        }
        send(socket.as_raw_fd(), frame, MsgFlags::empty())?;
        let verdict = host.evaluate(frame, 0);
        expected.entry(describe(&policy, verdict)).or_insert((verdict, 0)).1 += 1;
        sent += 1;
        if sent % 64 == 0 {
            // The ring of the cable holds 256 frames.
            thread::sleep(Duration::from_millis(20));
        }
    }
    let deadline = Instant::now() + WAIT_TIMEOUT;
    while total()? < sent && Instant::now() < deadline {
        thread::sleep(Duration::from_millis(20));
    }
    for (name, (verdict, count)) in expected {
        let counted = guard.counted(verdict)?;
        assert_eq!(counted, count, "{world}: {name}; in all: {:?}", guard.counts()?);
    }
    assert_eq!(total()?, sent, "{world}: each frame is counted once");
    Ok(sent)
}

#[test]
fn named_frames_get_the_same_verdicts_on_a_wire() {
    let Some(()) = skip::kernel("named_frames_get_the_same_verdicts_on_a_wire") else { return };
    lab::enter().expect("mounts of our own");
    let sent: u64 = by_world()
        .iter()
        .map(|(world, frames)| {
            evaluate(world, frames).unwrap_or_else(|error| panic!("{world}: {error:#}"))
        })
        .sum();
    assert!(sent > AT_LEAST, "only {sent} frames");
}

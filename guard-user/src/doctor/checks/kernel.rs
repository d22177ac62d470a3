//! Checks of the kernel: its release, and the features that were tried.

use super::{Check, State, listed};
use crate::doctor::facts::{Attempt, KernelFeatures, MachineFacts, MaybeHidden, Rights};

/// The oldest release that the guard is expected to load on, as stated in the README.
const OLDEST_KERNEL: (u32, u32) = (6, 1);

pub(super) fn all(facts: &MachineFacts) -> Vec<Check> {
    let abilities = &facts.abilities;
    let rights = &facts.rights;
    let mut checks = vec![
        release(facts),
        self::rights(rights),
        maps(abilities, rights),
        tried("xdp", &abilities.xdp, rights, "an XDP program of two instructions loads")
            .unwrap_or_else(|check| check.fix("a kernel with CONFIG_BPF_SYSCALL and CONFIG_NET")),
        tried(
            "xdp-frags",
            &abilities.frags,
            rights,
            "programs for frames of several buffers (large MTUs) load",
        )
        .unwrap_or_else(|check| {
            check
                .why(
                    "at a large MTU a frame lies in several buffers; drivers refuse a program that \
                      was not loaded for that",
                )
                .fix("a kernel from 5.18 on")
        }),
        link(abilities, rights),
    ];
    checks.extend([guard(abilities, rights), jit(facts), lockdown(facts), unprivileged(facts)]);
    checks
}

/// Returns the first two numbers of a kernel release.
fn numbers(release: &str) -> Option<(u32, u32)> {
    let mut parts = release.split(['.', '-', '+']).map(str::parse);
    Some((parts.next()?.ok()?, parts.next()?.ok()?))
}

fn release(facts: &MachineFacts) -> Check {
    const ID: &str = "kernel";
    let kernel = &facts.kernel;
    let real_time = if kernel.version.contains("PREEMPT_RT") { ", PREEMPT_RT" } else { "" };
    let found = format!("Linux {} ({}){real_time}", kernel.release, kernel.architecture);
    match numbers(&kernel.release) {
        Some(found_numbers) if found_numbers < OLDEST_KERNEL => Check::new(
            ID,
            State::Warning,
            found,
        )
        .why(format!(
            "trainguard is expected to run from Linux {}.{} on; what this kernel can do is told \
                 below",
            OLDEST_KERNEL.0, OLDEST_KERNEL.1
        ))
        .fix("a newer kernel, if a check below fails"),
        _ => Check::ok(ID, found),
    }
}

fn rights(rights: &Rights) -> Check {
    const ID: &str = "rights";
    let missing = rights.missing();
    if missing.is_empty() {
        let found = format!("user {} has CAP_BPF, CAP_NET_ADMIN and CAP_PERFMON", rights.uid);
        return Check::ok(ID, found);
    }
    let found = format!("user {} lacks {}", rights.uid, listed(&missing));
    let why = "the daemon needs all three: to load programs, to attach them, and to let them \
               compute with packet pointers";
    if rights.uid == 0 {
        return Check::new(ID, State::Failed, found).why(why).fix(
            "add them where this container or unit is defined (`--cap-add`, `securityContext`, \
             `CapabilityBoundingSet=`)",
        );
    }
    Check::new(ID, State::Unknown, found)
        .why("what the kernel does for the daemon can only be tried with its rights")
        .fix("run doctor as root to see the rest")
}

/// Turns an attempt into a check. An attempt that lacked capabilities is `Unknown`; any other
/// failure is returned as the error, so that the caller can add the fix.
fn tried(id: &'static str, tried: &Attempt, rights: &Rights, done: &str) -> Result<Check, Check> {
    let Err(refusal) = tried else { return Ok(Check::ok(id, done)) };
    let forbidden = matches!(refusal.errno, Some(libc::EPERM | libc::EACCES));
    let missing = rights.missing();
    if forbidden && !missing.is_empty() {
        let found = format!("not tried without {}", listed(&missing));
        return Ok(Check::new(id, State::Unknown, found).fix("run doctor as root"));
    }
    Err(Check::new(id, State::Failed, refusal.message.as_str()))
}

fn maps(abilities: &KernelFeatures, rights: &Rights) -> Check {
    const ID: &str = "bpf-maps";
    let kinds: Vec<&str> = abilities.maps.iter().map(|(kind, _)| *kind).collect();
    let done = format!("maps of each kind can be made: {}", listed(&kinds));
    let first = abilities.maps.iter().find(|(_, made)| made.is_err());
    let made = first.map_or(Ok(()), |(_, made)| made.clone());
    tried(ID, &made, rights, &done).unwrap_or_else(|check| {
        check.why("the guard keeps its tables, counters and samples in such maps").fix(
            "a kernel from 5.8 on with CONFIG_BPF_SYSCALL; `bpf(2)` must not be filtered \
                  (seccomp) and memory must be allowed",
        )
    })
}

fn link(abilities: &KernelFeatures, rights: &Rights) -> Check {
    const ID: &str = "bpf-link";
    let KernelFeatures { has_namespace, native, generic, switch, .. } = abilities;
    if !has_namespace {
        return Check::new(
            ID,
            State::Unknown,
            "not tried: without CAP_SYS_ADMIN there is no network namespace to try it in",
        )
        .fix("run doctor as root on the host");
    }
    let whole = "links attach and switch programs (tried on a virtual device of MTU 9000: native and \
                 generic)";
    match (tried(ID, native, rights, whole), tried(ID, generic, rights, whole)) {
        (Ok(check), Ok(_)) if check.state != State::Ok => check,
        (Ok(check), Ok(_)) => tried(ID, switch, rights, whole).map_or_else(
            |check| {
                check
                    .why("a policy is changed by one switch of the link")
                    .fix("a kernel from 5.9 on")
            },
            |_| check,
        ),
        (Err(refused), Ok(_)) => {
            let mut check = refused;
            check.state = State::Warning;
            check
                .why(
                    "the virtual device's driver refuses; a real card's may not, its own checks \
                      below tell",
                )
                .fix("start the daemon with `--mode tcx`, before Linux 6.6 with `--mode generic`, where a \
                      driver refuses")
        }
        (_, Err(check)) => check
            .why("an attachment that is no link cannot outlive the daemon")
            .fix("a kernel from 5.9 on"),
    }
}

fn guard(abilities: &KernelFeatures, rights: &Rights) -> Check {
    const ID: &str = "guard-program";
    let Some(guard) = &abilities.guard else {
        return Check::new(ID, State::Failed, "this binary carries no kernel object")
            .why("it can check and trace policies, but guard nothing")
            .fix("install a released binary, or build one with `cargo xtask build`");
    };
    let check = tried(ID, guard, rights, "the guard itself loads, verifier and all");
    check.unwrap_or_else(|check| {
        check
            .why("the kernel refuses the program that guards; nothing can be guarded here")
            .fix("report it: `trainguard doctor --report FILE` writes what is needed, redacted")
    })
}

fn jit(facts: &MachineFacts) -> Check {
    const ID: &str = "jit";
    let compiled = match &facts.abilities.compiled {
        MaybeHidden::Known(0) if !facts.rights.missing().is_empty() => None,
        MaybeHidden::Known(bytes) => Some(*bytes),
        MaybeHidden::Hidden(_) => None,
    };
    let hardened = facts.kernel.jit_harden.known() == Some(&2);
    match compiled {
        None => Check::new(ID, State::Unknown, "whether programs are compiled is not told")
            .fix("run doctor as root"),
        Some(0) => Check::new(ID, State::Warning, "the kernel interprets BPF programs")
            .why("each packet costs several times as much")
            .fix("sysctl -w net.core.bpf_jit_enable=1"),
        Some(_) if hardened => Check::new(
            ID,
            State::Note,
            "BPF programs are compiled, and hardened for all (bpf_jit_harden = 2)",
        )
        .why("constants are blinded, which makes the program somewhat slower")
        .fix("sysctl -w net.core.bpf_jit_harden=1  # if that is a price you need not pay"),
        Some(_) => Check::ok(ID, "BPF programs are compiled"),
    }
}

fn lockdown(facts: &MachineFacts) -> Check {
    const ID: &str = "lockdown";
    let MaybeHidden::Known(text) = &facts.kernel.lockdown else {
        return Check::new(
            ID,
            State::Note,
            "not visible (securityfs is not mounted, or not for us)",
        )
        .why("whether it keeps the guard from loading is told by `guard-program`");
    };
    let chosen = text.split(['[', ']']).nth(1).unwrap_or(text.as_str());
    match chosen {
        "confidentiality" => {
            Check::new(ID, State::Note, "the kernel is locked down: confidentiality").why(
                "it forbids BPF programs to read kernel memory, which the guard does not; whether \
                  it loads is told by `guard-program`",
            )
        }
        "none" => Check::ok(ID, "the kernel is not locked down"),
        other => Check::ok(ID, format!("the kernel is locked down: {other}; BPF is not concerned")),
    }
}

fn unprivileged(facts: &MachineFacts) -> Check {
    const ID: &str = "unprivileged-bpf";
    match &facts.kernel.unprivileged_bpf_disabled {
        MaybeHidden::Known(0) => Check::new(ID, State::Warning, "any user may load BPF programs")
            .why("the verifier then stands alone between users and the kernel that guards you")
            .fix("sysctl -w kernel.unprivileged_bpf_disabled=2"),
        MaybeHidden::Known(_) => Check::ok(ID, "users without rights may not load BPF programs"),
        MaybeHidden::Hidden(why) => Check::new(ID, State::Note, format!("not visible: {why}")),
    }
}

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
            .unwrap_or_else(|check| check.fix("use a kernel with CONFIG_BPF_SYSCALL and CONFIG_NET")),
        tried(
            "xdp-frags",
            &abilities.frags,
            rights,
            "programs for frames in several buffers (large MTUs) load",
        )
        .unwrap_or_else(|check| {
            check
                .why(
                    "at a large MTU a frame is in several buffers; drivers refuse a program that was \
                      not loaded for such frames",
                )
                .fix("use Linux 5.18 or later")
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
            "trainguard is expected to run on Linux {}.{} or later; the checks below show what this \
             kernel supports",
            OLDEST_KERNEL.0, OLDEST_KERNEL.1
        ))
        .fix("use a newer kernel if a check below fails"),
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
    let why = "the daemon needs all three: to load programs, to attach them, and for arithmetic on \
               packet pointers";
    if rights.uid == 0 {
        return Check::new(ID, State::Failed, found).why(why).fix(
            "add them where this container or unit is defined (`--cap-add`, `securityContext`, \
             `CapabilityBoundingSet=`)",
        );
    }
    Check::new(ID, State::Unknown, found)
        .why("kernel features can only be tested with the capabilities of the daemon")
        .fix("run doctor as root to run the other checks")
}

/// Turns an attempt into a check. An attempt that lacked capabilities is `Unknown`; any other
/// failure is returned as the error, so that the caller can add the fix.
fn tried(id: &'static str, tried: &Attempt, rights: &Rights, done: &str) -> Result<Check, Check> {
    let Err(refusal) = tried else { return Ok(Check::ok(id, done)) };
    let forbidden = matches!(refusal.errno, Some(libc::EPERM | libc::EACCES));
    let missing = rights.missing();
    if forbidden && !missing.is_empty() {
        let found = format!("not tested, because {} is missing", listed(&missing));
        return Ok(Check::new(id, State::Unknown, found).fix("run doctor as root"));
    }
    Err(Check::new(id, State::Failed, refusal.message.as_str()))
}

fn maps(abilities: &KernelFeatures, rights: &Rights) -> Check {
    const ID: &str = "bpf-maps";
    let kinds: Vec<&str> = abilities.maps.iter().map(|(kind, _)| *kind).collect();
    let done = format!("maps of each type can be created: {}", listed(&kinds));
    let first = abilities.maps.iter().find(|(_, made)| made.is_err());
    let made = first.map_or(Ok(()), |(_, made)| made.clone());
    tried(ID, &made, rights, &done).unwrap_or_else(|check| {
        check.why("the guard keeps its tables, counters and samples in such maps").fix(
            "use Linux 5.8 or later with CONFIG_BPF_SYSCALL; seccomp must not filter `bpf(2)`, and \
                  the memory limit must allow the maps",
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
            "not tested: creating a network namespace for the test needs CAP_SYS_ADMIN",
        )
        .fix("run doctor as root on the host");
    }
    let whole = "links attach and replace programs (tested on a virtual device of MTU 9000, native and \
                 generic)";
    match (tried(ID, native, rights, whole), tried(ID, generic, rights, whole)) {
        (Ok(check), Ok(_)) if check.state != State::Ok => check,
        (Ok(check), Ok(_)) => tried(ID, switch, rights, whole).map_or_else(
            |check| {
                check
                    .why("a policy is changed by replacing the program of the link")
                    .fix("use Linux 5.9 or later")
            },
            |_| check,
        ),
        (Err(refused), Ok(_)) => {
            let mut check = refused;
            check.state = State::Warning;
            check
                .why(
                    "the driver of the virtual device refuses the program; for drivers of real cards, see \
                      the checks below",
                )
                .fix("if a driver refuses the program, start the daemon with `--mode tcx`, before Linux 6.6 \
                      with `--mode generic`")
        }
        (_, Err(check)) => check
            .why("without a link, the program would be detached when the daemon exits")
            .fix("use Linux 5.9 or later"),
    }
}

fn guard(abilities: &KernelFeatures, rights: &Rights) -> Check {
    const ID: &str = "guard-program";
    let Some(guard) = &abilities.guard else {
        return Check::new(ID, State::Failed, "this binary contains no kernel object")
            .why("it can check and trace policies, but not guard interfaces")
            .fix("install a released binary, or build one with `cargo xtask build`");
    };
    let check = tried(ID, guard, rights, "the guard itself loads and passes the verifier");
    check.unwrap_or_else(|check| {
        check
            .why("the kernel refuses the guard's program, so no interface can be guarded")
            .fix("report it, with the redacted output of `trainguard doctor --report FILE`")
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
        None => Check::new(ID, State::Unknown, "unknown whether programs are compiled")
            .fix("run doctor as root"),
        Some(0) => Check::new(ID, State::Warning, "the kernel interprets BPF programs")
            .why("each packet costs several times more CPU time")
            .fix("sysctl -w net.core.bpf_jit_enable=1"),
        Some(_) if hardened => Check::new(
            ID,
            State::Note,
            "BPF programs are compiled, and hardened for all users (bpf_jit_harden = 2)",
        )
        .why("constants are blinded, which makes the program somewhat slower")
        .fix("sysctl -w net.core.bpf_jit_harden=1  # if you do not need the hardening for root"),
        Some(_) => Check::ok(ID, "BPF programs are compiled"),
    }
}

fn lockdown(facts: &MachineFacts) -> Check {
    const ID: &str = "lockdown";
    let MaybeHidden::Known(text) = &facts.kernel.lockdown else {
        return Check::new(
            ID,
            State::Note,
            "not visible (securityfs is not mounted, or not readable)",
        )
        .why("the check `guard-program` shows whether lockdown prevents loading the guard");
    };
    let chosen = text.split(['[', ']']).nth(1).unwrap_or(text.as_str());
    match chosen {
        "confidentiality" => {
            Check::new(ID, State::Note, "the kernel is locked down: confidentiality").why(
                "it forbids BPF programs to read kernel memory, which the guard does not do; the \
                  check `guard-program` shows whether the guard loads",
            )
        }
        "none" => Check::ok(ID, "the kernel is not locked down"),
        other => {
            Check::ok(ID, format!("the kernel is locked down: {other}; this does not affect BPF"))
        }
    }
}

fn unprivileged(facts: &MachineFacts) -> Check {
    const ID: &str = "unprivileged-bpf";
    match &facts.kernel.unprivileged_bpf_disabled {
        MaybeHidden::Known(0) => Check::new(ID, State::Warning, "any user may load BPF programs")
            .why("then only the verifier protects the kernel against programs of any user")
            .fix("sysctl -w kernel.unprivileged_bpf_disabled=2"),
        MaybeHidden::Known(_) => Check::ok(ID, "unprivileged users may not load BPF programs"),
        MaybeHidden::Hidden(why) => Check::new(ID, State::Note, format!("not visible: {why}")),
    }
}

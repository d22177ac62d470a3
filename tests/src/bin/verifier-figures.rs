//! Figures of the verifier and the JIT for the program under a few fixed policies, for `cargo xtask
//! budget`, which compares them with the committed table.
#![expect(clippy::print_stderr, reason = "a tool for the terminal")]

use std::{collections::BTreeMap, fs, path::PathBuf, process::ExitCode};

use anyhow::{Context as _, Result};
use aya::{VerifierLogLevel, programs::loaded_programs};
use clap::Parser;
use guard_tests::{
    backend::KEY,
    system::descriptors::{limited, lowest_free},
    world::{self, data},
};
use guard_user::{
    attach_mode::Hook,
    bpf::loader::{Generation, Maps, Options, require_kernel_object},
    policy::{Bundle, compiled::CompiledPolicy},
    system_error::SystemError,
};

/// Command-line arguments.
#[derive(Debug, Parser)]
struct Args {
    /// Output file, JSON: policy, figure, value
    #[arg(long, value_name = "PATH")]
    json: PathBuf,
    /// Leave out the stack depth, for which the program is loaded many times
    #[arg(long)]
    without_stack: bool,
}

/// Figures by name.
type Figures = BTreeMap<&'static str, u64>;

/// The policies: name, file, node of `tests/worlds/cluster.yaml`. Each is loaded for both hooks.
const POLICIES: [(&str, &str, &str); 4] = [
    ("nothing-guarded", "worlds/enforce.yaml", "idle-0"),
    ("mxnet-scheduler", "../policies/mxnet.yaml", "sched-0"),
    ("every-limit", "worlds/limits-both.yaml", "sched-0"),
    ("observe", "worlds/observe.yaml", "sched-0"),
];

fn main() -> ExitCode {
    match measure(&Args::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::from(2)
        }
    }
}

fn measure(args: &Args) -> Result<()> {
    let to = &args.json;
    let mut all = BTreeMap::new();
    let bytes = u64::try_from(require_kernel_object()?.len())?;
    all.insert("object".to_owned(), Figures::from([("bytes", bytes)]));
    for (name, policy, node) in POLICIES {
        let policy = compile(policy, node)?;
        for (hook, name) in [(Hook::Xdp, name.to_owned()), (Hook::Tc, format!("{name}-tc"))] {
            let figures = figures(hook, &policy, args.without_stack)
                .with_context(|| format!("policy `{name}`"))?;
            all.insert(name, figures);
        }
    }
    fs::write(to, serde_json::to_string(&all)?).with_context(|| format!("{}", to.display()))
}

fn compile(policy: &str, node: &str) -> Result<CompiledPolicy> {
    let read = |file: &str| {
        let path = data(file);
        fs::read_to_string(&path).with_context(|| path.display().to_string())
    };
    let texts = [("cluster.yaml", read("worlds/cluster.yaml")?), ("policy.yaml", read(policy)?)];
    Ok(world::compile(&world::load(&Bundle::new("cluster.yaml", texts)), node))
}

fn load(hook: Hook, policy: &CompiledPolicy) -> Result<Generation, SystemError> {
    let options =
        Options { verifier_log: VerifierLogLevel::STATS, ..Options::new(Maps::Private, KEY, true) };
    let generation = Generation::load_for(hook, policy, &options)?;
    // The figures of a program without lookups would hide that the kernel refuses the usual one.
    match generation.without_lookups() {
        Some(why) => Err(SystemError::new(why.to_owned())),
        None => Ok(generation),
    }
}

fn figures(hook: Hook, policy: &CompiledPolicy, without_stack: bool) -> Result<Figures> {
    let stack = if without_stack { None } else { Some(("stack-bytes", stack(hook, policy)?)) };
    let generation = load(hook, policy)?;
    let id = generation.program_id();
    let program = loaded_programs().filter_map(Result::ok).find(|program| program.id() == id);
    let program = program.context("no program is loaded")?;
    let verified = program.verified_instruction_count();
    let others = [
        (
            "verified-instructions",
            verified
                .context("this kernel does not report verified instructions (Linux 5.16 does)")?
                .into(),
        ),
        (
            "translated-bytes",
            program
                .size_translated()
                .context("this kernel does not report the translated size")?
                .into(),
        ),
        ("jited-bytes", program.size_jitted().into()),
    ];
    Ok(others.into_iter().chain(stack).collect())
}

/// Returns the bytes of stack, summed over all functions.
///
/// Only the verifier's log contains them, and aya returns the log only if loading fails. The last step
/// that can fail after the verifier is the allocation of the program's descriptor (`bpf_prog_load`,
/// `kernel/bpf/syscall.c`), so loading is made to fail by a limit on descriptors.
fn stack(hook: Hook, policy: &CompiledPolicy) -> Result<u64> {
    let mut found = None;
    for limit in lowest_free()?.. {
        match limited(limit, || load(hook, policy))? {
            Ok(_) => break,
            Err(error) => found = found.or(stack_of(&error.to_string())),
        }
    }
    found.context("the log of the verifier has no stack depth")
}

/// Parses `stack depth 120+0+64`, which has one number for each function, and returns the sum.
fn stack_of(log: &str) -> Option<u64> {
    let depths = log.lines().find_map(|line| line.strip_prefix("stack depth "))?;
    depths.split('+').map(|depth| depth.trim().parse::<u64>().ok()).sum()
}

//! `cargo xtask demo`: guards a small cluster, runs its workload, attacks it, and compares the results
//! with the expected ones.

pub(crate) mod cluster;
mod picture;
mod script;
pub(crate) mod traffic;

use std::{
    env,
    path::{Path, PathBuf},
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use anyhow::{Context as _, Result, bail};
use clap::Args;

use crate::{build, sh};

/// Capture and manifest for machines that cannot run the demo.
const CAPTURE: &str = "tests/captures/mxnet-baseline.pcap";
const CAPTURE_MANIFEST: &str = "tests/captures/cluster.yaml";
const CAPTURE_NODES: [&str; 2] = ["sched-0", "server-0"];
const SCHEDULER: &str = "10.77.0.1:9091";
/// An address of a range reserved for documentation (RFC 5737).
const UNLISTED: &str = "192.0.2.66";

/// Arguments of `cargo xtask demo`.
#[derive(Debug, Args)]
pub(crate) struct DemoArgs {
    /// Use this binary instead of building one (the demo uses this when it calls itself under sudo)
    #[arg(long, hide = true, value_name = "FILE")]
    built: Option<PathBuf>,
    /// Prolong the flood, and write a picture of `trainguard stats` during it (docs/stats.svg)
    #[arg(long, value_name = "FILE")]
    picture: Option<PathBuf>,
}

/// Runs the demo. Returns whether all results were as expected.
pub(crate) fn run(args: &DemoArgs) -> Result<bool> {
    let binary = match &args.built {
        Some(binary) => binary.clone(),
        None => match build::for_demo() {
            Ok(built) => built.binary,
            Err(error) => {
                let missing = format!("the kernel object cannot be built: {error:#}");
                return without_kernel(&missing, &build::without_kernel_object()?);
            }
        },
    };
    if !sh::is_root() {
        return with_sudo(&binary, args.picture.as_deref());
    }
    match script::run(&binary, args.picture.as_deref(), &Interrupt::listen()?) {
        Ok(agrees) => Ok(agrees),
        Err(script::Failure::Impossible(error)) => without_kernel(&format!("{error:#}"), &binary),
        Err(script::Failure::Failed(error)) => Err(error),
    }
}

/// Runs the part that needs root under sudo. Everything has been built before, as the user.
fn with_sudo(binary: &Path, picture: Option<&Path>) -> Result<bool> {
    let Some(sudo) = sh::find("sudo") else {
        let missing = "network namespaces and bpf(2) need root, and sudo is not installed; run the \
                       demo as root";
        return without_kernel(missing, binary);
    };
    println!("network namespaces and bpf(2) need root: running this part with sudo");
    let mut command = Command::new(sudo);
    command.arg(env::current_exe()?).args(["demo", "--built"]).arg(binary);
    if let Some(picture) = picture {
        command.arg("--picture").arg(picture);
    }
    let status = command.status().with_context(|| format!("running {command:?}"))?;
    match status.code() {
        Some(0) => Ok(true),
        Some(_) => Ok(false),
        None => bail!("sudo was killed"),
    }
}

/// Shows what works without the kernel. Returns `false`, because nothing was guarded.
fn without_kernel(missing: &str, binary: &Path) -> Result<bool> {
    println!("The demo cannot run on this machine: {missing}");
    println!();
    println!("Instead, the same decision function evaluates, on the host, a capture of a real");
    println!("MXNet training job. NO KERNEL IS INVOLVED, AND NOTHING IS GUARDED.");
    let ask = |subcommand: &str, args: &[&str]| {
        let mut command = Command::new(binary);
        command
            .current_dir(sh::root())
            .args([subcommand, "--manifest", CAPTURE_MANIFEST])
            .args(args);
        sh::run(&mut command)
    };
    for node in CAPTURE_NODES {
        println!("\n{CAPTURE} as `{node}` receives it:");
        ask("replay", &["--received", "--node", node, CAPTURE])?;
    }
    let [scheduler, _] = CAPTURE_NODES;
    println!("\nA connection to `{scheduler}` from an address outside the manifest:");
    ask("trace", &["--node", scheduler, "--from", UNLISTED, "--to", SCHEDULER])?;
    Ok(false)
}

/// Whether the user wants to stop. The demo then removes the cluster in the ordinary way.
pub(crate) struct Interrupt(Arc<AtomicBool>);

impl Interrupt {
    /// Registers handlers for the signals that ask this process to end.
    pub(crate) fn listen() -> Result<Self> {
        let flag = Arc::new(AtomicBool::new(false));
        for signal in
            [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM, signal_hook::consts::SIGHUP]
        {
            signal_hook::flag::register(signal, Arc::clone(&flag))?;
        }
        Ok(Self(flag))
    }

    /// Returns whether the user wants to stop.
    pub(crate) fn is_requested(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    /// Fails if the user wants to stop.
    fn check(&self) -> Result<()> {
        if self.is_requested() {
            bail!("interrupted; namespaces and processes of the demo are removed");
        }
        Ok(())
    }
}

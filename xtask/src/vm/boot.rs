//! Tests the guard as a service of a whole system: its package and its unit under systemd, and which
//! packets of an unlisted host reach the network stack from power-on to power-off.

use std::{
    ops::ControlFlow,
    path::{Path, PathBuf},
    thread,
    time::Duration,
};

use anyhow::{Result, ensure};
use tempfile::TempDir;

use super::{
    Tally,
    fetch::{Cache, Kernel},
    initramfs::{Initramfs, Start},
    rootfs,
    run::{Card, Ended, Machine},
    wire::{self, Answers, Attacker, Seen},
};
use crate::{build, dist, sh, toolchain, upgrade};

/// Directory of the scripts that test in the guest, and of their common functions.
const SCRIPTS: &str = "tests/vm/systemd";
/// Memory of a guest with systemd.
const MEMORY_MIB: u32 = 1024;
/// Time limit of a boot with its job and power-off.
const BOOT: Duration = Duration::from_mins(5);
/// Time limit of a script.
const SERVICE: Duration = Duration::from_mins(20);

/// The guest's network, and a listener on both ports. udev loads the card's driver, which is late, as on
/// hardware. The listener has no dependencies, so that it starts before the network does.
const NETWORK: [(&str, &str); 3] = [
    (
        "etc/systemd/network/10-wire.network",
        "[Match]\nMACAddress=52:54:00:00:ff:01\n[Network]\nAddress=192.0.2.1/24\n\
         LinkLocalAddressing=no\nIPv6AcceptRA=no\n",
    ),
    (
        "etc/systemd/system/vm-listen.socket",
        "[Unit]\nDefaultDependencies=no\n[Socket]\nListenStream=9091\nListenStream=8080\n",
    ),
    (
        "etc/systemd/system/vm-listen.service",
        "[Unit]\nDefaultDependencies=no\n[Service]\nExecStart=/bin/sleep infinity\n",
    ),
];

/// Links that `systemctl enable` would make.
const ENABLED: [(&str, &str); 2] = [
    (
        "etc/systemd/system/sysinit.target.wants/vm-listen.socket",
        "/etc/systemd/system/vm-listen.socket",
    ),
    (
        "etc/systemd/system/multi-user.target.wants/systemd-networkd.service",
        "/lib/systemd/system/systemd-networkd.service",
    ),
];

/// A cluster that contains the guest, but not the unlisted host.
const MANIFEST: &str = "\
apiVersion: trainguard/v1
kind: Cluster
name: vm
interfaces: [\"en*\"]
nodes:
  - name: vm
    addresses: [192.0.2.1]
    roles: [scheduler]
  - name: member
    addresses: [192.0.2.2]
    roles: [worker]
policies: [policy.yaml]
";

const POLICY: &str = "\
apiVersion: trainguard/v1
kind: Policy
name: vm
services:
  - name: scheduler
    roles: [scheduler]
    ports: [tcp/9091]
    match: all
    allow:
      roles: [worker]
    mode: enforce
";

/// The boot without the guard: lets the unlisted host connect for some seconds, then installs the package
/// for the following boots.
const INSTALL: &str = "#!/bin/sh
sleep 3
dpkg --install /vm/trainguard.deb || exit 1
install -D -m 644 /vm/cluster.yaml /etc/trainguard/cluster.yaml
install -D -m 644 /vm/policy.yaml /etc/trainguard/policy.yaml
systemctl enable trainguard.service
";

/// Beginning of scripts that need the guard. Waits for it; if it does not start, prints the status and
/// ends.
macro_rules! wait_for_the_guard {
    () => {
        "#!/bin/sh
n=0
until trainguard status > /vm/status; do
    n=$((n + 1))
    [ $n -lt 100 ] || { cat /vm/status; systemctl status --no-pager trainguard; exit 1; }
    sleep 0.2
done
"
    };
}

/// The boot with the guard: the service must start and keep running.
const BOOTED: &str = concat!(
    wait_for_the_guard!(),
    "sleep 2
"
);

/// Reloads in an endless loop: three valid policies, one that is truncated, and a missing file. Files are
/// replaced by renaming or written in place, and never synced: saving the policy durably is up to the
/// daemon.
const RELOADS: &str = concat!(
    wait_for_the_guard!(),
    "cd /etc/trainguard
n=0
while :; do
    n=$((n + 1))
    case $((n % 5)) in
    0) head -c 150 /vm/policy.yaml > policy.yaml ;;
    1) cat /vm/policy.yaml > policy.yaml ;;
    2) rm policy.yaml ;;
    *) sed \"s|tcp/9091|tcp/9091, udp/$((9000 + n))|\" /vm/policy.yaml > next; mv next policy.yaml ;;
    esac
    echo \"@@reload $n\"
    trainguard apply --reload > /dev/null 2>&1
done
"
);
/// Number of reloads before the power is cut, so that each kind has occurred at least once.
const RELOADS_BEFORE: u32 = 5;
/// The boot after a power cut: prints the status and checks that the guard is in force.
const AFTER_CUT: &str = concat!(
    wait_for_the_guard!(),
    "cat /vm/status
trainguard status --format json | grep -q '\"enforcing\": *true' || exit 1
# The next cut begins with good files.
cat /vm/policy.yaml > /etc/trainguard/policy.yaml
sleep 2
"
);

/// Returns a job that runs a script. If the script fails, the job prints the service's journal.
fn service_job(script: &str) -> String {
    format!(
        "#!/bin/sh
echo '@@script {script}'
bash /vm/systemd/{script} 2>&1
code=$?
[ $code = 0 ] || journalctl --no-pager --unit trainguard --lines 60
echo \"@@done $code\"
"
    )
}

/// Packs this machine's binary. Returns a temporary directory and the path of the deb; the rpm is beside
/// it, and so is the binary, which has no extension.
pub(super) fn package(cache: &Cache) -> Result<(TempDir, PathBuf)> {
    let built = build::build(&toolchain::ensure(false)?, &build::BuildArgs::default())?;
    let scratch = cache.scratch()?;
    let binary = sh::strip(&built.binary, &scratch.path().join("trainguard"))?;
    let package = scratch.path().join("trainguard.deb");
    dist::pack(&binary, None, &package)?;
    Ok((scratch, package))
}

/// Packs the binary of the next layout with a higher revision, for an upgrade.
fn next_package(scratch: &Path) -> Result<PathBuf> {
    // The development build that the tests use, too; optimisation does not matter here.
    build::for_tests()?;
    let binary =
        sh::strip(&build::development_binary("trainguard-next"), &scratch.join("trainguard-next"))?;
    let package = scratch.join("next.deb");
    dist::pack(&binary, Some(2), &package)?;
    Ok(package)
}

/// A kernel and a package to boot a system with.
#[derive(Debug)]
pub(super) struct System<'s> {
    pub(super) name: &'s str,
    pub(super) cache: &'s Cache,
    pub(super) kernel: &'s Kernel,
    pub(super) package: &'s Path,
}

impl System<'_> {
    /// Runs the script that tests package and unit, with an upgrade to the next layout. Each of the
    /// script's result lines counts as a test.
    pub(super) fn service(&self) -> Result<Tally> {
        let scratch = self.cache.scratch()?;
        self.script("life.sh", self.package, &next_package(scratch.path())?)
    }

    /// Runs the script that upgrades from the packages of an earlier version. Each of the script's result
    /// lines counts as a test.
    pub(super) fn upgrade(&self) -> Result<Tally> {
        let scratch = self.cache.scratch()?;
        let earlier = upgrade::packages(scratch.path())?;
        let today = scratch.path().join("today.deb");
        dist::pack(&self.package.with_extension(""), Some(2), &today)?;
        self.script("earlier.sh", &earlier, &today)
    }

    /// Runs a script in one boot. The guest gets the packages as `trainguard` and `trainguard-next`.
    fn script(&self, name: &str, package: &Path, next: &Path) -> Result<Tally> {
        let scripts = sh::root().join(SCRIPTS);
        ensure!(scripts.join(name).is_file(), "no such script: {SCRIPTS}/{name}");
        let image = rootfs::ensure(self.cache)?;
        let scratch = self.cache.scratch()?;
        let mut initramfs = self.initramfs(&service_job(name))?;
        for (package, name) in [(package, "trainguard"), (next, "trainguard-next")] {
            for kind in ["deb", "rpm"] {
                let to = Path::new("payload/vm").join(name).with_extension(kind);
                initramfs.copy(&package.with_extension(kind), &to)?;
            }
        }
        initramfs.copy(&scripts, Path::new("payload/vm/systemd"))?;
        let mut tally = Tally::default();
        let mut script = Script::default();
        let outcome = self
            .machine(&initramfs, scratch.path(), (image, false), Vec::new(), SERVICE)?
            .run(|line| script.line(self.name, line, &mut tally))?;
        ensure!(tally.count.passed + tally.count.failed > 0, "{SCRIPTS}/{name} printed no result");
        tally.count_outcome(self.name, &outcome);
        Ok(tally)
    }

    /// Boots one system several times while the unlisted host sends SYN segments. The first boot is
    /// without the guard, to show that the unlisted host can connect then.
    pub(super) fn boots(&self, rounds: u32) -> Result<Tally> {
        let mut disk = Disk::new(self)?;
        if self.install(&mut disk)? {
            let booted = self.initramfs(BOOTED)?;
            for round in 1..=rounds {
                let what = format!("boot {round} of {rounds}");
                self.boot(&what, &booted, &mut disk, closed, never)?;
            }
        }
        Ok(disk.tally)
    }

    /// Cuts the power while policies are loaded and boots again, while the unlisted host sends SYN
    /// segments. Data that the guest has written to its disk is kept; data that it has not is lost.
    pub(super) fn power_cuts(&self, rounds: u32) -> Result<Tally> {
        let mut disk = Disk::new(self)?;
        if !self.install(&mut disk)? {
            return Ok(disk.tally);
        }
        let mut reloads = self.initramfs(RELOADS)?;
        let mut after = self.initramfs(AFTER_CUT)?;
        for initramfs in [&mut reloads, &mut after] {
            initramfs.text("payload/vm/policy.yaml", POLICY);
        }
        for round in 1..=rounds {
            // Each round cuts later in a reload, and in another kind of reload.
            let moment = Duration::from_millis(u64::from(round * 137 % 700));
            let last = format!("@@reload {}", RELOADS_BEFORE + round);
            let cut = |line: &str| {
                if line != last {
                    return ControlFlow::Continue(());
                }
                thread::sleep(moment);
                ControlFlow::Break(())
            };
            let what = format!("power cut {round} of {rounds}");
            self.boot(&what, &reloads, &mut disk, closed, cut)?;
            let what = format!("boot after power cut {round}");
            self.boot(&what, &after, &mut disk, closed, never)?;
        }
        Ok(disk.tally)
    }

    /// Boots without the guard, which must show that the unlisted host can connect, and installs the
    /// package for the following boots. Returns whether that succeeded; otherwise the following boots
    /// would prove nothing.
    fn install(&self, disk: &mut Disk) -> Result<bool> {
        let mut install = self.initramfs(INSTALL)?;
        install.copy(self.package, Path::new("payload/vm/trainguard.deb"))?;
        install.text("payload/vm/cluster.yaml", MANIFEST);
        install.text("payload/vm/policy.yaml", POLICY);
        for (path, text) in NETWORK {
            install.text(Path::new("payload").join(path), text);
        }
        for (path, target) in ENABLED {
            install.link(Path::new("payload").join(path), target);
        }
        let open = |seen: &Seen| seen.guarded.count > 0 && seen.control.count > 0;
        self.boot("without the guard", &install, disk, open, never)
    }

    /// Boots once. Returns whether the result was as expected. `cut` is called for each line of output
    /// and decides whether the power is cut after it.
    fn boot(
        &self,
        what: &str,
        initramfs: &Initramfs,
        disk: &mut Disk,
        expected: impl Fn(&Seen) -> bool,
        mut cut: impl FnMut(&str) -> ControlFlow<()>,
    ) -> Result<bool> {
        let Disk { scratch, file, tally } = disk;
        let attacker = Attacker::start(scratch.path())?;
        let cards = vec![Card::Wire(scratch.path().to_owned())];
        let machine = self.machine(initramfs, scratch.path(), (file.clone(), true), cards, BOOT)?;
        let (mut said, mut is_cut) = (Vec::new(), false);
        let outcome = machine.run_until(|line| {
            said.push(line.to_owned());
            let flow = cut(line);
            is_cut |= flow.is_break();
            flow
        });
        let seen = attacker.stop();
        let outcome = outcome?;
        println!(
            "{}: {what}: {} SYN segments to each port, answers: {} by tcp/{} (guarded), {} by tcp/{} ({:.0} s)",
            self.name,
            seen.syns,
            said_of(&seen.guarded),
            wire::GUARDED,
            said_of(&seen.control),
            wire::CONTROL,
            outcome.took.as_secs_f32()
        );
        let failed = tally.count.failed;
        if is_cut && outcome.ended == Ended::Cut {
            tally.count_console(self.name, &outcome);
        } else {
            tally.count_outcome(self.name, &outcome);
        }
        if !expected(&seen) {
            println!("{}: {what}: unexpected answers, see above", self.name);
            tally.count.failed += 1;
        }
        let as_expected = tally.count.failed == failed;
        if as_expected {
            tally.count.passed += 1;
        } else {
            for line in &said {
                println!("  {line}");
            }
        }
        Ok(as_expected)
    }

    fn initramfs(&self, job: &str) -> Result<Initramfs> {
        let mut initramfs = Initramfs::new(self.cache, self.kernel, Start::Disk)?;
        initramfs.script("payload/vm/job", job);
        Ok(initramfs)
    }

    fn machine(
        &self,
        initramfs: &Initramfs,
        scratch: &Path,
        disk: (PathBuf, bool),
        cards: Vec<Card>,
        limit: Duration,
    ) -> Result<Machine<'_>> {
        let file = scratch.join("initramfs");
        initramfs.write(&file)?;
        Ok(Machine {
            cache: self.cache,
            kernel: self.kernel,
            initramfs: file,
            memory_mib: MEMORY_MIB,
            disks: vec![disk],
            cards,
            limit,
        })
    }
}

/// Returns whether the guarded port never answered. The other port must have answered, which shows that
/// segments arrived.
fn closed(seen: &Seen) -> bool {
    seen.guarded.count == 0 && seen.control.count > 0
}

/// Never cuts the power.
fn never(_line: &str) -> ControlFlow<()> {
    ControlFlow::Continue(())
}

/// The disk of one machine, which is kept from boot to boot, and the counts of its tests.
struct Disk {
    scratch: TempDir,
    file: PathBuf,
    tally: Tally,
}

impl Disk {
    fn new(system: &System<'_>) -> Result<Self> {
        let image = rootfs::ensure(system.cache)?;
        let scratch = system.cache.scratch()?;
        let file = scratch.path().join("disk");
        rootfs::copy(&image, &file)?;
        Ok(Self { scratch, file, tally: Tally::default() })
    }
}

fn said_of(answers: &Answers) -> String {
    match (answers.first, answers.last) {
        (Some(first), Some(last)) => {
            let (first, last) = (first.as_secs_f32(), last.as_secs_f32());
            format!("{} (from {first:.1} s to {last:.1} s)", answers.count)
        }
        _ => answers.count.to_string(),
    }
}

/// Parses the result lines of scripts: `ok NAME`, `not ok NAME: why`, `skip NAME: why`.
#[derive(Debug, Default)]
struct Script {
    name: String,
    failed_before: u64,
    said: Vec<String>,
}

impl Script {
    fn line(&mut self, machine: &str, line: &str, tally: &mut Tally) {
        if let Some(name) = line.strip_prefix("@@script ") {
            *self =
                Self { name: name.to_owned(), failed_before: tally.count.failed, said: Vec::new() };
        } else if let Some(code) = line.strip_prefix("@@done ") {
            self.done(machine, code, tally);
        } else if line.starts_with("ok ") {
            println!("{machine}: {}: {line}", self.name);
            tally.count.passed += 1;
        } else if line.starts_with("not ok ") {
            println!("{machine}: {}: {line}", self.name);
            tally.count.failed += 1;
        } else if let Some(skip) = line.strip_prefix("skip ") {
            tally.skip(format!("{machine}: {}: {skip}", self.name));
        } else {
            self.said.push(line.to_owned());
        }
    }

    fn done(&mut self, machine: &str, code: &str, tally: &mut Tally) {
        let reported = tally.count.failed > self.failed_before;
        if code != "0" && !reported {
            println!("{machine}: {}: exit status {code}", self.name);
            tally.count.failed += 1;
        }
        if code != "0" || reported {
            for line in &self.said {
                println!("  {line}");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_scripts_are_counted_and_a_script_that_dies_is_a_failure() {
        let mut tally = Tally::default();
        let mut script = Script::default();
        for line in [
            "@@script 10-install.sh",
            "ok installed",
            "other output",
            "not ok enabled: it is",
            "@@done 1",
            "@@script 20-start.sh",
            "ok started",
            "@@done 127",
        ] {
            script.line("vm", line, &mut tally);
        }
        assert_eq!((tally.count.passed, tally.count.failed), (2, 2));
    }
}

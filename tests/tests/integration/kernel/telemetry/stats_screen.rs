//! The live screen in a real terminal: how it shows real drops, what the keys do, and that the terminal
//! is restored.

use std::{
    env, fs, mem,
    net::UdpSocket,
    path::PathBuf,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Duration,
};

use guard_tests::{
    node::{NODE, Node, PORT, UNLISTED, binary, enforcing},
    pane::Pane,
};
use guard_user::report::stats::terminal::Screen;
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

/// A pane in which `stats` shows a node.
struct Watched {
    pane: Pane,
    command: String,
    modes: String,
}

impl Watched {
    fn open(test: &str, node: &Node) -> Option<Self> {
        let pane = Pane::open(test, [80, 24])?;
        let command = format!(
            "'{}' stats 0.5 --run-dir '{}' --bpf-dir '{}'; echo code $?",
            binary().display(),
            node.path("run").display(),
            node.pins().display(),
        );
        let modes = modes(&pane, "before");
        let watched = Self { pane, command, modes };
        watched.start();
        Some(watched)
    }

    fn start(&self) {
        self.pane.line(&self.command);
        self.pane.until("the screen", |shown| shown.contains("INTERFACE"));
        assert_eq!(self.pane.value("alternate_on"), "1");
    }

    /// Returns the process that the pane's shell has started.
    fn process(&self) -> Pid {
        let shell = self.pane.value("pane_pid");
        let children = fs::read_to_string(format!("/proc/{shell}/task/{shell}/children"));
        let children = children.expect("the shell's children");
        let child = children.split_whitespace().next().expect("a child");
        Pid::from_raw(child.parse().expect("a number"))
    }

    /// Asserts that the program has exited with this code and that the terminal is as it was before.
    fn assert_restored(&self, code: i32) {
        let exit = format!("code {code}");
        self.pane.until(&exit, |shown| shown.contains(&exit));
        assert_eq!(self.pane.value("alternate_on"), "0", "the alternate screen");
        assert_eq!(self.pane.value("cursor_flag"), "1", "the cursor");
        assert_eq!(modes(&self.pane, "after"), self.modes);
        self.pane.line("clear");
        self.pane.until("nothing", |shown| !shown.contains("code"));
    }
}

/// Returns the terminal's settings in the format of `stty -g`.
fn modes(pane: &Pane, mark: &str) -> String {
    // The typed command contains `$((1))`, not `1`, so only its output matches.
    pane.line(&format!("echo {mark}-$((1)) `stty -g`"));
    let mark = format!("{mark}-1 ");
    let shown = pane.until("stty", |shown| shown.contains(&mark));
    // The output may follow the prompt if the shell was slower than the typing.
    let (_, modes) =
        shown.lines().find_map(|line| line.split_once(&mark)).expect("the output of stty");
    assert!(modes.contains(':'), "{modes}");
    modes.to_owned()
}

/// Ends an attack, also if the closure panics.
struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Runs a closure while an attacker sends to the guarded port.
fn under_attack<T>(node: &Node, work: impl FnOnce() -> T) -> T {
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            node.at_peer(|| {
                let socket = UdpSocket::bind((UNLISTED[0], 0)).expect("an address of the peer");
                while !stop.load(Ordering::Relaxed) {
                    // The node's address may not be resolved yet.
                    let _ = socket.send_to(b"attack", (NODE[0], PORT));
                    thread::sleep(Duration::from_millis(5));
                }
            });
        });
        let _stop = Stop(&stop);
        work()
    })
}

/// Returns the rate of drops in the heading, or `None`.
fn drops(shown: &str) -> Option<f64> {
    let (_, rest) = shown.split_once("drop ")?;
    let (rate, _) = rest.split_once("/s")?;
    rate.trim_end_matches(" k").parse().ok()
}

#[test]
fn the_screen_shows_real_drops_and_obeys_its_keys() {
    let Some(mut node) = Node::new("stats_screen/keys") else { return };
    node.start(&[]);
    node.wait("enforcing", enforcing);
    let Some(watched) = Watched::open("keys", &node) else { return };
    let pane = &watched.pane;
    pane.until("the node", |shown| shown.starts_with(" ENFORCING  node  generation 1"));
    pane.until("the mode", |shown| shown.contains("eth0") && shown.contains("native"));
    under_attack(&node, || {
        let shows_attacker = |shown: &str| {
            let row = shown.lines().find(|line| line.contains("10.77.0.99"));
            row.is_some_and(|row| row.contains("not in the manifest") && row.contains("udp/9091"))
        };
        pane.until("the attacker", shows_attacker);
        pane.until("drops", |shown| drops(shown).is_some_and(|rate| rate > 0.0));

        pane.keys(&["?"]);
        pane.until("the keys", |shown| shown.contains("Keys (Esc closes)"));
        pane.keys(&["Escape"]);
        pane.until("no keys", |shown| !shown.contains("Keys (Esc closes)"));

        pane.keys(&["/", "a", "b", "s", "e", "n", "t"]);
        pane.until("no row", |shown| shown.contains("the filter hides all"));
        pane.keys(&["Enter"]);
        pane.until("the filter", |shown| shown.contains("filter: absent"));
        pane.keys(&["/", "C-u", "Enter"]);
        pane.until("the attacker again", shows_attacker);

        pane.keys(&["Enter"]);
        let details = pane.until("the details", |shown| shown.contains("trainguard trace"));
        assert!(details.contains("--from 10.77.0.99 --to 192.0.2.1:9091 --proto udp"), "{details}");
        pane.keys(&["Escape"]);
        // Escape immediately followed by a letter would be another key.
        pane.until("no details", |shown| !shown.contains("trainguard trace"));

        pane.keys(&["p"]);
        let held = pane.until("a pause", |shown| shown.contains("PAUSED"));
        thread::sleep(Duration::from_millis(1500));
        assert_eq!(pane.shown(), held, "the screen does not change");
        pane.keys(&["Space"]);
        pane.until("no pause", |shown| !shown.contains("PAUSED") && shows_attacker(shown));

        pane.keys(&["r"]);
        pane.until("totals", |shown| shown.contains("r rates") && drops(shown).is_none());
        pane.keys(&["r"]);

        pane.resize(40, 10);
        let small = pane
            .until("one table", |shown| shown.contains("SOURCE") && !shown.contains("INTERFACE"));
        assert!(small.contains("10.77.0.99"), "{small}");
        pane.resize(1, 1);
        thread::sleep(Duration::from_millis(700));
        pane.resize(80, 24);
        pane.until("all tables", |shown| shown.contains("INTERFACE") && shows_attacker(shown));

        pane.keys(&["C-z"]);
        pane.until("the shell", |shown| shown.contains("ready>") && !shown.contains("INTERFACE"));
        assert_eq!(pane.value("alternate_on"), "0");
        assert_eq!(modes(pane, "aside"), watched.modes);
        pane.line("fg; echo code $?");
        pane.until("the screen again", |shown| {
            shown.contains("INTERFACE") && shows_attacker(shown)
        });
    });
    pane.keys(&["q"]);
    watched.assert_restored(0);
    watched.start();
    pane.keys(&["C-c"]);
    watched.assert_restored(0);
}

#[test]
fn signals_restore_the_terminal() {
    let Some(mut node) = Node::new("stats_screen/signals") else { return };
    node.start(&[]);
    let Some(watched) = Watched::open("signals", &node) else { return };
    // The code that a shell reports for a program that a signal killed. An interrupt is a normal exit.
    for (index, (signal, code)) in
        [(Signal::SIGTERM, 143), (Signal::SIGHUP, 129), (Signal::SIGQUIT, 131), (Signal::SIGINT, 0)]
            .into_iter()
            .enumerate()
    {
        if index > 0 {
            watched.start();
        }
        kill(watched.process(), signal).expect("signalling `stats`");
        watched.assert_restored(code);
    }
    // Stopped by a signal, then continued.
    watched.start();
    let process = watched.process();
    kill(process, Signal::SIGTSTP).expect("signalling `stats`");
    watched.pane.until("the shell", |shown| shown.contains("ready>"));
    assert_eq!(modes(&watched.pane, "aside"), watched.modes);
    watched.pane.line("fg; echo code $?");
    watched.pane.until("the screen again", |shown| shown.contains("INTERFACE"));
    watched.pane.keys(&["q"]);
    watched.assert_restored(0);
}

#[test]
fn a_killed_daemon_and_its_successor_are_shown() {
    let Some(mut node) = Node::new("stats_screen/gone") else { return };
    node.start(&[]);
    let Some(watched) = Watched::open("gone", &node) else { return };
    let pane = &watched.pane;
    pane.until("the state", |shown| shown.starts_with(" ENFORCING"));
    node.signal("KILL");
    let since = "! NO DAEMON since ";
    let gone = pane.until("the missing daemon", |shown| shown.contains(since));
    assert!(gone.contains("counters of the pinned maps"), "{gone}");
    assert!(gone.starts_with(" STATE UNKNOWN  node "), "{gone}");
    // The program still guards, and `stats` reads its counters.
    under_attack(&node, || {
        pane.until("drops", |shown| drops(shown).is_some_and(|rate| rate > 0.0));
    });
    node.start(&[]);
    pane.until("its successor", |shown| {
        shown.starts_with(" ENFORCING") && !shown.contains("NO DAEMON")
    });
    // If the pins are gone as well, the last screen stays.
    node.signal("KILL");
    fs::remove_dir_all(node.own_pins()).expect("pins can be removed");
    let old = pane.until("old values", |shown| shown.contains("all values are old"));
    assert!(old.contains("eth0"), "{old}");
    node.start(&[]);
    pane.until("new counters", |shown| {
        shown.starts_with(" ENFORCING") && shown.contains("counters reset")
    });
    pane.keys(&["q"]);
    watched.assert_restored(0);
}

#[test]
fn a_terminal_without_a_cursor_gets_rows_and_one_without_colours_none() {
    let Some(mut node) = Node::new("stats_screen/plain") else { return };
    node.start(&[]);
    let Some(watched) = Watched::open("plain", &node) else { return };
    let pane = &watched.pane;
    pane.until("green", |_| pane.coloured().contains("\u{1b}[38;5;2mENFORCING"));
    pane.keys(&["q"]);
    watched.assert_restored(0);
    pane.line(&format!("NO_COLOR=1 {}", watched.command));
    pane.until("the state", |shown| shown.contains("ENFORCING"));
    assert!(!pane.coloured().contains("[38;"), "{}", pane.coloured());
    pane.keys(&["q"]);
    watched.assert_restored(0);
    pane.line(&format!("TERM=dumb {}", watched.command));
    pane.until("rows", |shown| shown.matches(" interface ").count() >= 2);
    assert_eq!(pane.value("alternate_on"), "0");
    pane.keys(&["C-c"]);
    watched.assert_restored(0);
}

#[test]
fn a_panic_restores_the_terminal() {
    const MARK: &str = "TRAINGUARD_TEST_PANICS";
    if env::var_os(MARK).is_some() {
        let screen = Screen::open(false).expect("a terminal");
        // The binary aborts on a panic and drops nothing.
        mem::forget(screen);
        panic!("on purpose");
    }
    let Some(pane) = Pane::open("panic", [80, 24]) else { return };
    let before = modes(&pane, "before");
    let test: PathBuf = env::current_exe().expect("this test");
    // The test harness names a test without the name of its executable.
    let (_, module) = module_path!().split_once("::").expect("a module of the tests");
    let name = format!("{module}::a_panic_restores_the_terminal");
    pane.line(&format!("{MARK}=1 '{}' --exact {name} --nocapture; echo code $?", test.display()));
    let shown = pane.until("its end", |shown| shown.contains("code 101"));
    assert!(shown.contains("on purpose"), "the message is visible: {shown}");
    assert_eq!(pane.value("alternate_on"), "0");
    assert_eq!(modes(&pane, "after"), before);
}

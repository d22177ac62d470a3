//! Policies that do not fit a node: lint reports the same text as the daemon, with the limit, the
//! figure, and a remedy. The number of ports has no limit, because a table holds all ports.

use guard_test_support::bundle::{self, Cluster, hosts};

use guard_user::policy::{
    self, Bundle, Placement,
    resolve::load::Loader,
    syntax::rules::{self, Code},
};

/// A policy that does not fit: its name, the code of the finding, the expected texts, and the files.
struct Case {
    name: &'static str,
    code: Code,
    expected: [&'static str; 3],
    manifest: String,
    policy: String,
    lists: Vec<(String, String)>,
}

fn manifest() -> Cluster {
    bundle::cluster("t").node("n", "10.77.0.10", "a")
}

fn cases() -> Vec<Case> {
    let services = Case {
        name: "services",
        code: rules::SERVICES,
        expected: ["65 services", "at most 64", "join services"],
        manifest: manifest().to_string(),
        policy: bundle::services(65, |_| "cidrs: [10.0.0.0/8]".to_owned(), ""),
        lists: Vec::new(),
    };
    let prefixes = Case {
        name: "prefixes",
        code: rules::PREFIXES,
        expected: ["1050001 IPv4 prefixes", "at most 1048576", "join neighbouring prefixes"],
        manifest: manifest()
            .node("m-[00000-59999]", "10.[100-159].[0-9].[0-99]", "b")
            .network("all", "{ file: all.txt }")
            .to_string(),
        policy: bundle::services(1, |_| "networks: [all], roles: [b]".to_owned(), ""),
        lists: vec![("all.txt".to_owned(), hosts(0..990_000))],
    };
    // Service number `nth` admits the hosts whose number has bit `nth` set.
    let bit = |nth: usize| hosts((0..70_000).filter(move |number| number >> nth & 1 != 0));
    let lists: Vec<_> = (0..17).map(|nth| (format!("l{nth}.txt"), bit(nth))).collect();
    let networks = (0..17).fold(manifest(), |manifest, nth| {
        manifest.network(&format!("l{nth}"), &format!("{{ file: l{nth}.txt }}"))
    });
    let classes = Case {
        name: "classes",
        code: rules::CLASSES,
        expected: ["classes by the services", "at most 65536", "share their lists"],
        manifest: networks.to_string(),
        policy: bundle::services(17, |nth| format!("networks: [l{nth}]"), ""),
        lists,
    };
    let limits = "    limits: { perSource: { newConnections: { rate: 10/s, burst: 20 } } }\n";
    let buckets = Case {
        name: "limiter states",
        code: rules::MEMBER_BUCKETS,
        expected: ["530000 limiter states", "at most 524288", "limit fewer services"],
        manifest: manifest().node("m-[0000-9999]", "10.[100-109].[0-9].[0-99]", "b").to_string(),
        policy: bundle::services(53, |_| "roles: [b]".to_owned(), limits),
        lists: Vec::new(),
    };
    vec![services, prefixes, classes, buckets]
}

#[test]
fn lint_and_daemon_refuse_policies_that_do_not_fit() {
    for Case { name, code, expected, manifest, policy, lists } in cases() {
        let texts = [("m.yaml".to_owned(), manifest), ("p.yaml".to_owned(), policy)];
        let texts = texts.into_iter().chain(lists);
        let bundle = Bundle::new("m.yaml", texts);

        // Load as lint does.
        let mut loader = Loader::new(&bundle);
        loader.check_manifest("m.yaml".as_ref());
        let (report, ..) = loader.finish("m.yaml".as_ref());
        let refusals: Vec<_> =
            report.diagnostics.iter().filter(|found| found.code == code).collect();
        let [refusal] = refusals.as_slice() else { panic!("{name}: {report:?}") };

        // Load as the daemon does.
        let error = match policy::load("m.yaml".as_ref(), &bundle) {
            Err(error) => error.to_string(),
            Ok(whole) => {
                let node = whole.cluster.node("n").expect("the node");
                policy::compile(&whole, node, &Placement::default()).expect_err(name).to_string()
            }
        };
        assert!(error.contains(&refusal.message), "{name}: {} and {error}", refusal.message);
        let text = format!("{}; {}", refusal.message, refusal.help.as_deref().unwrap_or_default());
        for part in expected {
            assert!(text.contains(part), "{name}: `{part}` not in {text}");
        }
    }
}

//! The compiled tries compared with the kernel's own trie, and in the kernel's program.
#![expect(clippy::print_stdout, reason = "the printed seed reproduces a failure")]

use std::collections::BTreeSet;

use aya::maps::lpm_trie::{Key as LpmKey, LpmTrie};
use guard_common::trie::Found;
use guard_test_support::bundle;
use guard_tests::{
    backend::{Backend as _, Host, Kernel},
    random::{self, Random},
    skip, text, world,
};
use guard_user::policy::{Bundle, trie::Trie};

use crate::host::tries::{Address, Prefix, items, probes, set};

/// Number of prefix sets that are compared with the kernel's trie.
const KERNEL_SETS: usize = 400;
/// Number of policies whose lists of sources are tested in the kernel's program.
const POLICIES: usize = 40;

#[test]
fn a_trie_agrees_with_the_kernels_trie() {
    if skip::kernel("a_trie_agrees_with_the_kernels_trie").is_none() {
        return;
    }
    let seed = random::seed();
    println!("TRAINGUARD_SEED={seed}");
    let mut random = Random::new(seed);
    for _ in 0..KERNEL_SETS {
        agrees::<u32, [u8; 4]>(&mut random, u32::to_be_bytes);
        agrees::<[u64; 2], [u8; 16]>(&mut random, |[high, low]| {
            (u128::from(high) << 64 | u128::from(low)).to_be_bytes()
        });
    }
}

fn agrees<K: Address, O: aya::Pod>(random: &mut Random, octets: impl Fn(K) -> O) {
    let set = set(random, K::BITS);
    let items = items::<K>(&set, random);
    let ours = Trie::new(&items);
    let mut theirs: LpmTrie<_, O, [u32; 2]> =
        LpmTrie::create(1 << 12, aya_obj::generated::BPF_F_NO_PREALLOC).expect("the kernel's trie");
    for item in &items {
        let found = [u32::from(item.found.class), item.found.buckets];
        theirs
            .insert(&LpmKey::new(item.len, octets(item.prefix)), found, 0)
            .expect("inserting into the trie");
    }
    for probe in probes(&set, random, K::BITS) {
        let key = K::of(probe);
        let found = theirs.get(&LpmKey::new(K::BITS, octets(key)), 0).unwrap_or_default();
        let Found { class, buckets } = ours.find(key);
        assert_eq!([u32::from(class), buckets], found, "{key:?} in {items:?}");
    }
}

/// The lookup in the kernel is the same code; this test shows that compiler, verifier and maps preserve
/// its behavior.
#[test]
fn the_program_finds_the_same_prefixes_as_the_host() {
    if skip::kernel("the_program_finds_the_same_prefixes_as_the_host").is_none() {
        return;
    }
    let seed = random::seed();
    println!("TRAINGUARD_SEED={seed}");
    let mut random = Random::new(seed);
    for _ in 0..POLICIES {
        // A policy uses `any` instead of a prefix of length 0.
        let some = |max_len| set(&mut random, max_len).into_iter().filter(|(_, len)| *len > 0);
        let [four, six] = [32, 128].map(some).map(BTreeSet::from_iter);
        let cidrs: Vec<String> = four.iter().map(cidr4).chain(six.iter().map(cidr6)).collect();
        if cidrs.is_empty() {
            continue;
        }
        let policy = policy(&cidrs, &mut random);
        let mut host = Host::new(&policy);
        let mut kernel = Kernel::new(&policy).unwrap_or_else(|error| panic!("{error}"));
        let four = probes(&four, &mut random, 32);
        let six = probes(&six, &mut random, 128);
        let from = four.iter().map(|bits| format!("ipv4 from={}", address4(*bits)));
        for from in from.chain(six.iter().map(|bits| format!("ipv6 from={}", address6(*bits)))) {
            let port = 1 + random.below(3);
            let frame = text::frame(&format!("{from} / tcp to={port} flags=S")).expect("a frame");
            let (of_host, of_kernel) = (host.evaluate(&frame, 1), kernel.evaluate(&frame, 1));
            assert_eq!(of_host, of_kernel, "TRAINGUARD_SEED={seed}: {from} to {port}, {cidrs:?}");
        }
        assert_eq!(host.counts(), kernel.counts(), "TRAINGUARD_SEED={seed}");
    }
}

fn address4(bits: u128) -> std::net::Ipv4Addr {
    std::net::Ipv4Addr::from_bits(u32::of(bits))
}

fn address6(bits: u128) -> std::net::Ipv6Addr {
    std::net::Ipv6Addr::from_bits(bits)
}

fn cidr4(&(bits, len): &Prefix) -> String {
    format!("{}/{len}", address4(bits))
}

fn cidr6(&(bits, len): &Prefix) -> String {
    format!("{}/{len}", address6(bits))
}

/// Returns a policy of three services, each with some of the prefixes.
fn policy(cidrs: &[String], random: &mut Random) -> guard_user::policy::compiled::CompiledPolicy {
    let services = (1..=3).map(|service| {
        let some: Vec<String> = cidrs
            .iter()
            .filter(|_| random.chance(60))
            .chain([&cidrs[0]])
            .collect::<BTreeSet<_>>()
            .into_iter()
            .map(|cidr| format!("\"{cidr}\""))
            .collect();
        let allow = format!("cidrs: [{}]", some.join(", "));
        bundle::service(&format!("s{service}"), "a", &format!("tcp/{service}"), &allow)
    });
    let text = bundle::policy("p", services);
    let manifest = bundle::cluster("c").interfaces("lo").node("n", "10.77.0.10", "a");
    let texts = [("c.yaml", manifest.to_string()), ("p.yaml", text)];
    world::compile(&world::load(&Bundle::new("c.yaml", texts)), "n")
}

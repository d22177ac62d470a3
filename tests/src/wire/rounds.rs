//! Rounds: each measures every case once, in changing order, so that other load on the machine affects
//! all cases alike.

use anyhow::Result;

use crate::random::Random;

/// Measures every case once per round. Returns, for each case, the results of all rounds.
///
/// # Errors
/// The first error of a measurement.
pub fn interleaved<T>(
    cases: usize,
    rounds: usize,
    mut measure: impl FnMut(usize) -> Result<T>,
) -> Result<Vec<Vec<T>>> {
    let mut random = Random::new(1);
    let mut results: Vec<Vec<T>> = (0..cases).map(|_| Vec::new()).collect();
    for _ in 0..rounds {
        for case in shuffled(cases, &mut random) {
            results[case].push(measure(case)?);
        }
    }
    Ok(results)
}

fn shuffled(count: usize, random: &mut Random) -> Vec<usize> {
    let mut order: Vec<usize> = (0..count).collect();
    for at in (1..count).rev() {
        order.swap(at, random.below(at + 1));
    }
    order
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_round_runs_every_case_once() {
        let mut order = Vec::new();
        let results = interleaved(5, 3, |case| {
            order.push(case);
            Ok(case)
        });
        assert_eq!(results.unwrap(), (0..5).map(|case| vec![case; 3]).collect::<Vec<_>>());
        assert_ne!(order[..5], order[5..10]);
    }
}

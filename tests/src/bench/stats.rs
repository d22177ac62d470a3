//! Medians and ratios over rounds.

/// Returns the median of some figures; 0 if there are none.
pub fn median(mut figures: Vec<f64>) -> f64 {
    figures.sort_by(f64::total_cmp);
    let middle = figures.len() / 2;
    match figures.as_slice() {
        [] => 0.0,
        sorted if sorted.len() % 2 == 1 => sorted[middle],
        sorted => f64::midpoint(sorted[middle - 1], sorted[middle]),
    }
}

/// Returns the median of a comparison of two programs in each round. Comparing within a round cancels
/// slow phases of the machine, which slow down both programs.
pub fn median_of(ours: &[f64], theirs: &[f64], compare: impl Fn(f64, f64) -> f64) -> f64 {
    median(ours.iter().zip(theirs).map(|(ours, theirs)| compare(*ours, *theirs)).collect())
}

/// Returns the median ratio of two programs, round by round.
pub fn ratio(ours: &[f64], theirs: &[f64]) -> f64 {
    median_of(ours, theirs, |ours, theirs| ours / theirs)
}

/// Returns the median difference of two programs, round by round.
pub fn difference(ours: &[f64], theirs: &[f64]) -> f64 {
    median_of(ours, theirs, |ours, theirs| ours - theirs)
}

/// Returns the minimum and the maximum ratio of any round, which show how reliable the median is.
pub fn spread(ours: &[f64], theirs: &[f64]) -> [f64; 2] {
    let ratios = || ours.iter().zip(theirs).map(|(ours, theirs)| ours / theirs);
    [ratios().fold(f64::INFINITY, f64::min), ratios().fold(0.0, f64::max)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_spread_shows_slow_rounds() {
        let [least, greatest] = spread(&[2.0, 30.0], &[1.0, 10.0]);
        assert!((least - 2.0).abs() < 1e-9 && (greatest - 3.0).abs() < 1e-9);
    }

    #[test]
    fn one_slow_round_does_not_change_the_median() {
        assert!((median(vec![3.0, 1.0, 900.0]) - 3.0).abs() < 1e-9);
        assert!((median(vec![4.0, 1.0, 2.0, 3.0]) - 2.5).abs() < 1e-9);
        assert!(median(Vec::new()).abs() < 1e-9);
        assert!((ratio(&[2.0, 20.0, 6.0], &[1.0, 10.0, 2.0]) - 2.0).abs() < 1e-9);
    }
}

//! Cuts a payload into fragments, and sends them in odd ways.

use super::Builder;

/// A part of a payload.
#[derive(Debug, Clone)]
pub(super) struct Piece {
    /// Offset in the payload in bytes, a multiple of 8.
    pub(super) offset: u16,
    /// Whether other pieces follow.
    pub(super) more: bool,
    /// The bytes.
    pub(super) bytes: Vec<u8>,
}

impl Builder {
    /// Cuts a payload of more than 16 bytes at one to three places, often within the headers.
    pub(super) fn pieces(&mut self, payload: &[u8]) -> Vec<Piece> {
        self.facts.fragmented = true;
        let mut cuts: Vec<usize> = (0..*self.random.pick(&[1, 1, 2, 3]))
            .map(|_| {
                if self.random.chance(70) {
                    *self.random.pick(&[8, 16, 24, 32, 40])
                } else {
                    8 * (1 + self.random.below(payload.len() / 8))
                }
            })
            .filter(|cut| *cut < payload.len())
            .collect();
        cuts.extend([0, payload.len()]);
        cuts.sort_unstable();
        cuts.dedup();
        self.say(format!("fragments {cuts:?}"));
        let pieces = cuts.windows(2).map(|ends| Piece {
            offset: u16::try_from(ends[0]).expect("a payload that fits a packet"),
            more: ends[1] < payload.len(),
            bytes: payload[ends[0]..ends[1]].to_vec(),
        });
        pieces.collect()
    }

    /// Changes order and number of the pieces: reversed, repeated, with an overlap, or with one
    /// missing.
    pub(super) fn shuffle(&mut self, pieces: &mut Vec<Piece>) {
        let (at, from) = (self.random.below(pieces.len() + 1), self.random.below(pieces.len()));
        match self.random.below(100) {
            0..18 => {
                pieces.reverse();
                self.say("reversed");
            }
            18..28 => {
                pieces.insert(at, pieces[from].clone());
                self.say("duplicate");
            }
            28..36 => {
                // The same place with other bytes at its end.
                let mut piece = pieces[from].clone();
                let len = piece.bytes.len();
                piece.bytes[len.saturating_sub(8)..].fill(0);
                pieces.insert(at, piece);
                self.say("overlap");
            }
            36..40 => {
                let mut piece = pieces[from].clone();
                piece.offset = piece.offset.saturating_sub(8);
                pieces.insert(at, piece);
                self.say("overlap by 8");
            }
            40..43 => {
                pieces.remove(from);
                // A case has a frame.
                if pieces.is_empty() {
                    pieces.push(Piece { offset: 8, more: false, bytes: vec![0; 8] });
                }
                self.say("one missing");
            }
            _ => {}
        }
    }
}

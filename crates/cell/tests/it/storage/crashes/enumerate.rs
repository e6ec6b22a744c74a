//! All that a power cut may leave, at every step of a script.

use std::fmt;
use std::sync::Arc;

use bramah_cell::disk::imagined::{Fate, ImaginedDisk, SECTOR_BYTES, UnsyncedPiece, Wreck};

use super::super::sim_disk::Random;
use super::model::Model;
use super::replica::{Lie, Plan, Replica, Step};

/// How much is tried.
#[derive(Clone, Copy, Debug)]
pub(super) struct Share {
    /// So many combinations of fates are tried exhaustively; of more, those that [`choices`] picks.
    pub(super) exhaustive: usize,
    /// Random ones besides, where not all are tried.
    pub(super) samples: usize,
    /// Power cuts within a recovery that are followed, of each disk whose recovery is cut at all.
    pub(super) depth: usize,
    /// Disks whose recovery is cut at each step, for each cut of the script: about so many, and two more.
    pub(super) recoveries: u64,
    pub(super) seed: u64,
}

/// What was tried.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Counts {
    /// Operations at which the power was cut.
    pub(super) cuts: u64,
    /// Disks that were found after a cut, opened and compared.
    pub(super) points: u64,
    /// Cuts (with a prefix of the names) of which every combination was tried.
    pub(super) exhausted: u64,
    /// Cuts of which every subset of sectors was kept and lost, but not every tear of each with each.
    pub(super) subsets: u64,
    /// Cuts with too many unsynced sectors for that.
    pub(super) sampled: u64,
    /// Cuts in the middle of a recovery.
    pub(super) in_recovery: u64,
}

impl Counts {
    pub(super) fn add(&mut self, other: Counts) {
        self.cuts += other.cuts;
        self.points += other.points;
        self.exhausted += other.exhausted;
        self.subsets += other.subsets;
        self.sampled += other.sampled;
        self.in_recovery += other.in_recovery;
    }
}

impl fmt::Display for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Counts { cuts, points, exhausted, subsets, sampled, in_recovery } = self;
        write!(
            f,
            "{points} crash points: power cuts at {cuts} changes, and at {in_recovery} within a recovery; {exhausted} times all \
             fates, {subsets} times all subsets, {sampled} times a sample"
        )
    }
}

pub(super) struct Enumerator {
    pub(super) share: Share,
    pub(super) lie: Option<Lie>,
    pub(super) counts: Counts,
    random: Random,
}

/// Fates of the pieces in turn.
type Choice = Vec<Fate>;

impl Enumerator {
    pub(super) fn new(share: Share, lie: Option<Lie>) -> Self {
        Self { share, lie, counts: Counts::default(), random: Random::new(share.seed) }
    }

    /// Cuts the power before each change that the script makes to the disk, and after the last one. A cut *after*
    /// a change and before its caller hears of it leaves the same disk as one before the next change, with less
    /// promised.
    /// What all scripts begin with, `known` steps, is tried by one of them.
    pub(super) fn script(&mut self, script: &[Step], known: usize) -> Result<(), String> {
        for cut in self.changes(&script[..known])?.. {
            let plan = Plan::new(cut, self.lie);
            let mut replica = Replica::empty(Arc::clone(&plan));
            for step in script {
                replica.take(*step).map_err(|error| format!("before any crash: {error}"))?;
                if replica.power_is_cut() {
                    break;
                }
            }
            let whole = !replica.power_is_cut();
            let at = plan.cut_at().unwrap_or_else(|| "the end".to_owned());
            self.counts.cuts += 1;
            self.every_disk(&replica, script)
                .map_err(|error| format!("power cut {cut}, at {at}: {error}"))?;
            if whole {
                break;
            }
        }
        Ok(())
    }

    /// How often the steps change the disk.
    fn changes(&self, steps: &[Step]) -> Result<u64, String> {
        let plan = Plan::new(u64::MAX, self.lie);
        let mut replica = Replica::empty(Arc::clone(&plan));
        steps.iter().try_for_each(|step| replica.take(*step))?;
        Ok(plan.changes())
    }

    fn every_disk(&mut self, replica: &Replica, script: &[Step]) -> Result<(), String> {
        let wreck = replica.wreck();
        for names in 0..=wreck.unsynced_names() {
            let pieces = wreck.pieces(names);
            let choices = self.choices(&pieces);
            let all = choices.len();
            for (number, choice) in choices.into_iter().enumerate() {
                let disk = found(replica.disk(), &wreck, names, &choice);
                self.point(&disk, &replica.model, script)
                    .map_err(|error| explain(names, &pieces, &choice, &error))?;
                // The first lost all; the last kept all, or is a random one.
                let edge = names == 0 && number == 0 || names == wreck.unsynced_names() && number + 1 == all;
                let each = (all * (wreck.unsynced_names() + 1)) as u64;
                if edge || self.random.below(each) < self.share.recoveries {
                    let depth = self.share.depth;
                    self.cut_recovery(&disk, &replica.model, depth).map_err(|error| {
                        explain(names, &pieces, &choice, &format!("in its recovery: {error}"))
                    })?;
                }
            }
        }
        Ok(())
    }

    /// A disk as it may be found: it opens, holds what it must, is written on, and crashes once more.
    fn point(&mut self, disk: &ImaginedDisk, model: &Model, script: &[Step]) -> Result<(), String> {
        self.counts.points += 1;
        let plan = Plan::new(u64::MAX, self.lie);
        let mut replica = Replica::new(&disk.copy(), Arc::clone(&plan), model.clone());
        replica.take(Step::Restart)?;
        let bytes = script.iter().find_map(|step| match step {
            Step::Append { bytes, .. } => Some(*bytes),
            _ => None,
        });
        // Of the size that the script's entries have: what they left behind would lie where the next one ends.
        replica.take(Step::Append { entries: 1, bytes: bytes.unwrap_or(100) })?;
        let wreck = replica.wreck();
        let names = self.random.below(wreck.unsynced_names() as u64 + 1) as usize;
        let choice: Choice = wreck.pieces(names).iter().map(|piece| self.random_fate(piece)).collect();
        let again = found(replica.disk(), &wreck, names, &choice);
        let mut replica = Replica::new(&again, Plan::new(u64::MAX, self.lie), replica.model.clone());
        replica.take(Step::Restart).map_err(|error| format!("after one more append and crash: {error}"))
    }

    /// Recovery writes too: the power goes at each of its steps, and again in the recovery from that.
    fn cut_recovery(&mut self, disk: &ImaginedDisk, model: &Model, depth: usize) -> Result<(), String> {
        if depth == 0 {
            return Ok(());
        }
        for cut in 0.. {
            let plan = Plan::new(cut, self.lie);
            let mut replica = Replica::new(&disk.copy(), Arc::clone(&plan), model.clone());
            replica.take(Step::Restart)?;
            if !replica.power_is_cut() {
                return Ok(());
            }
            self.counts.in_recovery += 1;
            let wreck = replica.wreck();
            let fates = [Some(Fate::Lose), Some(Fate::Keep), None];
            // A small share takes them in turn.
            let fates = if self.share.recoveries == 0 { &fates[cut as usize % 3..][..1] } else { &fates[..] };
            for all in fates.iter().copied() {
                let names = match all {
                    Some(Fate::Lose) => 0,
                    Some(_) => wreck.unsynced_names(),
                    None => self.random.below(wreck.unsynced_names() as u64 + 1) as usize,
                };
                let pieces = wreck.pieces(names);
                let choice: Choice =
                    pieces.iter().map(|piece| all.unwrap_or_else(|| self.random_fate(piece))).collect();
                let left = found(replica.disk(), &wreck, names, &choice);
                let at = plan.cut_at().unwrap_or_default();
                let tried = self.point(&left, &replica.model, &[]);
                // Seldom: what follows grows with the square of a recovery's steps.
                let tried = tried.and_then(|()| match all {
                    None if self.share.depth == depth && self.random.below(16) == 0 => {
                        self.cut_recovery(&left, &replica.model, depth - 1)
                    }
                    _ => Ok(()),
                });
                tried.map_err(|error| {
                    format!("cut {cut}, at {at}: {}", explain(names, &pieces, &choice, &error))
                })?;
            }
        }
        Ok(())
    }

    fn random_fate(&mut self, piece: &UnsyncedPiece) -> Fate {
        let fates = fates(piece, self.random.below(SECTOR_BYTES));
        fates[self.random.below(fates.len() as u64) as usize]
    }

    /// Every combination of fates if they are not too many. Else every subset kept, the others lost, and each
    /// piece's other fates while the rest is all kept or all lost. Else every pair of pieces by itself. Where
    /// not all were tried, random ones besides.
    fn choices(&mut self, pieces: &[UnsyncedPiece]) -> Vec<Choice> {
        let each: Vec<Vec<Fate>> =
            pieces.iter().map(|piece| fates(piece, self.random.below(SECTOR_BYTES))).collect();
        let limit = self.share.exhaustive;
        if combinations(&each, limit).is_some() {
            self.counts.exhausted += 1;
            return product(&each);
        }
        let two = vec![vec![Fate::Lose, Fate::Keep]; pieces.len()];
        let mut choices = if combinations(&two, limit).is_some() {
            self.counts.subsets += 1;
            product(&two)
        } else {
            self.counts.sampled += 1;
            pairs(pieces.len(), limit)
        };
        for rest in [Fate::Lose, Fate::Keep] {
            for (at, fates) in each.iter().enumerate() {
                let others = fates.iter().filter(|fate| !matches!(fate, Fate::Lose | Fate::Keep));
                choices.extend(others.map(|fate| with(vec![rest; pieces.len()], &[(at, *fate)])));
            }
        }
        for _ in 0..self.share.samples {
            choices.push(pieces.iter().map(|piece| self.random_fate(piece)).collect());
        }
        choices
    }
}

/// What may become of a piece; `torn` is where it is torn.
fn fates(piece: &UnsyncedPiece, torn: u64) -> Vec<Fate> {
    let mut fates = vec![Fate::Lose];
    fates.extend((1..piece.versions).map(Fate::Version));
    if piece.offset.is_some() {
        fates.push(Fate::Torn(torn));
    }
    fates.push(Fate::Keep);
    fates
}

/// How many there are, unless they are more than `limit`.
fn combinations(each: &[Vec<Fate>], limit: usize) -> Option<usize> {
    each.iter().try_fold(1_usize, |product, fates| {
        product.checked_mul(fates.len()).filter(|product| *product <= limit)
    })
}

fn product(each: &[Vec<Fate>]) -> Vec<Choice> {
    each.iter().fold(vec![Vec::new()], |choices, fates| {
        let longer = choices.iter().flat_map(|choice| {
            fates.iter().map(move |fate| choice.iter().copied().chain([*fate]).collect::<Choice>())
        });
        longer.collect()
    })
}

fn with(mut choice: Choice, fates: &[(usize, Fate)]) -> Choice {
    fates.iter().for_each(|(at, fate)| choice[*at] = *fate);
    choice
}

/// All lost, all kept, and in both each piece and each pair of neighbours, then of others, the other way.
fn pairs(pieces: usize, limit: usize) -> Vec<Choice> {
    let mut choices = Vec::new();
    for (rest, other) in [(Fate::Lose, Fate::Keep), (Fate::Keep, Fate::Lose)] {
        let all = vec![rest; pieces];
        choices.push(all.clone());
        for distance in 0..pieces {
            for at in 0..pieces - distance {
                choices.push(with(all.clone(), &[(at, other), (at + distance, other)]));
            }
            if choices.len() > limit {
                break;
            }
        }
    }
    choices
}

fn found(disk: &ImaginedDisk, wreck: &Wreck, names: usize, choice: &Choice) -> ImaginedDisk {
    let mut fates = choice.iter();
    disk.found(wreck, names, &mut |_| *fates.next().expect("a fate for each piece"))
}

fn explain(names: usize, pieces: &[UnsyncedPiece], choice: &Choice, error: &str) -> String {
    let mut text = format!("{error}\nwith {names} unsynced changes of names, and");
    for (piece, fate) in pieces.iter().zip(choice) {
        let place = piece.offset.map_or("length".to_owned(), |offset| format!("byte {offset}"));
        text.push_str(&format!("\n  {} {place}: {fate:?}", piece.path.display()));
    }
    text
}

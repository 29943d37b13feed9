//! Whoever kills and stops from outside: some member, whatever it does, each time the server has counted so many requests more.

use std::cell::Cell;
use std::time::Duration;

use super::Campaign;
use super::progress::Moment;
use super::versions::Dice;

/// Writers that may be stopped from outside: those after the ones that stop themselves, but for the last two.
const STOPPED: std::ops::Range<u64> = super::STOPPING..super::WRITERS - 2;
/// How long it is looked whether there are new requests before it is looked again.
const LOOK: Duration = Duration::from_secs(1);
/// When so many looks in a row find no new request, something hangs.
const LOOKS: u32 = 180;

impl Campaign {
    /// Kills and stops until all is over.
    pub(super) fn disturb(&self) {
        let (mut dice, mut stopped, mut looks) = (Dice::new([5, 55]), vec![], 0);
        let (mut seen, mut next) = (0, 40);
        while !self.progress.is_over() {
            let came = Cell::new(seen);
            let is_now = self.server.wait_for(LOOK, |requests| {
                came.set(requests.len());
                requests.len() >= next
            });
            stopped.retain(|(seat, moment): &(u64, Moment)| {
                let stays = !self.progress.came(moment);
                if !stays {
                    self.seats[*seat as usize].go_on();
                }
                stays
            });
            looks = if came.get() == seen { looks + 1 } else { 0 };
            seen = came.get();
            if looks == LOOKS {
                self.seats.iter().for_each(|seat| seat.end());
                panic!("nobody asks for anything any more");
            }
            if is_now {
                next = seen + 20 + dice.below(160) as usize;
                self.strike(&mut dice, &mut stopped);
            }
        }
        stopped.iter().for_each(|(seat, _)| self.seats[*seat as usize].go_on());
    }

    fn strike(&self, dice: &mut Dice, stopped: &mut Vec<(u64, Moment)>) {
        let (kind, victim) = (dice.below(2), dice.below(self.seats.len() as u64));
        if kind == 0 {
            // It is counted when it is found dead.
            self.seats[victim as usize].kill();
            return;
        }
        let victim = STOPPED.start + victim % (STOPPED.end - STOPPED.start);
        if self.seats[victim as usize].stop() {
            self.report.stopped();
            stopped.push((victim, self.progress.when_others_went_on()));
        }
    }
}

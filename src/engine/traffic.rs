//! Figures of real traffic by color. The front reports single requests or sums, and a watch compares the new color with
//! the old one. In memory only: after a restart of bgd counting begins anew, and a watch says that it saw too little.
//! Decides nothing; `rules::traffic` judges.

use std::{
    collections::VecDeque,
    sync::{Mutex, MutexGuard, PoisonError},
};

use crate::{
    front::traffic::RequestSample,
    rules::{
        ids::{Color, ReleaseId},
        traffic::Figures,
    },
};

/// Number of sums kept for "the last minutes", one for each call of [`Traffic::minute`] with new traffic.
const MINUTES: usize = 5;

/// Counts of real traffic.
#[derive(Debug, Default)]
pub struct Traffic {
    colors: Mutex<[ColorCounts; 2]>,
}

/// Counts of one color.
#[derive(Debug, Default)]
struct ColorCounts {
    /// The release that answered; another release begins at zero.
    release: Option<ReleaseId>,
    total: Figures,
    /// `total` when the route last changed.
    marked: Figures,
    /// `total` at the ends of past minutes, oldest first.
    minutes: VecDeque<Figures>,
    /// The front's own sums when they were last taken over.
    taken: Figures,
}

impl ColorCounts {
    fn of(&mut self, release: Option<&ReleaseId>) -> &mut Self {
        if release.is_some() && self.release.as_ref() != release {
            let taken = std::mem::take(&mut self.taken);
            *self = Self { release: release.cloned(), taken, ..Self::default() };
        }
        self
    }
}

/// Requests since the route last changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counted {
    pub blue: u64,
    pub green: u64,
}

impl Counted {
    /// A color's part of all requests, in hundredths of a percent, rounded; `None` without any.
    pub fn part(self, color: Color) -> Option<u64> {
        let all = self.blue + self.green;
        let part = match color {
            Color::Blue => self.blue,
            Color::Green => self.green,
        };
        (part * 10_000 + all / 2).checked_div(all)
    }
}

impl Traffic {
    /// Counts one request, answered by the release on its color.
    pub fn add(&self, sample: &RequestSample, release: Option<&ReleaseId>) {
        let mut lines = self.lines();
        let line = lines[index(sample.color)].of(release);
        line.total.requests += 1;
        line.total.errors += u64::from(sample.is_error());
        if sample.status.is_some() {
            line.total.took.record(sample.took);
        }
    }

    /// Takes over the front's own sums of a color since it began counting.
    pub fn take_over(&self, color: Color, sums: Figures, release: Option<&ReleaseId>) {
        let mut lines = self.lines();
        let line = lines[index(color)].of(release);
        line.total = line.total.plus(&sums.since(&line.taken));
        line.taken = sums;
    }

    /// Marks a change of the route: a watch judges what comes after it.
    pub fn mark(&self) {
        for line in self.lines().iter_mut() {
            line.marked = line.total.clone();
        }
    }

    /// Ends a minute. One without traffic is not kept: "the last minutes" of a color are those with traffic.
    pub fn minute(&self) {
        for line in self.lines().iter_mut() {
            if line.minutes.back().is_some_and(|last| last.requests == line.total.requests) {
                continue;
            }
            line.minutes.push_back(line.total.clone());
            if line.minutes.len() > MINUTES {
                line.minutes.pop_front();
            }
        }
    }

    /// A color's figures since the route last changed.
    pub fn since_mark(&self, color: Color) -> Figures {
        let lines = self.lines();
        let line = &lines[index(color)];
        line.total.since(&line.marked)
    }

    /// A color's figures over its last minutes with traffic.
    pub fn last_minutes(&self, color: Color) -> Figures {
        let lines = self.lines();
        let line = &lines[index(color)];
        match line.minutes.front().filter(|_| line.minutes.len() == MINUTES) {
            Some(oldest) => line.total.since(oldest),
            None => line.total.clone(),
        }
    }

    /// Requests since the route last changed.
    pub fn counted(&self) -> Counted {
        let [blue, green] = Color::ALL.map(|color| self.since_mark(color).requests);
        Counted { blue, green }
    }

    fn lines(&self) -> MutexGuard<'_, [ColorCounts; 2]> {
        self.colors.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn index(color: Color) -> usize {
    match color {
        Color::Blue => 0,
        Color::Green => 1,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::rules::ids::CommitId;

    fn release(seq: u64) -> ReleaseId {
        let commit: CommitId = "0123456789abcdef0123456789abcdef01234567".parse().unwrap();
        ReleaseId::new("20261121T101112Z", seq, &commit)
    }

    fn add(traffic: &Traffic, (color, seq): (Color, u64), times: u64) {
        let sample = RequestSample { color, status: Some(200), took: Duration::from_millis(3) };
        (0..times).for_each(|_| traffic.add(&sample, Some(&release(seq))));
    }

    #[test]
    fn a_watch_sees_what_came_since_the_route_changed_and_the_old_color_its_last_minutes() {
        let traffic = Traffic::default();
        for _ in 0..10 {
            add(&traffic, (Color::Blue, 1), 100);
            traffic.minute();
        }
        add(&traffic, (Color::Green, 2), 7);
        traffic.mark();
        add(&traffic, (Color::Green, 2), 25);
        add(&traffic, (Color::Blue, 1), 75);
        assert_eq!(traffic.since_mark(Color::Green).requests, 25);
        assert_eq!(traffic.last_minutes(Color::Blue).requests, 475);
        assert_eq!(traffic.counted(), Counted { blue: 75, green: 25 });
        assert_eq!(
            (traffic.counted().part(Color::Green), Counted::default().part(Color::Blue)),
            (Some(2500), None)
        );
        traffic.minute();
        traffic.minute();
        assert_eq!(traffic.last_minutes(Color::Blue).requests, 375, "a minute without traffic is none");
    }

    #[test]
    fn another_release_on_a_color_begins_at_nothing() {
        let traffic = Traffic::default();
        add(&traffic, (Color::Blue, 1), 100);
        add(&traffic, (Color::Blue, 3), 1);
        assert_eq!(traffic.last_minutes(Color::Blue).requests, 1);
        let sums = |requests| Figures { requests, ..Figures::default() };
        traffic.take_over(Color::Green, sums(50), Some(&release(2)));
        traffic.take_over(Color::Green, sums(60), Some(&release(4)));
        traffic.take_over(Color::Green, sums(65), Some(&release(4)));
        assert_eq!(traffic.last_minutes(Color::Green).requests, 15);
        // The front was started anew.
        traffic.take_over(Color::Green, sums(2), Some(&release(4)));
        assert_eq!(traffic.last_minutes(Color::Green).requests, 17);
    }

    #[test]
    fn no_answer_is_an_error_and_has_no_duration() {
        let traffic = Traffic::default();
        let sample = RequestSample { color: Color::Blue, status: None, took: Duration::from_millis(3) };
        traffic.add(&sample, None);
        let seen = traffic.last_minutes(Color::Blue);
        assert_eq!((seen.requests, seen.errors, seen.took.total()), (1, 1, 0));
    }
}

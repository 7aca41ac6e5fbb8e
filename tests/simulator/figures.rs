//! What schedules did, added up for the report.

use std::{fmt, ops::AddAssign};

use bgd::rules::words::Outcome;

macro_rules! figures {
    ($($name:ident: $text:literal),* $(,)?) => {
        #[derive(Debug, Default, Clone, Copy)]
        pub struct Figures {
            $(pub $name: u64,)*
            /// Ends of deploys, in the order of [`Outcome::ALL`].
            pub outcomes: [u64; 5],
        }

        impl AddAssign for Figures {
            fn add_assign(&mut self, other: Self) {
                $(self.$name += other.$name;)*
                for (sum, ends) in self.outcomes.iter_mut().zip(other.outcomes) {
                    *sum += ends;
                }
            }
        }

        impl fmt::Display for Figures {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                $(writeln!(f, "{:>14}  {}", self.$name, $text)?;)*
                for (outcome, ends) in Outcome::ALL.iter().zip(self.outcomes) {
                    writeln!(f, "{ends:>14}  deploys that ended {outcome}")?;
                }
                Ok(())
            }
        }
    };
}

figures! {
    schedules: "schedules",
    real_stores: "of them with the real store",
    steps: "steps",
    deploys: "deploys begun",
    flips: "flips asked for",
    crashes: "crashes of the daemon",
    power_losses: "power losses",
    failed: "effects made to fail",
    repeated: "reports that came twice",
    late: "reports that came again much later",
    deaths: "instances that died by themselves",
    sick: "instances that turned unhealthy",
    shares: "shares of a canary that came in force",
    inconclusive: "watches of too little traffic",
    front_restarts: "restarts of the front",
    front_broken: "fronts that took no route",
    edits: "edits of the front's file by hand",
    strangers: "strangers on a port",
    jumps: "jumps of the wall clock",
    disk_full: "full disks",
    unrecorded: "steps that could not be recorded at once",
}

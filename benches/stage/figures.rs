//! Medians and the table they are printed in.

use std::time::Duration;

/// Durations of one thing measured several times.
#[derive(Debug, Default, Clone)]
pub struct Sample(Vec<f64>);

impl Sample {
    /// Adds one, in milliseconds.
    pub fn add(&mut self, took: Duration) {
        self.0.push(took.as_secs_f64() * 1e3);
    }

    /// Adds one in any unit.
    pub fn add_value(&mut self, value: f64) {
        self.0.push(value);
    }

    /// How many.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// The middle one; 0 when there is none.
    pub fn median(&self) -> f64 {
        self.quantile(0.5)
    }

    /// Of the sorted values the one at this part of the way.
    pub fn quantile(&self, part: f64) -> f64 {
        let mut sorted = self.0.clone();
        sorted.sort_by(f64::total_cmp);
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a place in a short list"
        )]
        let at = (sorted.len().saturating_sub(1) as f64 * part).round() as usize;
        sorted.get(at).copied().unwrap_or(0.0)
    }

    /// Median and 90th percentile, in milliseconds.
    pub fn show(&self) -> [String; 2] {
        [ms(self.median()), ms(self.quantile(0.9))]
    }
}

/// Milliseconds with as many digits as mean something.
pub fn ms(value: f64) -> String {
    if value.abs() < 10.0 { format!("{value:.2} ms") } else { format!("{value:.0} ms") }
}

/// Whether an aim is met, for people.
pub fn verdict(value: f64, most: f64) -> String {
    if value <= most { "met".to_owned() } else { "MISSED".to_owned() }
}

/// Rows of equal length, printed with aligned columns.
#[derive(Debug)]
pub struct Table {
    title: String,
    rows: Vec<Vec<String>>,
}

impl Table {
    /// With the names of its columns.
    pub fn new(title: &str, columns: &[&str]) -> Self {
        Self { title: title.to_owned(), rows: vec![columns.iter().map(|name| (*name).to_owned()).collect()] }
    }

    /// One more row.
    pub fn row<T: Into<String>>(&mut self, cells: impl IntoIterator<Item = T>) {
        self.rows.push(cells.into_iter().map(Into::into).collect());
    }

    /// On stdout.
    pub fn print(&self) {
        let columns = self.rows.iter().map(Vec::len).max().unwrap_or(0);
        let width = |column: usize| {
            self.rows
                .iter()
                .filter_map(|row| row.get(column))
                .map(|cell| cell.chars().count())
                .max()
                .unwrap_or(0)
        };
        let widths: Vec<usize> = (0..columns).map(width).collect();
        println!("\n{}", self.title);
        for row in &self.rows {
            let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}"));
            println!("  {}", cells.collect::<Vec<_>>().join("  ").trim_end());
        }
    }
}

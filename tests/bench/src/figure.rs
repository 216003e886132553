//! Figures: what a row measured, its spread, what stands beside it, and the target if there is one.
//!
//! Made by the rows, shown by `output`. Must never judge: a missed target is printed, not failed,
//! since machines are noisy.

use serde::Serialize;

/// The results of several runs of the same thing.
#[derive(Clone, Debug, Serialize)]
pub struct Sample {
    /// The middle one, or the mean of the middle two.
    pub median: f64,
    /// The smallest.
    pub min: f64,
    /// The largest.
    pub max: f64,
    /// All of them in the order of the runs.
    pub runs: Vec<f64>,
}

impl Sample {
    /// The sample of `runs`; `None` of no runs.
    pub fn of(runs: Vec<f64>) -> Option<Self> {
        let mut sorted = runs.clone();
        sorted.sort_by(f64::total_cmp);
        let middle = sorted.len() / 2;
        let upper = *sorted.get(middle)?;
        let lower = if sorted.len().is_multiple_of(2) { sorted[middle - 1] } else { upper };
        Some(Self {
            median: f64::midpoint(lower, upper),
            min: sorted[0],
            max: sorted[sorted.len() - 1],
            runs,
        })
    }
}

/// What a figure is compared with.
#[derive(Clone, Debug, Serialize)]
pub struct Beside {
    /// Its name.
    pub name: &'static str,
    /// Its results, of runs that took turns with ours.
    pub sample: Sample,
    /// Our median divided by its median.
    pub ratio: f64,
}

/// A bound that a figure is meant to keep.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Target {
    /// The median is to be below this.
    pub below: f64,
    /// Whether it is.
    pub met: bool,
}

/// One line of the table.
#[derive(Clone, Debug, Serialize)]
pub struct Figure {
    /// What was measured.
    pub name: String,
    /// In which unit.
    pub unit: &'static str,
    /// What is better: `less` or `more`.
    pub better: Better,
    /// Our results.
    pub sample: Sample,
    /// What they are compared with.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub beside: Option<Beside>,
    /// What they are meant to be.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub target: Option<Target>,
}

/// Which direction is the better one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Better {
    /// Latencies and costs.
    Less,
    /// Rates.
    More,
}

impl Figure {
    /// A figure alone.
    pub fn new(
        name: impl Into<String>,
        unit: &'static str,
        better: Better,
        runs: Vec<f64>,
    ) -> anyhow::Result<Self> {
        let name = name.into();
        let sample = Sample::of(runs).ok_or_else(|| anyhow::anyhow!("{name}: nothing was run"))?;
        Ok(Self { name, unit, better, sample, beside: None, target: None })
    }

    /// With what it is compared with.
    pub fn beside(mut self, name: &'static str, runs: Vec<f64>) -> Self {
        self.beside = Sample::of(runs).map(|sample| {
            let ratio = self.sample.median / sample.median;
            Beside { name, sample, ratio }
        });
        self
    }

    /// With the bound that its median is meant to keep.
    pub fn below(mut self, below: f64) -> Self {
        self.target = Some(Target { below, met: self.sample.median < below });
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_the_middle() {
        let odd = Sample::of(vec![5.0, 1.0, 9.0]).unwrap();
        assert_eq!((odd.median, odd.min, odd.max), (5.0, 1.0, 9.0));
        assert_eq!(odd.runs, [5.0, 1.0, 9.0]);
        assert_eq!(Sample::of(vec![4.0, 1.0, 2.0, 8.0]).unwrap().median, 3.0);
        assert!(Sample::of(Vec::new()).is_none());
    }

    #[test]
    fn targets_and_ratios_are_of_medians() {
        let figure = Figure::new("x", "us", Better::Less, vec![10.0, 20.0, 90.0]).unwrap();
        let figure = figure.beside("y", vec![40.0]).below(20.0);
        assert_eq!(figure.beside.unwrap().ratio, 0.5);
        assert!(!figure.target.unwrap().met);
    }
}

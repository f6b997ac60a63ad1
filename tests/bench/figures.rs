//! Figures: ours beside a peer's.

use serde_json::json;

/// A measured value, and the same of a peer.
#[derive(Clone, Debug)]
pub struct Figure {
    name: String,
    unit: &'static str,
    ours: f64,
    peer: &'static str,
    peer_value: f64,
    must_be_equal: bool,
}

impl Figure {
    /// A figure to look at.
    pub fn new(name: &str, unit: &'static str, ours: f64, peer: &'static str, peer_value: f64) -> Self {
        Self { name: name.into(), unit, ours, peer, peer_value, must_be_equal: false }
    }

    /// A figure that must equal its peer's.
    pub fn equal(name: &str, unit: &'static str, ours: f64, peer: &'static str, peer_value: f64) -> Self {
        Self { must_be_equal: true, ..Self::new(name, unit, ours, peer, peer_value) }
    }

    /// Whether it should equal its peer's, and does not.
    pub fn is_wrong(&self) -> bool {
        self.must_be_equal && (self.ours - self.peer_value).abs() > 0.5
    }

    fn ratio(&self) -> f64 {
        self.ours / self.peer_value
    }
}

/// Prints figures: one JSON object a line, or a table.
pub fn print(figures: &[Figure], json: bool) {
    if json {
        for figure in figures {
            let object = json!({
                "name": figure.name,
                "unit": figure.unit,
                "ours": rounded(figure.ours),
                "peer": figure.peer,
                "peer_value": rounded(figure.peer_value),
                "ratio": rounded(figure.ratio()),
            });
            println!("{object}");
        }
        return;
    }
    println!("{:<24} {:<10} {:>12} {:<10} {:>12} {:>8}", "figure", "unit", "ours", "peer", "peer's", "ratio");
    for figure in figures {
        let wrong = if figure.is_wrong() { "  must be equal" } else { "" };
        println!(
            "{:<24} {:<10} {:>12.0} {:<10} {:>12.0} {:>8.3}{wrong}",
            figure.name,
            figure.unit,
            figure.ours,
            figure.peer,
            figure.peer_value,
            figure.ratio()
        );
    }
}

/// To three decimals: more would be noise.
fn rounded(value: f64) -> f64 {
    (value * 1000.0).round() / 1000.0
}

/// The middle value; 0 of none.
pub fn median(values: Vec<f64>) -> f64 {
    quantile(values, 50)
}

/// The value that this many percent do not exceed (nearest rank); 0 of none.
pub fn quantile(mut values: Vec<f64>, percent: usize) -> f64 {
    values.sort_by(f64::total_cmp);
    let rank = (values.len() * percent).div_ceil(100);
    values.get(rank.saturating_sub(1)).copied().unwrap_or(0.0)
}

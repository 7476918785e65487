//! The table, or one JSON object per line.

use super::peers::Absent;

pub(crate) struct Report {
    json: bool,
    /// Those of the case that is being printed.
    rows: Vec<Row>,
}

/// One implementation in one case; times in nanoseconds per packet.
pub(crate) struct Row {
    pub(crate) case: String,
    pub(crate) name: String,
    pub(crate) median: f64,
    pub(crate) min: f64,
    pub(crate) max: f64,
    pub(crate) samples: u64,
    /// Samples taken while the processor's speed was another.
    pub(crate) thrown_away: u64,
    /// What AES alone would take.
    pub(crate) bound: Option<f64>,
}

/// Ratios are to this one.
const YARDSTICK: &str = "ipsec-mb";

impl Report {
    pub(crate) fn new(json: bool) -> Self {
        Self { json, rows: Vec::new() }
    }

    pub(crate) fn limit(&self, nanoseconds: Option<f64>) {
        match (self.json, nanoseconds) {
            (true, Some(each)) => println!(
                r#"{{"bench":"crypto","case":"limit/vaesenc","impl":"processor","unit":"ns_per_instruction","median":{each:.4},"min":{each:.4},"max":{each:.4},"samples":400}}"#
            ),
            (false, Some(each)) => println!(
                "VAESENC on 512 bits: {:.2} G/s; so AES-256 at most {:.1} GB/s, AES-128 {:.1}",
                1.0 / each,
                64.0 / 14.0 / each,
                64.0 / 10.0 / each
            ),
            (true, None) => println!(
                r#"{{"bench":"crypto","case":"limit/vaesenc","impl":"processor","unit":"ns_per_instruction","absent":"no VAES on AVX-512"}}"#
            ),
            (false, None) => println!("no VAES on AVX-512: no limit measured"),
        }
    }

    pub(crate) fn absent(&self, cases: &[String; 2], absent: &Absent) {
        for case in cases {
            if self.json {
                println!(
                    r#"{{"bench":"crypto","case":"{case}","impl":"{}","unit":"ns_per_packet","absent":"{}"}}"#,
                    absent.name, absent.why
                );
            } else {
                println!("{case}: {} is absent: {}", absent.name, absent.why);
            }
        }
    }

    pub(crate) fn row(&mut self, row: Row) {
        if self.json {
            let Row { case, name, median, min, max, samples, thrown_away, .. } = &row;
            println!(
                r#"{{"bench":"crypto","case":"{case}","impl":"{name}","unit":"ns_per_packet","median":{median:.2},"min":{min:.2},"max":{max:.2},"samples":{samples},"thrown_away":{thrown_away}}}"#
            );
        }
        self.rows.push(row);
    }

    /// Prints the table of the rows since the last call.
    pub(crate) fn end_of_case(&mut self) {
        let rows = std::mem::take(&mut self.rows);
        if self.json {
            return;
        }
        let yardstick = rows.iter().find(|row| row.name == YARDSTICK).map(|row| row.median);
        println!(
            "\n{:<20} {:<20} {:>9} {:>8} {:>8} {:>8} {:>11} {:>10} {:>8}",
            "case", "impl", "median ns", "min", "max", "samples", "thrown away", "/ ipsec-mb", "of limit"
        );
        for Row { case, name, median, min, max, samples, thrown_away, bound } in rows {
            let ratio = yardstick.map_or("-".into(), |yardstick| format!("{:.2}", median / yardstick));
            let share = bound.map_or("-".into(), |bound| format!("{:.0} %", 100.0 * bound / median));
            println!(
                "{case:<20} {name:<20} {median:>9.1} {min:>8.1} {max:>8.1} {samples:>8} {thrown_away:>11} {ratio:>10} {share:>8}"
            );
        }
    }
}

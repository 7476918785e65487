//! What every bench reports with: a table for people, the same in Markdown, or one JSON object per line (the format is
//! in DESIGN.md, "Bench output").
//!
//! A bench takes [`Output`] into its options, makes one [`Report`], and hands it a [`Samples`] per case and
//! implementation. Rows of one case follow each other; they are printed when the next case begins or the report is
//! dropped, since each one's ratio is to the baseline of its own case.

use std::fmt::Write;

use hdrhistogram::Histogram;
use serde::Serialize;

/// How a bench prints: flatten it into its options.
#[derive(Debug, Clone, Copy, Default, clap::Args)]
pub struct Output {
    /// One JSON object per line in place of the table
    #[arg(long, conflicts_with = "markdown")]
    pub json: bool,
    /// The table in Markdown, below a description of the machine
    #[arg(long)]
    pub markdown: bool,
}

/// How much of a bench runs: flatten it into its options, beside [`Output`].
#[derive(Debug, Clone, Default, clap::Args)]
pub struct Scope {
    /// Fewer or shorter samples, and fewer cases: under a minute
    #[arg(long)]
    pub quick: bool,
    /// Only cases whose name contains this
    #[arg(long)]
    pub only: Option<String>,
}

impl Scope {
    /// Whether a case of that name is to run.
    pub fn wants(&self, case: &str) -> bool {
        self.only.as_ref().is_none_or(|only| case.contains(only.as_str()))
    }
}

/// The samples of one implementation in one case, and how many were not used.
#[derive(Debug, Clone)]
pub struct Samples {
    /// In thousandths of the unit.
    histogram: Histogram<u64>,
    thrown_away: u64,
}

impl Samples {
    /// None yet.
    pub fn new() -> Self {
        #[expect(clippy::expect_used, reason = "three digits are always allowed")]
        let histogram = Histogram::new(3).expect("a histogram of three digits");
        Self { histogram, thrown_away: 0 }
    }

    /// What was measured once.
    pub fn single(value: f64) -> Self {
        let mut samples = Self::new();
        samples.record(value);
        samples
    }

    /// Adds one, in the row's unit: not negative, kept to three digits.
    pub fn record(&mut self, value: f64) {
        // It grows as it must; only memory could end that.
        let _ = self.histogram.record((value * 1000.0) as u64);
    }

    /// Counts one that is not to be used: it was taken while the processor's speed was another.
    pub fn throw_away(&mut self) {
        self.thrown_away += 1;
    }

    /// The value that so large a part (0 to 1) of the samples does not exceed.
    pub fn quantile(&self, part: f64) -> f64 {
        self.histogram.value_at_quantile(part) as f64 / 1000.0
    }

    /// The middle one.
    pub fn median(&self) -> f64 {
        self.quantile(0.5)
    }

    /// The least; 0 if there is none.
    pub fn min(&self) -> f64 {
        self.histogram.min() as f64 / 1000.0
    }

    /// The greatest.
    pub fn max(&self) -> f64 {
        self.histogram.max() as f64 / 1000.0
    }

    /// How many, without those that were thrown away.
    pub fn len(&self) -> u64 {
        self.histogram.len()
    }

    /// Whether none was recorded.
    pub fn is_empty(&self) -> bool {
        self.histogram.is_empty()
    }
}

impl Default for Samples {
    fn default() -> Self {
        Self::new()
    }
}

/// A row as JSON has it.
#[derive(Debug, Clone, Default, Serialize)]
struct Row {
    bench: &'static str,
    case: String,
    r#impl: String,
    unit: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    median: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    min: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    max: Option<f64>,
    samples: u64,
    thrown_away: u64,
    /// The median's share of the baseline's, in the same case.
    #[serde(skip_serializing_if = "Option::is_none")]
    ratio: Option<f64>,
    /// What the machine allows at best, in the same unit.
    #[serde(skip_serializing_if = "Option::is_none")]
    limit: Option<f64>,
    /// Why there are no samples.
    #[serde(skip_serializing_if = "Option::is_none")]
    absent: Option<String>,
}

/// Collects the rows of a bench and prints them.
#[derive(Debug)]
pub struct Report {
    output: Output,
    bench: &'static str,
    baseline: Option<&'static str>,
    /// Those of the case that is not printed yet.
    rows: Vec<Row>,
    /// Whether the next case needs the names of the columns above it.
    headless: bool,
}

impl Report {
    /// For the bench of that name, as `bench` in JSON has it.
    pub fn new(bench: &'static str, output: Output) -> Self {
        if output.markdown {
            print(&format!("{}\n\n", machine()));
        }
        Self::continued(bench, output)
    }

    /// The same for a bench that another process has begun: the machine has been described.
    pub fn continued(bench: &'static str, output: Output) -> Self {
        if output.markdown {
            print("\n");
        }
        Self { output, bench, baseline: None, rows: Vec::new(), headless: true }
    }

    /// The implementation that medians are divided by.
    #[must_use]
    pub fn with_baseline(mut self, implementation: &'static str) -> Self {
        self.baseline = Some(implementation);
        self
    }

    /// A line for people, between cases. JSON has none.
    pub fn note(&mut self, text: &str) {
        self.end_of_case();
        if self.output.markdown && !self.headless {
            print("\n");
        }
        if !self.output.json {
            print(&format!("{text}\n\n"));
            self.headless = true;
        }
    }

    /// A case's implementation and its samples. `unit` is written as JSON has it: `ns_per_packet`.
    pub fn row(&mut self, case: &str, implementation: &str, unit: &'static str, samples: &Samples) {
        self.row_with_limit(case, implementation, unit, samples, None);
    }

    /// The same, beside what the machine allows at best, in the same unit.
    pub fn row_with_limit(
        &mut self,
        case: &str,
        implementation: &str,
        unit: &'static str,
        samples: &Samples,
        limit: Option<f64>,
    ) {
        let some = (!samples.is_empty()).then_some(samples);
        self.add(Row {
            case: case.into(),
            r#impl: implementation.into(),
            unit,
            median: some.map(Samples::median),
            min: some.map(Samples::min),
            max: some.map(Samples::max),
            samples: samples.len(),
            thrown_away: samples.thrown_away,
            limit,
            absent: samples.is_empty().then(|| "no sample was steady".into()),
            ..Row::default()
        });
    }

    /// An implementation that could not run, and why.
    pub fn absent(&mut self, case: &str, implementation: &str, unit: &'static str, why: &str) {
        self.add(Row {
            case: case.into(),
            r#impl: implementation.into(),
            unit,
            absent: Some(why.into()),
            ..Row::default()
        });
    }

    fn add(&mut self, row: Row) {
        if self.rows.first().is_some_and(|first| first.case != row.case) {
            self.end_of_case();
        }
        self.rows.push(Row { bench: self.bench, ..row });
    }

    /// Prints what is not printed yet.
    fn end_of_case(&mut self) {
        let mut rows = std::mem::take(&mut self.rows);
        if rows.is_empty() {
            return;
        }
        compare(&mut rows, self.baseline);
        if self.output.json {
            for row in &rows {
                print(&format!("{}\n", serde_json::to_string(row).unwrap_or_default()));
            }
            return;
        }
        let head = std::mem::take(&mut self.headless);
        print(&table(&rows, self.baseline, head, self.output.markdown));
    }
}

impl Drop for Report {
    fn drop(&mut self) {
        self.end_of_case();
    }
}

/// Nobody may be listening any more (a pipe to `head`): that is no error.
fn print(text: &str) {
    use std::io::Write;
    let _ = std::io::stdout().write_all(text.as_bytes());
}

/// Fills the ratios in. Only like can be compared with like: the baseline's row of the same unit.
fn compare(rows: &mut [Row], baseline: Option<&str>) {
    let of_baseline: Vec<(&'static str, f64)> = rows
        .iter()
        .filter(|row| Some(row.r#impl.as_str()) == baseline)
        .filter_map(|row| Some((row.unit, row.median?)))
        .collect();
    for row in rows {
        row.ratio = of_baseline
            .iter()
            .find(|(unit, median)| *unit == row.unit && *median > 0.0)
            .and_then(|(_, median)| Some(row.median? / median));
    }
}

fn table(rows: &[Row], baseline: Option<&str>, head: bool, markdown: bool) -> String {
    let mut text = String::new();
    let mut line = |cells: [String; 10]| {
        let [case, name, median, min, max, unit, samples, thrown_away, ratio, share] = cells;
        let _ = if markdown {
            writeln!(
                text,
                "| {case} | {name} | {median} | {min} | {max} | {unit} | {samples} | {thrown_away} | {ratio} | {share} |"
            )
        } else {
            writeln!(
                text,
                "{case:<22} {name:<22} {median:>9} {min:>9} {max:>9} {unit:<14} {samples:>7} {thrown_away:>11} {ratio:>11} {share:>8}"
            )
        };
    };
    if head {
        let ratio = baseline.map_or("ratio".into(), |name| format!("/ {name}"));
        let names =
            ["case", "impl", "median", "min", "max", "unit", "samples", "thrown away", &ratio, "of limit"];
        line(names.map(Into::into));
        if markdown {
            let right = "---:";
            line(["---", "---", right, right, right, "---", right, right, right, right].map(Into::into));
        }
    }
    let number = |value: Option<f64>| match value {
        None => "-".into(),
        Some(value) if value.abs() < 10.0 => format!("{value:.2}"),
        Some(value) if value.abs() < 1000.0 => format!("{value:.1}"),
        Some(value) => format!("{value:.0}"),
    };
    for row in rows {
        let share =
            row.limit.zip(row.median).map(|(limit, median)| format!("{:.0} %", 100.0 * limit / median));
        line([
            row.case.clone(),
            row.absent.as_ref().map_or(row.r#impl.clone(), |why| format!("{} (absent: {why})", row.r#impl)),
            number(row.median),
            number(row.min),
            number(row.max),
            row.unit.into(),
            row.samples.to_string(),
            row.thrown_away.to_string(),
            row.ratio.map_or("-".into(), |ratio| format!("{ratio:.2}")),
            share.unwrap_or("-".into()),
        ]);
    }
    // Cases apart, where nothing rules the table.
    if !markdown {
        text.push('\n');
    }
    text
}

/// The machine, in one line: processor, how many of them, kernel.
pub fn machine() -> String {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let information = read("/proc/cpuinfo");
    let field = |name: &str| {
        let line = information.lines().find(|line| line.starts_with(name));
        line.and_then(|line| line.split_once(':')).map_or("unknown", |(_, value)| value.trim()).to_owned()
    };
    let processors = std::thread::available_parallelism().map_or(0, std::num::NonZero::get);
    format!(
        "{} (family {}, model {}), {processors} processors, Linux {}",
        field("model name"),
        field("cpu family"),
        field("model\t"),
        read("/proc/sys/kernel/osrelease").trim()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(name: &str, unit: &'static str, median: Option<f64>) -> Row {
        Row { bench: "b", case: "c".into(), r#impl: name.into(), unit, median, ..Row::default() }
    }

    #[test]
    fn ratios_are_to_the_baseline_of_the_same_unit() {
        let mut rows = [
            row("ours", "ns_per_packet", Some(30.0)),
            row("ours", "packets_per_s", Some(9.0)),
            row("theirs", "ns_per_packet", Some(60.0)),
            row("absent", "ns_per_packet", None),
        ];
        compare(&mut rows, Some("theirs"));
        let ratios: Vec<Option<f64>> = rows.iter().map(|row| row.ratio).collect();
        assert_eq!(ratios, [Some(0.5), None, Some(1.0), None]);
    }

    #[test]
    fn a_row_in_json_has_the_fields_of_the_common_format() {
        let mut samples = Samples::new();
        for value in [2.0, 0.5, 1.0] {
            samples.record(value);
        }
        samples.throw_away();
        let mut report = Report::new("b", Output { json: true, markdown: false });
        report.row("c", "ours", "ns_per_packet", &samples);
        let rows = std::mem::take(&mut report.rows);
        assert_eq!(
            serde_json::to_value(&rows).unwrap(),
            serde_json::json!([{
                "bench": "b", "case": "c", "impl": "ours", "unit": "ns_per_packet",
                "median": 1.0, "min": 0.5, "max": 2.0, "samples": 3, "thrown_away": 1
            }])
        );
    }

    #[test]
    fn an_absent_implementation_keeps_its_row() {
        let row = Row { absent: Some("not installed".into()), ..row("theirs", "ns_per_packet", None) };
        assert!(table(&[row], None, false, true).contains("theirs (absent: not installed)"));
    }
}

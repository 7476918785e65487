//! Pages of the documentation, tried as they stand: their own commands are taken out of them and run on lab hosts, one after
//! another, and what is printed has to be what the page says. [`page`] says how a page is written for that, [`machine`] where
//! its commands run.
//!
//! The package itself is not built here, for that takes longer than everything else: its files are put in place by hand
//! around the binary of the tests. `./dev deb-test` runs the page's own install step in a clean root file system.

#![expect(clippy::panic, reason = "a page that is not as it should be fails its test")]

mod links;
mod machine;
mod page;
#[path = "../prometheus/mod.rs"]
mod prometheus;
mod quick_start;
mod walk;

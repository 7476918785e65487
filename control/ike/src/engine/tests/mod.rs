//! The engine against itself in a simulated world ([`world`]): what both ends must agree on, whatever the network
//! does. That other implementations agree too is shown elsewhere.

mod additional;
mod additional_child;
mod addresses;
mod certificates;
mod childless;
mod children;
mod collide_child;
mod collide_ike;
mod crash;
mod deletes;
mod discretion;
mod eap;
mod establish;
mod flood;
mod fragmentation;
mod fuzz;
mod gateway;
mod hands;
mod hostile;
mod late_jobs;
mod lifetimes;
mod liveness;
mod lossy;
mod mobike;
mod modes;
mod nat;
mod ppk;
mod reconfigure;
mod redirect;
mod refusals;
mod rekey_child;
mod rekey_ike;
mod replacement;
mod storm;
mod world;

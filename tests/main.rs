//! Promises to the people who use df, one file each, in one program: linking it once is cheaper than once a file.

mod support;

mod architecture;
mod bad_input;
mod bad_versions;
mod bucket;
mod cache;
mod cache_on_nodes;
mod checked_builds;
mod confirm;
mod data_epoch;
mod docs;
mod fan_out;
mod github_action;
mod handoff;
mod hook;
mod hostile_node;
mod hostile_operator;
mod journey;
mod kills;
mod live_connections;
mod malicious_bucket;
mod ordinary_user;
mod real;
mod reboot;
mod receiving;
mod repair;
mod reproducible;
mod rollback_pick;
mod rough_handling;
mod stopping;
mod through_cache;
mod transfer;
mod trust;
mod watch;
mod zero_downtime;

//! The registry against a real etcd and against the embedded one: the same checks, and for the real one also crashes,
//! restarts and lost data.
#![allow(clippy::unwrap_used)] // A test may.

mod crash;
mod network;
mod ownership;
mod proxy;
mod server;
mod support;
mod values;
mod writes;

use roomring_control::embedded_etcd::EmbeddedEtcd;
use tokio_util::sync::{CancellationToken, DropGuard};

use server::RealEtcd;

async fn embedded() -> (String, DropGuard) {
    let cancel = CancellationToken::new();
    let etcd = EmbeddedEtcd::start("127.0.0.1:0".parse().unwrap(), cancel.clone()).await.unwrap();
    (etcd.url(), cancel.drop_guard())
}

/// Runs each check on both servers; each has a cluster of its own, so they don't meet.
macro_rules! on_both {
    ($($module:ident :: $check:ident),* $(,)?) => {
        mod real {
            $(#[tokio::test] async fn $check() {
                let etcd = super::RealEtcd::started().await;
                super::$module::$check(etcd.url()).await;
            })*
        }
        mod embedded {
            $(#[tokio::test] async fn $check() {
                let (url, _stop) = super::embedded().await;
                super::$module::$check(&url).await;
            })*
        }
    };
}

on_both! {
    ownership::a_registration_lives_until_its_process_ends,
    ownership::a_live_nodes_id_is_refused_to_another_home,
    ownership::a_restart_on_the_same_home_takes_over_at_once,
    ownership::a_lost_lease_is_replaced_under_the_same_incarnation,
    ownership::a_later_process_supersedes,
    ownership::routers_register_too,
    writes::one_of_many_proposals_wins,
    writes::a_proposal_that_counts_on_an_absent_node_loses_when_it_is_back,
    writes::intents_are_changed_by_all_at_once,
    writes::offered_placements_are_taken_if_newer_and_of_the_same_history,
    values::bad_values_are_skipped,
    values::contact_waits_for_a_placement_that_can_be_read,
    values::a_deleted_placement_is_a_regress_until_a_new_uid,
    network::a_short_cut_leaves_the_view_unbroken,
    network::a_long_silence_breaks_it_and_a_compaction_meanwhile_is_survived,
}

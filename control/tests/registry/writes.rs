//! Compare-and-swap of the placement, the intents, and placements that peers send.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::Arc;

use roomring_control::registry::{Proposal, Proposed};
use roomring_proto::{Incarnation, SlotId, Version};

use crate::support::{Cluster, id, placement, seen, soon};

pub(crate) async fn one_of_many_proposals_wins(url: &str) {
    let cluster = Cluster::new(url, "race").await;
    let mut registries = Vec::new();
    for _ in 0..6 {
        registries.push(cluster.registry().await);
    }
    for version in 1..=3 {
        let mut proposals = tokio::task::JoinSet::new();
        for (i, registry) in registries.iter().enumerate() {
            let registry = registry.clone();
            let base_revision = registry.view().borrow().placement_revision;
            let name = format!("node-{i}");
            let placement = placement(7, version, &name, Incarnation(100 + i as u64));
            let proposal = Proposal { base_revision, placement, counts_on: BTreeMap::new() };
            proposals.spawn(async move {
                let outcome = registry.propose(&proposal).await;
                if outcome == Proposed::Won {
                    // The winner has it at once.
                    assert_eq!(registry.view().borrow().placement, Some(proposal.placement.clone()));
                }
                (outcome, proposal.placement)
            });
        }
        let outcomes = soon("the proposals", proposals.join_all()).await;
        let won: Vec<_> = outcomes.iter().filter(|(o, _)| *o == Proposed::Won).collect();
        assert_eq!(won.len(), 1, "one winner in version {version}");
        assert!(outcomes.iter().all(|(o, _)| *o != Proposed::Unknown));
        let (_, revision) = cluster.get(cluster.keys.placement()).await.unwrap();
        for registry in &registries {
            let view = seen(registry, "the winner's placement", |v| v.placement_revision == revision).await;
            assert_eq!(view.placement.as_ref(), Some(&won[0].1));
        }
    }
    // Made again by somebody who did not hear that it was made: it counts as made.
    let base = placement(7, 3, "x", Incarnation(1));
    let stale = Proposal { base_revision: 0, placement: base, counts_on: BTreeMap::new() };
    assert_eq!(registries[0].propose(&stale).await, Proposed::Lost);
    let current = registries[1].view().borrow().placement.clone().unwrap();
    let repeat = Proposal { base_revision: 0, placement: current, counts_on: BTreeMap::new() };
    assert_eq!(registries[1].propose(&repeat).await, Proposed::Won);
}

pub(crate) async fn a_proposal_that_counts_on_an_absent_node_loses_when_it_is_back(url: &str) {
    let cluster = Cluster::new(url, "guard").await;
    let registry = cluster.registry().await;
    let first = placement(7, 1, "node-1", Incarnation(1));
    let without_it = Proposal {
        base_revision: 0,
        placement: first.clone(),
        counts_on: BTreeMap::from([(id("node-1"), 0), (id("node-2"), 0)]),
    };
    let _registration = cluster.register(&registry, "node-1").await;
    assert_eq!(registry.propose(&without_it).await, Proposed::Lost);
    assert_eq!(cluster.get(cluster.keys.placement()).await, None);
    let view = seen(&registry, "node-1", |v| v.nodes.contains_key(&id("node-1"))).await;
    let with_it = Proposal { counts_on: (*view.node_revisions).clone(), ..without_it };
    assert_eq!(registry.propose(&with_it).await, Proposed::Won);
}

pub(crate) async fn intents_are_changed_by_all_at_once(url: &str) {
    let cluster = Cluster::new(url, "intents").await;
    let registry = cluster.registry().await;
    let mut changes = tokio::task::JoinSet::new();
    for slot in 0..3 {
        let registry = registry.clone();
        changes.spawn(async move {
            let change = |i: &mut roomring_control::view::Intents| {
                i.pins.insert(SlotId(slot), id("node-1"));
                Ok::<_, Infallible>(())
            };
            registry.update_intents(change).await.unwrap().unwrap();
        });
    }
    soon("the changes", changes.join_all()).await;
    let view = seen(&registry, "all pins", |v| v.intents.pins.len() == 3).await;
    assert!(view.intents.drained.is_empty());
    let revision = cluster.get(cluster.keys.intents()).await.unwrap().1;
    let refused = registry.update_intents(|i| Err::<(), _>(std::mem::take(i).pins.len())).await.unwrap();
    assert_eq!(refused, Err(3), "it saw what is there, and refused");
    assert_eq!(registry.update_intents(|i| Ok::<_, Infallible>(i.pins.len())).await.unwrap(), Ok(3));
    assert_eq!(cluster.get(cluster.keys.intents()).await.unwrap().1, revision, "neither wrote anything");
    cluster.put(cluster.keys.intents(), vec![0xff; 7]).await;
    let clear = |i: &mut roomring_control::view::Intents| {
        i.pins.clear();
        Ok::<_, Infallible>(())
    };
    let error = registry.update_intents(clear).await.unwrap_err();
    assert!(error.to_string().starts_with("/roomring/intents/intents: "), "{error}");
    assert_eq!(cluster.get(cluster.keys.intents()).await.unwrap().0, vec![0xff; 7]);
    assert_eq!(registry.view().borrow().intents.pins.len(), 3, "what was readable last still counts");
}

pub(crate) async fn offered_placements_are_taken_if_newer_and_of_the_same_history(url: &str) {
    let cluster = Cluster::new(url, "offers").await;
    let registry = cluster.registry().await;
    let _registration = cluster.register(&registry, "node-1").await;
    let version = |uid, v| Arc::unwrap_or_clone(placement(uid, v, "node-1", Incarnation(1)));
    assert!(!registry.offer_placement(version(7, 5)), "nothing is known to be newer than");
    let base = Proposal { base_revision: 0, placement: Arc::new(version(7, 1)), counts_on: BTreeMap::new() };
    assert_eq!(registry.propose(&base).await, Proposed::Won);
    let revision = registry.view().borrow().placement_revision;
    assert!(!registry.offer_placement(version(7, 1)));
    assert!(!registry.offer_placement(version(8, 9)), "only etcd starts another history");
    assert!(registry.offer_placement(version(7, 3)));
    let view = registry.view().borrow().clone();
    assert_eq!(view.placement.unwrap().version, Version(3));
    assert_eq!(view.placement_revision, revision, "the base of a compare-and-swap is what etcd said");
    // Being told earlier than by etcd is no regress, neither while etcd's news comes in nor by a check.
    for v in [2, 3] {
        cluster.put(cluster.keys.placement(), version(7, v).encode().to_vec()).await;
    }
    let (_, latest) = cluster.get(cluster.keys.placement()).await.unwrap();
    let view = seen(&registry, "etcd's news", |v| v.placement_revision == latest).await;
    assert!(!view.etcd_regressed);
    assert_eq!(view.placement.unwrap().version, Version(3));
    let contact = view.contact;
    seen(&registry, "contact", |v| v.contact > contact).await;
}

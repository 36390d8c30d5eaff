//! The rules, one a file.

mod ack_seq_matches_delivery;
mod acked_delivered_or_told;
mod answered_once;
mod causal_order;
mod epoch_never_returns;
mod gap_free_or_recovered_false;
mod join_leave_alternate;
mod no_duplicate_delivery;
mod no_loss_on_single_death;
mod presence_converges;
mod publisher_fifo;
mod refused_never_delivered;
mod sockets_survive;
mod total_order_agreement;
mod unknown_not_retried;

use super::{Findings, History};

type Rule = fn(&History<'_>) -> Findings;

/// By name.
pub(super) const ALL: [(&str, Rule); 15] = [
    ("AckedDeliveredOrTold", acked_delivered_or_told::check),
    ("NoDuplicateDelivery", no_duplicate_delivery::check),
    ("GapFreeOrRecoveredFalse", gap_free_or_recovered_false::check),
    ("TotalOrderAgreement", total_order_agreement::check),
    ("EpochNeverReturns", epoch_never_returns::check),
    ("AckSeqMatchesDelivery", ack_seq_matches_delivery::check),
    ("PublisherFifo", publisher_fifo::check),
    ("CausalOrder", causal_order::check),
    ("UnknownNotRetried", unknown_not_retried::check),
    ("RefusedNeverDelivered", refused_never_delivered::check),
    ("AnsweredOnce", answered_once::check),
    ("JoinLeaveAlternate", join_leave_alternate::check),
    ("PresenceConverges", presence_converges::check),
    ("NoLossOnSingleDeath", no_loss_on_single_death::check),
    ("SocketsSurvive", sockets_survive::check),
];

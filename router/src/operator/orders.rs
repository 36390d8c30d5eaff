//! What the operator's page may order, of those who have a key of the API: a node drained, a slot pinned, a user disconnected.

use std::time::Duration;

use http_body_util::{BodyExt, Limited};
use hyper::{Method, StatusCode};
use roomring_control::clock::unix_ms;
use roomring_control::daemon::admin::{AdminAnswer, AdminRequest, answer, text};
use roomring_control::intents::{Author, Edit, Hazard, NotMade};
use roomring_proto::{NodeId, RoomId, v1};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::time::timeout;

use super::JSON;
use crate::api;
use crate::cluster::{Cluster, Errand};
use crate::http::App;
use crate::hub::Hub;

/// Largest order, in bytes.
const ORDER_BYTES: usize = 16 << 10;

/// Time for an order to come in.
const READ_WITHIN: Duration = Duration::from_secs(5);

/// Time to carry it out; etcd's client tries one server after the other.
const DONE_WITHIN: Duration = Duration::from_secs(10);

/// One order, and which of what hurts about it was read and accepted.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Order {
    order: What,
    #[serde(default)]
    accept: Vec<String>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "lowercase", deny_unknown_fields)]
enum What {
    Drain { node: String },
    Undrain { node: String },
    Pin { room: String, node: String },
    Unpin { room: String },
    Disconnect { user: String },
}

/// What is to be done.
#[derive(Debug, PartialEq)]
enum Act {
    Edit(Edit),
    Disconnect(String),
}

/// Carries out an order.
pub(super) async fn carry_out(app: &App<Hub>, request: AdminRequest) -> AdminAnswer {
    if *request.method() != Method::POST {
        return text(StatusCode::METHOD_NOT_ALLOWED, "orders are posted");
    }
    let Some(keys) = &app.api else {
        return text(StatusCode::NOT_FOUND, "orders are off: give the router an api_key_file");
    };
    if !api::shown(request.headers()).is_some_and(|key| keys.admit(key)) {
        return text(StatusCode::UNAUTHORIZED, "that is not a key of this router");
    }
    let Some(cluster) = app.cluster() else {
        return text(StatusCode::SERVICE_UNAVAILABLE, "this router is starting still");
    };
    let body = match timeout(READ_WITHIN, Limited::new(request.into_body(), ORDER_BYTES).collect()).await {
        Ok(Ok(body)) => body.to_bytes(),
        Ok(Err(e)) => return text(StatusCode::BAD_REQUEST, format!("the order did not come whole: {e}")),
        Err(_) => return text(StatusCode::REQUEST_TIMEOUT, "the order did not come in time"),
    };
    let order: Order = match serde_json::from_slice(&body) {
        Ok(order) => order,
        Err(e) => return text(StatusCode::BAD_REQUEST, format!("no order: {e}")),
    };
    let slots = cluster.view().placement.as_deref().map(|p| p.settings.slots);
    let act = match order.order.act(slots) {
        Ok(act) => act,
        Err(problem) => return text(StatusCode::BAD_REQUEST, problem),
    };
    let done = match act {
        Act::Edit(edit) => timeout(DONE_WITHIN, change(cluster, &edit, &order.accept)).await,
        Act::Disconnect(user) => Ok(disconnect(cluster, &user).await),
    };
    done.unwrap_or_else(|_| {
        text(StatusCode::GATEWAY_TIMEOUT, "no answer from etcd in time: whether it was done is not known")
    })
}

impl What {
    /// `slots`: how many the cluster has; `None` before it is formed.
    fn act(self, slots: Option<u32>) -> Result<Act, String> {
        let node = |name: &str| NodeId::new(name).map_err(|e| e.to_string());
        let slot = |room: &str| {
            let room = RoomId::new(room).map_err(|e| e.to_string())?;
            slots.map(|slots| room.slot(slots)).ok_or_else(|| "there is no placement yet".to_owned())
        };
        Ok(match self {
            Self::Drain { node: name } => Act::Edit(Edit::Drain(node(&name)?)),
            Self::Undrain { node: name } => Act::Edit(Edit::Undrain(node(&name)?)),
            Self::Pin { room, node: name } => Act::Edit(Edit::Pin { slot: slot(&room)?, node: node(&name)? }),
            Self::Unpin { room } => Act::Edit(Edit::Unpin(slot(&room)?)),
            Self::Disconnect { user } if user.is_empty() => return Err("user: is empty".to_owned()),
            Self::Disconnect { user } => Act::Disconnect(user),
        })
    }
}

async fn change(cluster: &Cluster, edit: &Edit, accept: &[String]) -> AdminAnswer {
    let author = Author { name: "operator's page".to_owned(), time_ms: unix_ms(), reason: String::new() };
    let made = cluster.change_intents(|intents, view| {
        // Only what was shown is accepted: others may have changed the cluster meanwhile.
        let mut hazards = edit.judge(intents, view)?;
        hazards.retain(|hazard| accept.contains(&hazard.to_string()));
        edit.make(intents, view, &hazards, &author)
    });
    match made.await {
        Ok(Ok(changed)) => {
            tracing::info!(changed, "ordered on the operator's page: {edit}");
            done(if changed { edit.to_string() } else { format!("{edit}: it was so already") })
        }
        Ok(Err(NotMade::Refused(refusal))) => text(StatusCode::UNPROCESSABLE_ENTITY, refusal.to_string()),
        Ok(Err(NotMade::Hazardous { hazards })) => {
            let hazards: Vec<String> = hazards.iter().map(Hazard::to_string).collect();
            json_answer(StatusCode::CONFLICT, &json!({ "hazards": hazards }))
        }
        Err(e) => text(StatusCode::SERVICE_UNAVAILABLE, format!("{e}: whether it was done is not known")),
    }
}

async fn disconnect(cluster: &Cluster, user: &str) -> AdminAnswer {
    let whom = v1::Whom { user: user.to_owned(), client: String::new() };
    let request = v1::DisconnectRequest { whom: Some(whom), reconnect: false };
    let asked = cluster.send(&Errand::Disconnect(request)).await;
    let ended: u64 = asked.answers.values().sum();
    tracing::info!(user, ended, "disconnected from the operator's page");
    let mut said = format!("{ended} connection(s) of {user} were ended");
    if !asked.unreached.is_empty() {
        let names: Vec<&str> = asked.unreached.iter().map(NodeId::as_str).collect();
        said.push_str(&format!("; not reached: {}", names.join(", ")));
    }
    done(said)
}

fn done(said: String) -> AdminAnswer {
    json_answer(StatusCode::OK, &json!({ "done": said }))
}

fn json_answer(status: StatusCode, body: &Value) -> AdminAnswer {
    answer(status, JSON, body.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn act(json: &str) -> Result<Act, String> {
        serde_json::from_str::<Order>(json).map_err(|e| e.to_string())?.order.act(Some(64))
    }

    #[test]
    fn orders_are_read_and_bad_ones_named() {
        let node = NodeId::new("node-1").unwrap();
        let slot = RoomId::new("lobby").unwrap().slot(64);
        assert_eq!(act(r#"{"order":{"drain":{"node":"node-1"}}}"#), Ok(Act::Edit(Edit::Drain(node.clone()))));
        assert_eq!(
            act(r#"{"order":{"pin":{"room":"lobby","node":"node-1"}},"accept":["x"]}"#),
            Ok(Act::Edit(Edit::Pin { slot, node }))
        );
        assert_eq!(act(r#"{"order":{"unpin":{"room":"lobby"}}}"#), Ok(Act::Edit(Edit::Unpin(slot))));
        assert_eq!(act(r#"{"order":{"disconnect":{"user":"ann"}}}"#), Ok(Act::Disconnect("ann".into())));
        for (bad, why) in [
            (r#"{"order":{"drain":{"node":""}}}"#, "node id"),
            (r#"{"order":{"drain":{"node":"a","force":true}}}"#, "force"),
            (r#"{"order":{"pin":{"room":"","node":"node-1"}}}"#, "room name"),
            (r#"{"order":{"disconnect":{"user":""}}}"#, "user"),
            (r#"{"order":{"reboot":{}}}"#, "reboot"),
            ("[]", "invalid"),
        ] {
            let said = act(bad).unwrap_err();
            assert!(said.contains(why), "{bad}: {said}");
        }
        let unpin = What::Unpin { room: "lobby".into() };
        assert_eq!(unpin.act(None), Err("there is no placement yet".into()));
    }
}

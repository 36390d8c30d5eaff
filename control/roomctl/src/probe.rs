//! Asking running processes how they are.

use std::time::Duration;

use anyhow::Context;
use futures_util::future::join_all;
use roomring_control::wire::Wire;
use roomring_proto::v1;
use roomring_proto::v1::admin_client::AdminClient;
use tonic::transport::Channel;

use crate::snapshot::root;

/// How long one process may take: an operator waits for the whole answer.
const DEADLINE: Duration = Duration::from_secs(1);

/// An answer, or why there is none.
pub(crate) type Answer<T> = Result<T, String>;

/// Asks every node at `addrs` at once, in their order.
pub(crate) async fn nodes(wire: &Wire, addrs: &[&str], slots: bool) -> Vec<Answer<v1::NodeStatusReply>> {
    let ask = |addr: String| async move {
        let request = v1::NodeStatusRequest { slots };
        Ok(connect(wire, &addr).await?.node_status(request).await?.into_inner())
    };
    join_all(addrs.iter().map(|addr| within_deadline(ask((*addr).to_owned())))).await
}

/// Asks every node at `addrs` at once for its rooms, in their order.
pub(crate) async fn rooms(wire: &Wire, addrs: &[&str]) -> Vec<Answer<v1::RoomsReply>> {
    let ask = |addr: String| async move {
        Ok(connect(wire, &addr).await?.rooms(v1::RoomsRequest::default()).await?.into_inner())
    };
    join_all(addrs.iter().map(|addr| within_deadline(ask((*addr).to_owned())))).await
}

/// Asks every router at `addrs` at once, in their order.
pub(crate) async fn routers(wire: &Wire, addrs: &[&str]) -> Vec<Answer<v1::RouterStatusReply>> {
    let ask = |addr: String| async move {
        Ok(connect(wire, &addr).await?.router_status(v1::RouterStatusRequest {}).await?.into_inner())
    };
    join_all(addrs.iter().map(|addr| within_deadline(ask((*addr).to_owned())))).await
}

async fn connect(wire: &Wire, addr: &str) -> anyhow::Result<AdminClient<Channel>> {
    let endpoint = wire.endpoint(addr).context("bad address")?;
    Ok(AdminClient::new(endpoint.connect().await?)
        .max_decoding_message_size(roomring_proto::limits::GRPC_MESSAGE_BYTES))
}

async fn within_deadline<T>(answer: impl Future<Output = anyhow::Result<T>>) -> Answer<T> {
    match tokio::time::timeout(DEADLINE, answer).await {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(e)) => Err(match e.downcast_ref::<tonic::Status>() {
            Some(status) => status.message().to_owned(),
            None => root(&e),
        }),
        Err(_) => Err(format!("no answer within {}s", DEADLINE.as_secs())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_unreachable_and_the_silent_are_told_apart_in_time() {
        // Bound and never accepted: connects, never answers.
        let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let silent_addr = silent.local_addr().unwrap().to_string();
        let answers = nodes(&Wire::default(), &["127.0.0.1:1", &silent_addr, "not an address"], false).await;
        let texts: Vec<String> = answers.into_iter().map(|a| a.unwrap_err()).collect();
        assert!(texts[0].contains("refused"), "{texts:?}");
        assert_eq!(texts[1], "no answer within 1s");
        assert!(!texts[2].is_empty());
    }
}

//! Asking the hub from within the controller's process: the same questions and answers as a client's, without sockets.

use serde_json::Value;
use tokio::sync::mpsc::unbounded_channel;

use super::mail::HubMail;
use crate::protocol::EngineUuid;
use crate::transport::Sender;

/// A way to the hub, and through it to engines.
#[derive(Clone, Debug)]
pub struct Inside {
    hub: Sender<HubMail>,
}

impl Inside {
    pub(super) fn new(hub: Sender<HubMail>) -> Self {
        Self { hub }
    }

    /// The content of the hub's reply; nothing when the controller has ended. Takes as long as the hub does: a query of
    /// many records its time, so that the caller sets a limit.
    pub async fn ask(&self, msg_type: &'static str, content: &Value) -> Option<Value> {
        let (answer, mut answers) = unbounded_channel();
        self.hub.send(HubMail::Ask {
            msg_type,
            content: content.to_string().into(),
            answer,
        });
        serde_json::from_slice(&answers.recv().await?).ok()
    }

    /// Sends a control message to an engine; the content of its reply. An engine may never answer: the caller sets a
    /// limit.
    pub async fn command(
        &self,
        engine: EngineUuid,
        msg_type: &'static str,
        content: Value,
    ) -> Option<Value> {
        let (answer, mut answers) = unbounded_channel();
        self.hub.send(HubMail::Command {
            engine,
            msg_type,
            content,
            answer,
        });
        serde_json::from_slice(&answers.recv().await?).ok()
    }
}

//! Answers questions that only read records, beside the recording: however long one takes, nothing waits for it but the
//! client that asked, and those who ask the same thread.

use super::mail::{HubMail, SchedulerMail};
use super::questions::Place;
use crate::hub::Request;
use crate::hub::recorder::{Answer, Lookup, ends};
use crate::taskdb::RecordReader;
use crate::transport::{Mailbox, Poller, Sender};

#[derive(Debug)]
pub(super) enum ReaderMail {
    Ask {
        request: Request,
        lookup: Lookup,
        place: Place,
    },
    /// Which of these tasks have ended, and how?
    Ends {
        msg_ids: Vec<String>,
        to: Sender<SchedulerMail>,
    },
    Stop,
}

pub(super) struct ReaderThread {
    reader: Box<dyn RecordReader>,
    hub: Sender<HubMail>,
    mailbox: Mailbox<ReaderMail>,
}

impl ReaderThread {
    pub(super) fn new(
        reader: Box<dyn RecordReader>,
        hub: Sender<HubMail>,
        mailbox: Mailbox<ReaderMail>,
    ) -> Self {
        Self {
            reader,
            hub,
            mailbox,
        }
    }

    pub(super) fn run(mut self) {
        let mut poller = Poller::new();
        poller.add_fd(self.mailbox.fd());
        let mut mail = Vec::new();
        loop {
            let busy = self.mailbox.take(&mut mail);
            // A server that is gone takes seconds to say so: not for each of those that wait.
            let mut is_at_fault = false;
            for message in mail.drain(..) {
                match message {
                    ReaderMail::Ask {
                        request,
                        lookup,
                        place,
                    } => {
                        let answer = lookup.answer(&mut *self.reader);
                        answer_request(&self.hub, request, answer);
                        drop(place);
                    }
                    ReaderMail::Ends { msg_ids, to } => {
                        let mut found = Vec::new();
                        if !is_at_fault {
                            match ends(&mut *self.reader, msg_ids.iter().map(String::as_str)) {
                                Ok(ends) => found = ends,
                                Err(error) => {
                                    tracing::error!(
                                        "what tasks depend on cannot be looked up: {error}"
                                    );
                                    is_at_fault = true;
                                }
                            }
                        }
                        to.send(SchedulerMail::Ends(found));
                    }
                    ReaderMail::Stop => return,
                }
            }
            if !busy && let Err(error) = poller.wait(None) {
                tracing::error!("reader of records: cannot wait for messages: {error}");
                return;
            }
        }
    }
}

/// Sends an answer through the hub, whose socket it is.
pub(super) fn answer_request(hub: &Sender<HubMail>, request: Request, answer: Answer) {
    hub.send(HubMail::Answered {
        to: request.from,
        parent: request.header,
        msg_type: answer.msg_type,
        content: answer.content,
        buffers: answer.buffers,
    });
}

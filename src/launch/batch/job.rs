//! Decides when a job is looked at, and what of its state is news. Pure.

use std::time::{Duration, Instant};

use super::status::JobState;
use crate::launch::supervisor::JobEnd;

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum JobNews {
    Queued(String),
    /// It ran, and was put back into the queue.
    Requeued(String),
    Runs(String),
    Ended(JobEnd),
    /// The batch system cannot be asked, for the first time since it last could.
    Mute(String),
}

/// Batch systems tell nobody what becomes of a job, so it is looked at: often when something is to be expected, seldom
/// when nothing has changed for long, because others ask them as well.
const SOON: Duration = Duration::from_millis(200);
const SELDOM: Duration = Duration::from_secs(15);

/// After a job was submitted it may not be known for a moment.
const SETTLING: Duration = Duration::from_secs(5);

#[derive(Debug)]
pub struct JobWatch {
    submitted: Instant,
    state: Option<JobState>,
    has_run: bool,
    mute: bool,
    pause: Duration,
    next: Option<Instant>,
}

impl JobWatch {
    /// The job has just been submitted.
    pub fn new(now: Instant) -> Self {
        Self {
            submitted: now,
            state: None,
            has_run: false,
            mute: false,
            pause: SOON,
            next: Some(now + SOON),
        }
    }

    /// When the job is to be looked at; nothing when it has ended.
    pub fn next_look(&self) -> Option<Instant> {
        self.next
    }

    /// Something is to be expected: look soon, and often.
    pub fn hurry(&mut self, now: Instant) {
        if let Some(next) = &mut self.next {
            self.pause = SOON;
            *next = (*next).min(now + SOON);
        }
    }

    /// The system has answered.
    pub fn on_state(&mut self, now: Instant, state: JobState) -> Option<JobNews> {
        self.mute = false;
        let unknown_yet = state == JobState::Ended(JobEnd::Gone)
            && self.state.is_none()
            && now.saturating_duration_since(self.submitted) < SETTLING;
        if unknown_yet {
            self.next = Some(now + self.pause);
            return None;
        }
        if self.state.as_ref() == Some(&state) {
            self.pause = (self.pause * 3 / 2).min(SELDOM);
            self.next = Some(now + self.pause);
            return None;
        }
        self.pause = SOON;
        self.next = Some(now + self.pause);
        let news = match &state {
            JobState::Queued(why) if self.has_run => {
                self.has_run = false;
                JobNews::Requeued(why.clone())
            }
            JobState::Queued(why) => JobNews::Queued(why.clone()),
            JobState::Running(place) => {
                let again = matches!(self.state, Some(JobState::Running(_)));
                self.has_run = true;
                let place = place.clone();
                self.state = Some(state);
                // Some more of its tasks.
                return (!again).then_some(JobNews::Runs(place));
            }
            JobState::Ended(end) => {
                self.next = None;
                JobNews::Ended(*end)
            }
        };
        self.state = Some(state);
        Some(news)
    }

    /// The system could not be asked: that says nothing about the job.
    pub fn on_mute(&mut self, now: Instant, why: String) -> Option<JobNews> {
        self.pause = (self.pause * 3 / 2).min(SELDOM);
        self.next = Some(now + self.pause);
        (!std::mem::replace(&mut self.mute, true)).then_some(JobNews::Mute(why))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn queued() -> JobState {
        JobState::Queued("idle".into())
    }

    fn running() -> JobState {
        JobState::Running("node".into())
    }

    #[test]
    fn a_job_waits_runs_is_put_back_and_ends() {
        let now = Instant::now();
        let mut watch = JobWatch::new(now);
        assert_eq!(
            watch.on_state(now, queued()),
            Some(JobNews::Queued("idle".into()))
        );
        assert_eq!(watch.on_state(now, queued()), None);
        assert_eq!(
            watch.on_state(now, running()),
            Some(JobNews::Runs("node".into()))
        );
        let back = JobNews::Requeued("idle".into());
        assert_eq!(watch.on_state(now, queued()), Some(back));
        assert_eq!(
            watch.on_state(now, running()),
            Some(JobNews::Runs("node".into()))
        );
        let end = JobEnd::TimeLimit;
        assert_eq!(
            watch.on_state(now, JobState::Ended(end)),
            Some(JobNews::Ended(end))
        );
        assert_eq!(watch.next_look(), None);
    }

    #[test]
    fn it_is_looked_at_ever_more_seldom_until_something_is_expected() {
        let mut now = Instant::now();
        let mut watch = JobWatch::new(now);
        watch.on_state(now, running());
        for _ in 0..40 {
            now = watch.next_look().unwrap();
            watch.on_state(now, running());
        }
        assert_eq!(watch.next_look().unwrap() - now, SELDOM);
        watch.hurry(now);
        assert_eq!(watch.next_look().unwrap() - now, SOON);
    }

    #[test]
    fn a_job_that_is_not_known_yet_has_not_ended() {
        let now = Instant::now();
        let mut watch = JobWatch::new(now);
        let gone = JobState::Ended(JobEnd::Gone);
        assert_eq!(watch.on_state(now, gone.clone()), None);
        assert!(watch.next_look().is_some());
        let end = Some(JobNews::Ended(JobEnd::Gone));
        assert_eq!(watch.on_state(now + SETTLING, gone), end);
    }

    #[test]
    fn a_mute_system_is_news_once() {
        let now = Instant::now();
        let mut watch = JobWatch::new(now);
        watch.on_state(now, running());
        assert!(watch.on_mute(now, "down".into()).is_some());
        assert_eq!(watch.on_mute(now, "down".into()), None);
        assert_eq!(watch.on_state(now, running()), None);
        assert!(watch.on_mute(now, "down".into()).is_some());
    }
}

//! Questions from a thread that must not block for long to a task that may: the NRI thread asks systemd or
//! the runtime through this channel.

use std::sync::Mutex;
use std::sync::mpsc as blocking;
use std::time::{Duration, Instant};

use tokio::sync::mpsc;

use usernsd_domain::lock::lock;

/// A question, with the channel for its answer.
#[derive(Debug)]
pub struct Question<Q, A> {
    /// The question's content.
    pub question: Q,
    answer: blocking::SyncSender<A>,
}

/// The asking side.
#[derive(Debug)]
pub struct Asker<Q, A> {
    questions: mpsc::Sender<Question<Q, A>>,
    patience: Duration,
    rest: Duration,
    /// Time before which no question is sent, because the last one was not answered in time.
    silent_until: Mutex<Option<Instant>>,
}

/// Makes a channel of at most 16 waiting questions. The asking thread gives up after `patience`. After such
/// a timeout no question is sent for `rest`, so that a peer that hangs delays one container and not each of
/// them.
#[must_use]
pub fn channel<Q, A>(patience: Duration, rest: Duration) -> (Asker<Q, A>, mpsc::Receiver<Question<Q, A>>) {
    // More than 16 waiting questions mean that the answering task is stuck. The next question then gets no
    // answer at once, as it would after its patience.
    let (questions, receiver) = mpsc::channel(16);
    (Asker { questions, patience, rest, silent_until: Mutex::new(None) }, receiver)
}

// === impl Question ===

impl<Q, A> Question<Q, A> {
    /// Answers the question. The answer is lost if the asker has given up.
    pub fn answer(self, answer: A) {
        let _ = self.answer.try_send(answer);
    }
}

// === impl Asker ===

impl<Q, A> Asker<Q, A> {
    /// Asks and waits; `None` without an answer in time. Blocks the calling thread: not for tasks.
    pub fn ask(&self, question: Q) -> Option<A> {
        let silent_until = *lock(&self.silent_until);
        if silent_until.is_some_and(|until| Instant::now() < until) {
            return None;
        }
        self.insist(question)
    }

    /// Like [`Asker::ask`], but also during the rest after a timeout. For an answer that is indispensable.
    pub fn insist(&self, question: Q) -> Option<A> {
        let (answer, wait) = blocking::sync_channel(1);
        self.questions.try_send(Question { question, answer }).ok()?;
        match wait.recv_timeout(self.patience) {
            Ok(answer) => Some(answer),
            // The question was dropped, because there is no task to answer it.
            Err(blocking::RecvTimeoutError::Disconnected) => None,
            Err(blocking::RecvTimeoutError::Timeout) => {
                let until = Instant::now() + self.rest;
                *lock(&self.silent_until) = Some(until);
                None
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const REST: Duration = Duration::from_secs(1000);

    #[test]
    fn a_question_ends_with_an_answer_or_at_its_time_limit() {
        let (asker, mut questions) = channel::<u32, u32>(Duration::from_secs(5), REST);
        let answering = std::thread::spawn(move || {
            let question = questions.blocking_recv().unwrap();
            let number = question.question;
            question.answer(number + 1);
            questions
        });
        assert_eq!(asker.ask(1), Some(2));
        drop(answering.join().unwrap());
        assert_eq!(asker.ask(1), None);
    }

    #[test]
    fn a_peer_that_hangs_is_not_asked_again_soon() {
        let (asker, mut questions) = channel::<u32, u32>(Duration::from_millis(1), REST);
        assert_eq!(asker.ask(1), None);
        assert_eq!(questions.try_recv().unwrap().question, 1);
        assert_eq!(asker.ask(2), None);
        assert!(questions.try_recv().is_err());
        assert_eq!(asker.insist(3), None);
        assert_eq!(questions.try_recv().unwrap().question, 3);
    }

    #[test]
    fn a_peer_is_asked_again_after_its_rest() {
        let (asker, mut questions) = channel::<u32, u32>(Duration::from_millis(1), Duration::ZERO);
        for number in [1, 2] {
            assert_eq!(asker.ask(number), None);
            assert_eq!(questions.try_recv().unwrap().question, number);
        }
    }
}

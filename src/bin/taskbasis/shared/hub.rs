//! Messages and progress of downloads from the Hub.

use std::cell::RefCell;

use indicatif::ProgressBar;
use taskbasis::hub::HubEvent;

use super::output;

/// A bar for what is downloaded, and notes on what keeps it waiting.
pub struct Watch {
    bar: RefCell<Option<ProgressBar>>,
}

impl Watch {
    pub fn new() -> Self {
        Self { bar: RefCell::new(None) }
    }

    pub fn listener(&self) -> impl Fn(HubEvent<'_>) + '_ {
        |event| match event {
            HubEvent::Progress { done, total } => {
                let mut bar = self.bar.borrow_mut();
                bar.get_or_insert_with(|| output::transfer(total, "downloading")).set_position(done);
            }
            HubEvent::Waiting { path } => self.say(&format!("another process is downloading {path}; waiting for it")),
            HubEvent::Retry { pause, why } => {
                self.say(&format!("{why}; again in {} s", output::digits(pause.as_secs_f64())));
            }
            HubEvent::Damaged { path, expected, got } => {
                self.say(&format!("{path}: the cache's copy is damaged: expected {expected}, got {got}"));
            }
            _ => {}
        }
    }

    fn say(&self, text: &str) {
        match &*self.bar.borrow() {
            // A line among the bar's would be torn by it.
            Some(bar) => bar.suspend(|| output::note(text)),
            None => output::note(text),
        }
    }

    pub fn finish(&self) {
        if let Some(bar) = self.bar.borrow_mut().take() {
            bar.finish_and_clear();
        }
    }
}

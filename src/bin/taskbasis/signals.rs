//! Signals: what ends the program leaves no partial file, and a limit on the size of files is an error like any other.

/// Has the signals that end a program remove what it is writing first; it then ends as it would have, and those who
/// started it see that. Signals that are ignored, as with `nohup`, stay so.
#[cfg(unix)]
pub fn handle() {
    // SAFETY: signals are ignored; no handler of anyone is replaced but the default one. Writing then fails (EFBIG).
    unsafe { libc::signal(libc::SIGXFSZ, libc::SIG_IGN) };
    for signal in [libc::SIGINT, libc::SIGTERM, libc::SIGHUP] {
        // SAFETY: all zeros is a value of this structure of integers, pointers and sets, and every field that is looked
        // at is set below. The handler does nothing but what a handler may: see there.
        unsafe {
            let mut before: libc::sigaction = std::mem::zeroed();
            if libc::sigaction(signal, std::ptr::null(), &raw mut before) != 0 || before.sa_sigaction != libc::SIG_DFL {
                continue;
            }
            let mut action: libc::sigaction = std::mem::zeroed();
            action.sa_sigaction = end as extern "C" fn(libc::c_int) as libc::sighandler_t;
            // The default action has its turn when the signal is raised again.
            action.sa_flags = libc::SA_RESETHAND;
            libc::sigemptyset(&raw mut action.sa_mask);
            libc::sigaction(signal, &raw const action, std::ptr::null_mut());
        }
    }
}

#[cfg(not(unix))]
pub fn handle() {}

/// Removes what the program is writing, before a signal ends it.
#[cfg(unix)]
pub fn clean_up() {
    taskbasis::remove_unfinished_files();
}

/// Elsewhere no signal ends it, and the next program that writes there removes what is left.
#[cfg(not(unix))]
pub fn clean_up() {}

/// Removes what is being written, and raises the signal again, which ends the program once this returns.
#[cfg(unix)]
extern "C" fn end(signal: libc::c_int) {
    clean_up();
    // SAFETY: both may be called in a signal handler. Other threads may be writing still: only the end stops them.
    unsafe {
        libc::signal(signal, libc::SIG_DFL);
        libc::raise(signal);
    }
}

/// The signals that ask a server to end, one after the other.
#[cfg(all(unix, feature = "serve"))]
pub struct Endings {
    signals: Vec<(libc::c_int, tokio::signal::unix::Signal)>,
    last: libc::c_int,
}

#[cfg(all(unix, feature = "serve"))]
impl Endings {
    /// From now on SIGINT and SIGTERM end nothing by themselves; what is ignored stays so.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn watch() -> std::io::Result<Self> {
        let mut signals = Vec::new();
        for signal in [libc::SIGINT, libc::SIGTERM] {
            // SAFETY: as in `handle`. A handler of ours is taken away first: the next one would call it.
            let is_ignored = unsafe {
                let mut before: libc::sigaction = std::mem::zeroed();
                libc::sigaction(signal, std::ptr::null(), &raw mut before) == 0 && before.sa_sigaction == libc::SIG_IGN
            };
            if !is_ignored {
                // SAFETY: the default action is no code of ours.
                unsafe { libc::signal(signal, libc::SIG_DFL) };
                signals.push((signal, tokio::signal::unix::signal(signal.into())?));
            }
        }
        Ok(Self { signals, last: libc::SIGTERM })
    }

    /// The next of them.
    pub async fn next(&mut self) {
        let (signals, last) = (&mut self.signals, &mut self.last);
        std::future::poll_fn(|context| {
            for (signal, stream) in signals.iter_mut() {
                if stream.poll_recv(context).is_ready() {
                    *last = *signal;
                    return std::task::Poll::Ready(());
                }
            }
            std::task::Poll::Pending
        })
        .await;
    }

    /// Ends the program as the last signal would have.
    pub fn end_at_once(&self) {
        end(self.last);
    }
}

/// Ctrl-C, as often as it is pressed.
#[cfg(all(not(unix), feature = "serve"))]
pub struct Endings;

#[cfg(all(not(unix), feature = "serve"))]
impl Endings {
    /// None.
    ///
    /// # Errors
    /// None.
    pub fn watch() -> std::io::Result<Self> {
        Ok(Self)
    }

    /// The next one.
    pub async fn next(&mut self) {
        if tokio::signal::ctrl_c().await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    /// Ends the program.
    pub fn end_at_once(&self) {
        std::process::exit(1);
    }
}

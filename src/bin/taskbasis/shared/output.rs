//! The output of the program: the only place that prints.
#![allow(clippy::print_stdout, clippy::print_stderr)]

use std::collections::BTreeSet;
use std::fmt::Display;
use std::io::{ErrorKind, IsTerminal, Write};
use std::path::Path;
use std::sync::OnceLock;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle, TermLike};
use parking_lot::Mutex;
use serde_json::Value;
use taskbasis::{Error, Result, Visible, VisibleLines, replace_file};

/// One readable paragraph.
pub fn error(error: &Error) {
    remark("error", error);
}

/// A remark that is no result.
pub fn note(text: &str) {
    remark("note", text);
}

/// One line on stderr. Where that is closed or full there is no one to tell, and the work goes on; `eprintln` would
/// panic.
fn remark(kind: &str, text: impl Display) {
    let _ = writeln!(std::io::stderr().lock(), "{kind}: {}", Visible(text));
}

/// A remark that is worth one line, however often it comes up.
pub fn note_once(text: &str) {
    static SAID: Mutex<BTreeSet<String>> = Mutex::new(BTreeSet::new());
    let is_new = SAID.lock().insert(text.to_owned());
    if is_new {
        note(text);
    }
}

/// The last panic: a defect, which is told where nothing has caught it.
static PANIC: Mutex<Option<String>> = Mutex::new(None);

/// Has panics kept to be told by [`defect`], where the standard library would write them out by itself.
pub fn keep_panics() {
    std::panic::set_hook(Box::new(|panic| {
        let what = panic.payload_as_str().unwrap_or("no message");
        let place = panic.location().map_or_else(String::new, |place| format!(" at {}:{}", place.file(), place.line()));
        let is_asked = std::env::var_os("RUST_BACKTRACE").is_some_and(|asked| asked != "0");
        let trace = if is_asked { std::backtrace::Backtrace::force_capture().to_string() } else { String::new() };
        *PANIC.lock() = Some(format!("{what}{place} {trace}"));
    }));
}

/// Tells the panic that ended the work as the error that it is.
pub fn defect() {
    let what = PANIC.lock().take().unwrap_or_default();
    remark("error", format_args!("a defect in taskbasis, please report it: {}", what.trim_end()));
}

/// Says of an error that it came after the file was written: what was asked for is there, and need not be done again.
pub fn after_writing(path: &Path) -> impl Fn(Error) -> Error {
    let done = format!("{} has been written; what failed came after it", path.display());
    move |error| error.also_hint(&done)
}

/// Text, or anything else that ends in a newline by itself, with nothing in it that a terminal would act on
/// ([`VisibleLines`]). A reader that has gone away (`| head`) is no error.
pub fn text(text: &str) -> Result<()> {
    write(&VisibleLines(text).to_string())
}

fn write(text: &str) -> Result<()> {
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(e) if e.kind() != ErrorKind::BrokenPipe => Err(Error::io("cannot write", Path::new("standard output"), e)),
        _ => Ok(()),
    }
}

/// One JSON value.
pub fn json(value: &Value) -> Result<()> {
    write(&format!("{value:#}\n"))
}

/// Writes a file of this text: whole or not at all.
pub fn text_file(path: &Path, text: &str) -> Result<()> {
    replace_file(path, &[], |sibling| std::fs::write(sibling, text).map_err(|e| Error::io("cannot write", path, e)))
}

/// Whether progress is told to a program, as `--progress` asks; set once, before any work.
static FOR_PROGRAMS: OnceLock<bool> = OnceLock::new();

/// Says who reads the progress: a program (`--progress`) or a person.
pub fn progress_for_programs(yes: bool) {
    FOR_PROGRAMS.get_or_init(|| yes);
}

/// A bar on a terminal for work of over a second; nothing elsewhere. With `--progress` JSON lines on stderr, some ten
/// a second: `{"progress": what, "done": n, "total": n}`.
pub fn progress(total: usize, what: &'static str) -> ProgressBar {
    bar(total as u64, what, "{msg} {wide_bar} {pos}/{len} {eta}")
}

/// A progress bar for bytes that are downloaded or written, with their speed.
pub fn transfer(total: u64, what: &'static str) -> ProgressBar {
    bar(total, what, "{msg} {wide_bar} {decimal_bytes}/{decimal_total_bytes} {decimal_bytes_per_sec} {eta}")
}

fn bar(total: u64, what: &'static str, for_people: &str) -> ProgressBar {
    let for_programs = FOR_PROGRAMS.get() == Some(&true);
    let bar = ProgressBar::with_draw_target(Some(total), ProgressDrawTarget::hidden()).with_message(what);
    let template = match for_programs {
        true => r#"{{"progress": "{msg}", "done": {pos}, "total": {len}}}"#,
        false => for_people,
    };
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style);
    }
    if for_programs {
        bar.set_draw_target(ProgressDrawTarget::term_like_with_hz(Box::new(Lines), 10));
    } else if std::io::stderr().is_terminal() {
        show_later(&bar);
    }
    bar
}

/// Draws a bar once a second, and nothing before the first one is over: what is done by then never shows it. Not by
/// the bar's own ticks, which panic where the system refuses their thread: without one there is no bar, and the work
/// goes on.
fn show_later(bar: &ProgressBar) {
    const TICK: Duration = Duration::from_secs(1);
    let bar = bar.downgrade();
    let ticks = move || {
        let mut is_hidden = true;
        loop {
            std::thread::sleep(TICK);
            let Some(bar) = bar.upgrade().filter(|bar| !bar.is_finished()) else { break };
            if std::mem::take(&mut is_hidden) {
                bar.set_draw_target(ProgressDrawTarget::stderr());
            }
            bar.tick();
        }
    };
    let _ = std::thread::Builder::new().name("taskbasis-progress".into()).spawn(ticks);
}

/// Stderr as a terminal on which nothing is ever drawn over: each state of a bar becomes a line.
#[derive(Debug)]
struct Lines;

impl TermLike for Lines {
    fn width(&self) -> u16 {
        1000 // Wider than any line is.
    }

    fn write_line(&self, line: &str) -> std::io::Result<()> {
        // What pads a line, and what goes back to its start, is for eyes.
        match line.trim() {
            "" => Ok(()),
            line => writeln!(std::io::stderr().lock(), "{line}"),
        }
    }

    fn write_str(&self, text: &str) -> std::io::Result<()> {
        self.write_line(text)
    }

    fn move_cursor_up(&self, _: usize) -> std::io::Result<()> {
        Ok(())
    }

    fn move_cursor_down(&self, _: usize) -> std::io::Result<()> {
        Ok(())
    }

    fn move_cursor_right(&self, _: usize) -> std::io::Result<()> {
        Ok(())
    }

    fn move_cursor_left(&self, _: usize) -> std::io::Result<()> {
        Ok(())
    }

    fn clear_line(&self) -> std::io::Result<()> {
        Ok(())
    }

    fn flush(&self) -> std::io::Result<()> {
        Ok(())
    }
}

/// `1,234,567`.
pub fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// `1 vector`, `2 vectors`.
pub fn counted(number: usize, what: &str) -> String {
    format!("{number} {what}{}", if number == 1 { "" } else { "s" })
}

/// Three digits that count.
pub fn digits(value: f64) -> String {
    match value.abs() {
        a if a >= 100.0 || a == 0.0 => format!("{value:.0}"),
        a if a >= 10.0 => format!("{value:.1}"),
        a if a >= 1.0 => format!("{value:.2}"),
        a if a >= 0.1 => format!("{value:.3}"),
        _ => format!("{value:.4}"),
    }
}

/// `1.8 GB`, in powers of ten as disks are sold.
pub fn bytes(number: u64) -> String {
    const UNITS: [(f64, &str); 3] = [(1e9, "GB"), (1e6, "MB"), (1e3, "kB")];
    let number = number as f64;
    match UNITS.iter().find(|(unit, _)| number >= *unit) {
        Some((unit, name)) => format!("{:.1} {name}", number / unit),
        None => format!("{number} bytes"),
    }
}

/// A table with its first column to the left and the others to the right.
pub fn table(rows: &[Vec<String>]) -> String {
    // A name's own line ends are not the table's.
    let rows: Vec<Vec<_>> = rows.iter().map(|row| row.iter().map(|cell| Visible(cell).to_string()).collect()).collect();
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |c: usize| rows.iter().filter_map(|row| row.get(c)).map(|cell| cell.chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let mut text = String::new();
    for row in &rows {
        let mut line = String::new();
        for (c, cell) in row.iter().enumerate() {
            let width = widths[c];
            line += &if c == 0 { format!("{cell:<width$}") } else { format!("  {cell:>width$}") };
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

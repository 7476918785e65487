//! `portcullis top`: asks the daemon again and again, and draws on the terminal until told to stop.

use std::io::IsTerminal;
use std::time::{Duration, Instant};

use clap::Args;
use ratatui::crossterm::event::{self, Event, KeyCode, KeyEventKind, KeyModifiers};

use crate::api::client::{Client, ClientError};
use crate::top::{Sample, Top, draw};

/// `portcullis top`.
#[derive(Debug, Args)]
pub(super) struct TopArgs {
    /// Seconds between two looks.
    #[arg(long, default_value_t = 1, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..=3600))]
    interval: u64,
}

pub(super) fn run(client: &Client, args: &TopArgs) -> anyhow::Result<()> {
    anyhow::ensure!(
        std::io::stdout().is_terminal(),
        "`top` needs a terminal; `portcullis status --json` says the same to scripts"
    );
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let start = Instant::now();
    // The first answer decides whether to begin at all.
    let mut top = Top::default();
    top.update(runtime.block_on(look(client, start))?);
    let mut terminal = ratatui::try_init()?;
    let result = (|| {
        loop {
            terminal.draw(|frame| draw(frame, &top))?;
            if wait(Duration::from_secs(args.interval), || terminal_resized(&mut terminal, &top))? {
                return Ok(());
            }
            match runtime.block_on(look(client, start)) {
                Ok(sample) => top.update(sample),
                Err(error) => top.failed(error.to_string()),
            }
        }
    })();
    ratatui::restore();
    result
}

fn terminal_resized(terminal: &mut ratatui::DefaultTerminal, top: &Top) -> std::io::Result<()> {
    terminal.draw(|frame| draw(frame, top)).map(drop)
}

async fn look(client: &Client, start: Instant) -> Result<Sample, ClientError> {
    let (status, sas, drops) =
        tokio::try_join!(client.get("/v1/status"), client.get("/v1/sas"), client.get("/v1/drops"))?;
    Ok(Sample { at: start.elapsed(), status, sas, drops })
}

/// Waits, minding the keyboard; whether to stop.
fn wait(time: Duration, mut resized: impl FnMut() -> std::io::Result<()>) -> anyhow::Result<bool> {
    let deadline = Instant::now() + time;
    while let Some(left) = deadline.checked_duration_since(Instant::now()) {
        if !event::poll(left)? {
            return Ok(false);
        }
        match event::read()? {
            Event::Key(key) if key.kind == KeyEventKind::Press => {
                let interrupt =
                    key.code == KeyCode::Char('c') && key.modifiers.contains(KeyModifiers::CONTROL);
                if interrupt || matches!(key.code, KeyCode::Char('q') | KeyCode::Esc) {
                    return Ok(true);
                }
            }
            Event::Resize(..) => resized()?,
            _ => {}
        }
    }
    Ok(false)
}

//! scapy: a Python script on a host, called by JSON lines. It is an implementation of ESP that shares nothing with
//! ours.

use std::fs;
use std::time::Duration;

use serde_json::{Value, json};

use crate::error::{LabError, Result};
use crate::host::Host;
use crate::process::{Mark, Process, Stream};

/// The distribution's Python, which has the distribution's scapy; another may be first in the path.
const PYTHON: &str = "/usr/bin/python3";
const FRAME: &str = include_str!("scapy.py");
/// Importing scapy takes seconds on a busy machine.
const START_TIME: Duration = Duration::from_secs(60);
const ANSWER_TIME: Duration = Duration::from_secs(30);

/// A running script.
#[derive(Debug)]
pub struct Scapy {
    process: Process,
    read: Mark,
}

impl Scapy {
    /// Starts `script`, whose functions marked with `@command` can then be called.
    ///
    /// # Errors
    /// With Python's output when the script or scapy cannot be loaded.
    pub fn start(host: &Host, script: &str) -> Result<Self> {
        let path = host.dir().join("script.py");
        let text = format!("{FRAME}\n\n{script}\n\nserve()\n");
        fs::write(&path, text).map_err(LabError::io(format!("write {}", path.display())))?;
        let process = host.spawn_words([PYTHON.as_ref(), "-u".as_ref(), path.as_os_str()])?;
        let mut scapy = Self { process, read: Mark::default() };
        scapy.answer(START_TIME)?;
        Ok(scapy)
    }

    /// Calls a function of the script with named arguments and returns its result.
    ///
    /// # Errors
    /// [`LabError::Answer`] with Python's traceback when the function raises.
    pub fn call(&mut self, function: &str, arguments: &Value) -> Result<Value> {
        self.process.write_line(&json!({ "do": function, "with": arguments }).to_string())?;
        self.answer(ANSWER_TIME)
    }

    fn answer(&mut self, within: Duration) -> Result<Value> {
        let on_stdout = |stream, _: &str| stream == Stream::Stdout;
        let (line, read) = self.process.wait_for(self.read, "an answer", within, on_stdout)?;
        self.read = read;
        let mut answer: Value = serde_json::from_str(&line).map_err(|error| LabError::Answer {
            tool: "scapy",
            reason: error.to_string(),
            answer: line.clone(),
        })?;
        match answer.get_mut("ok") {
            Some(result) => Ok(result.take()),
            None => {
                let traceback = answer.get("error").and_then(Value::as_str).unwrap_or(&line).to_owned();
                Err(LabError::Answer { tool: "scapy", reason: "the script failed".into(), answer: traceback })
            }
        }
    }
}

//! FreeRADIUS: one server per host, its whole configuration in the host's directory. It authenticates by EAP-MSCHAPv2 and,
//! where it has certificates, by EAP-TLS and by EAP-TTLS with EAP-MSCHAPv2, MS-CHAP of both versions, CHAP and PAP inside, and writes what is reported to it into a file.

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use crate::error::{LabError, Result};
use crate::host::Host;
use crate::process::{Mark, Process};

const START_TIME: Duration = Duration::from_secs(30);

/// A running server; killed when dropped.
#[derive(Debug)]
pub struct FreeRadius {
    process: Process,
    directory: PathBuf,
}

impl FreeRadius {
    /// Starts the server on a host. `users` is written as in its file `users`; gateways share `secret` with it.
    ///
    /// # Errors
    /// With the server's output: the package is missing, or `users` is refused.
    pub fn start(host: &Host, users: &str, secret: &str) -> Result<Self> {
        let directory = host.dir().join("raddb");
        let write = |name: &str, text: &str| {
            let path = directory.join(name);
            fs::write(&path, text).map_err(LabError::io(format!("write {}", path.display())))
        };
        fs::create_dir_all(&directory).map_err(LabError::io(format!("make {}", directory.display())))?;
        let tls = tls(host);
        write("radiusd.conf", &configuration(&directory.display().to_string(), secret, &tls))?;
        write("users", users)?;
        write("dictionary", "$INCLUDE /usr/share/freeradius/dictionary\n")?;
        write("reports", "")?;
        let mut command = Command::new("freeradius");
        // In the foreground, everything to its output, from this directory.
        command.args(["-f", "-x", "-l", "stdout", "-n", "radiusd", "-d"]).arg(&directory);
        let process = host.spawn(command)?;
        process.wait_line("Ready to process requests", START_TIME)?;
        Ok(Self { process, directory })
    }

    /// What gateways have reported: blocks of `Attribute = value`.
    pub fn reports(&self) -> Result<String> {
        let path = self.directory.join("reports");
        fs::read_to_string(&path).map_err(LabError::io(format!("read {}", path.display())))
    }

    /// Waits until the server has logged a line with `pattern` after `from`.
    pub fn wait_log(&self, from: Mark, pattern: &str, within: Duration) -> Result<String> {
        self.process.wait_line_from(from, pattern, within).map(|(line, _)| line)
    }

    /// The end of its log so far.
    pub fn mark(&self) -> Mark {
        self.process.mark()
    }

    /// The process, for its log and its end.
    pub fn process(&mut self) -> &mut Process {
        &mut self.process
    }
}

/// EAP-TLS and EAP-TTLS, with the certificate that the host has where strongSwan and we have ours.
fn tls(host: &Host) -> String {
    let path = |name: &str| host.dir().join(name);
    if !path("x509/own.pem").exists() {
        return String::new();
    }
    format!(
        "tls-config common {{\n private_key_file = {}\n certificate_file = {}\n ca_file = {}\n \
         tls_min_version = \"1.2\"\n tls_max_version = \"1.3\"\n fragment_size = 600\n }}\n \
         tls {{ tls = common }}\n ttls {{ tls = common\n default_eap_type = mschapv2\n virtual_server = default }}\n",
        path("private/own.pem").display(),
        path("x509/own.pem").display(),
        path("x509ca/root.pem").display(),
    )
}

fn configuration(directory: &str, secret: &str, tls: &str) -> String {
    format!(
        r#"
prefix = /usr
libdir = /usr/lib/freeradius
raddbdir = {directory}
logdir = {directory}
run_dir = {directory}
certdir = {directory}
cadir = {directory}
max_request_time = 10
cleanup_delay = 2
max_requests = 1024
log {{ destination = stdout
 auth = yes }}
security {{ max_attributes = 200
 reject_delay = 0
 status_server = no
 require_message_authenticator = yes }}
proxy_requests = no
thread pool {{ start_servers = 1
 max_servers = 2
 min_spare_servers = 1
 max_spare_servers = 2
 max_requests_per_server = 0 }}
client gateways {{ ipaddr = 0.0.0.0/0
 secret = "{secret}" }}
modules {{
 files {{
  usersfile = {directory}/users
 }}
 mschap {{
  use_mppe = yes
 }}
 chap {{
 }}
 pap {{
 }}
 eap {{
  default_eap_type = mschapv2
  timer_expire = 60
  mschapv2 {{
  }}
  {tls}
 }}
 detail {{ filename = {directory}/reports
  permissions = 0600 }}
}}
server default {{
 listen {{ type = auth
  ipaddr = *
  port = 1812 }}
 listen {{ type = acct
  ipaddr = *
  port = 1813 }}
 authorize {{
  chap
  mschap
  eap
  files
  pap
 }}
 authenticate {{
  Auth-Type PAP {{
   pap
  }}
  Auth-Type CHAP {{
   chap
  }}
  Auth-Type MS-CHAP {{
   mschap
  }}
  eap
 }}
 accounting {{
  detail
 }}
}}
"#
    )
}

//! git over ssh: a child process with fixed arguments, an empty environment and a deadline. It is the only program that
//! the agent ever starts.

use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use git2::transport::Service;
use secrecy::ExposeSecret;
use towpath_core::fault::Problem;

use super::secret::{Credentials, Proof};

/// Time for one conversation.
const DEADLINE: Duration = Duration::from_secs(120);

/// A repository behind ssh.
pub(super) struct SshRemote {
    program: PathBuf,
    user: String,
    host: String,
    port: Option<u16>,
    path: String,
    folder: PathBuf,
    credentials: Mutex<Credentials>,
    trouble: Mutex<Option<Problem>>,
}

impl SshRemote {
    /// A remote. Nothing is started. The key is written into `folder` while a conversation runs.
    pub(super) fn new(
        program: &Path,
        (user, host, port, path): (&str, &str, Option<u16>, &str),
        folder: &Path,
        credentials: Credentials,
    ) -> SshRemote {
        SshRemote {
            program: program.to_owned(),
            user: user.to_owned(),
            host: host.to_owned(),
            port,
            path: path.to_owned(),
            folder: folder.to_owned(),
            credentials: Mutex::new(credentials),
            trouble: Mutex::new(None),
        }
    }

    pub(super) fn set_credentials(&self, credentials: Credentials) {
        *self.credentials.lock().expect("nothing panics while it holds this lock") = credentials;
    }

    /// The last trouble of a conversation, taken away.
    pub(super) fn take_trouble(&self) -> Option<Problem> {
        self.trouble.lock().expect("nothing panics while it holds this lock").take()
    }

    /// Starts a conversation.
    ///
    /// # Errors
    /// `Setup` without a key or known hosts, or when the program cannot be started.
    pub(super) fn stream(self: &Arc<Self>, service: Service) -> Result<SshStream, Problem> {
        let result = self.start(service);
        if let Err(problem) = &result {
            *self.trouble.lock().expect("nothing panics while it holds this lock") = Some(problem.clone());
        }
        result
    }

    fn start(self: &Arc<Self>, service: Service) -> Result<SshStream, Problem> {
        let command = match service {
            Service::UploadPackLs | Service::UploadPack => "git-upload-pack",
            Service::ReceivePackLs | Service::ReceivePack => "git-receive-pack",
        };
        let credentials = self.credentials.lock().expect("nothing panics while it holds this lock").clone();
        let Proof::Key { key, known_hosts } = &credentials.proof else {
            return Err(Problem::setup(format!("there is no ssh key for {}", self.host))
                .hint("name a Secret with ssh-privatekey and known_hosts in spec.secretRef"));
        };
        let setup = |error: io::Error| Problem::setup(format!("cannot write the ssh key: {error}"));
        let key_file = private_file(&self.folder, "key", key.expose_secret()).map_err(setup)?;
        let hosts_file = private_file(&self.folder, "known_hosts", known_hosts).map_err(setup)?;

        let mut ssh = Command::new(&self.program);
        ssh.args(["-F", "none", "-T", "-x", "-a"]);
        for option in [
            "BatchMode=yes",
            "StrictHostKeyChecking=yes",
            "IdentitiesOnly=yes",
            "IdentityAgent=none",
            "PasswordAuthentication=no",
            "KbdInteractiveAuthentication=no",
            "ClearAllForwardings=yes",
            "PermitLocalCommand=no",
            "ProxyCommand=none",
            "ControlPath=none",
            "GlobalKnownHostsFile=/dev/null",
            "ConnectTimeout=10",
            "ServerAliveInterval=10",
            "ServerAliveCountMax=3",
        ] {
            ssh.args(["-o", option]);
        }
        ssh.arg("-o").arg(format!("UserKnownHostsFile={}", hosts_file.0.display()));
        ssh.arg("-i").arg(&key_file.0);
        if let Some(port) = self.port {
            ssh.args(["-p", &port.to_string()]);
        }
        // User, host and path have no character that a shell or ssh itself could read as something else.
        ssh.arg("-l").arg(&self.user).arg("--").arg(&self.host).arg(format!("{command} '{}'", self.path));
        ssh.env_clear().env("PATH", "/usr/local/bin:/usr/bin:/bin");
        ssh.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = ssh.spawn().map_err(|error| {
            Problem::setup(format!("cannot start {}: {error}", self.program.display())).hint("--ssh names the program")
        })?;
        let input = child.stdin.take().expect("it was asked for");
        let output = child.stdout.take().expect("it was asked for");
        let mut errors = child.stderr.take().expect("it was asked for");
        let said = Arc::new(Mutex::new(String::new()));
        let child = Arc::new(Mutex::new(child));
        std::thread::spawn({
            let said = said.clone();
            move || {
                let mut text = Vec::new();
                let _ = errors.by_ref().take(4096).read_to_end(&mut text);
                *said.lock().expect("nothing panics while it holds this lock") =
                    String::from_utf8_lossy(&text).into_owned();
                let _ = io::copy(&mut errors, &mut io::sink());
            }
        });
        let watched = Arc::downgrade(&child);
        std::thread::spawn(move || {
            std::thread::sleep(DEADLINE);
            if let Some(child) = watched.upgrade() {
                let _ = child.lock().expect("nothing panics while it holds this lock").kill();
            }
        });
        Ok(SshStream {
            remote: self.clone(),
            child,
            input: Some(input),
            output,
            said,
            heard: false,
            _files: (key_file, hosts_file),
        })
    }
}

/// A file that only we can read, and that goes with the conversation.
struct PrivateFile(PathBuf);

impl Drop for PrivateFile {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

fn private_file(folder: &Path, name: &str, content: &str) -> io::Result<PrivateFile> {
    use std::os::unix::fs::OpenOptionsExt;
    use std::sync::atomic::{AtomicU64, Ordering};
    static NUMBER: AtomicU64 = AtomicU64::new(0);
    let path = folder.join(format!(".{name}-{}-{}", std::process::id(), NUMBER.fetch_add(1, Ordering::Relaxed)));
    let _ = std::fs::remove_file(&path);
    let file = PrivateFile(path);
    let mut open = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&file.0)?;
    open.write_all(content.as_bytes())?;
    if !content.ends_with('\n') {
        open.write_all(b"\n")?;
    }
    Ok(file)
}

/// A conversation with a server.
pub(super) struct SshStream {
    remote: Arc<SshRemote>,
    child: Arc<Mutex<Child>>,
    input: Option<ChildStdin>,
    output: ChildStdout,
    said: Arc<Mutex<String>>,
    heard: bool,
    _files: (PrivateFile, PrivateFile),
}

impl Read for SshStream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.output.read(buffer)?;
        self.heard |= count > 0;
        if count == 0 && !self.heard {
            // It ended before git said a word: ssh has said why.
            std::thread::sleep(Duration::from_millis(50));
            let said = self.said.lock().expect("nothing panics while it holds this lock").clone();
            let said = towpath_core::revision::clean_line(said.lines().last().unwrap_or("it ended at once"), 300);
            let host = &self.remote.host;
            let is_lasting = ["Host key verification failed", "Permission denied", "does not appear to be a git"]
                .iter()
                .any(|words| said.contains(words));
            let problem = match is_lasting {
                true => Problem::setup(format!("ssh to {host}: {said}"))
                    .hint("check known_hosts and the key in the Secret, and the path in spec.url"),
                false => Problem::passing(format!("ssh to {host}: {said}")),
            };
            let text = problem.message.clone();
            *self.remote.trouble.lock().expect("nothing panics while it holds this lock") = Some(problem);
            return Err(io::Error::other(text));
        }
        Ok(count)
    }
}

impl Write for SshStream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match &mut self.input {
            Some(input) => input.write(bytes),
            None => Err(io::Error::other("the conversation is over")),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        self.input.as_mut().map_or(Ok(()), Write::flush)
    }
}

impl Drop for SshStream {
    fn drop(&mut self) {
        self.input = None;
        let mut child = self.child.lock().expect("nothing panics while it holds this lock");
        let _ = child.kill();
        let _ = child.wait();
    }
}

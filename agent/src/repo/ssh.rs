//! Git over ssh: the `ssh` program with fixed arguments and an empty environment. It is the only program that Towpath
//! starts.
//!
//! Everything of an address that reaches its arguments, or the command line on the server, has passed the allow-lists
//! in `remote`. The key lies in a file while one operation runs and no longer.

use std::fs::{self, DirBuilder, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, SyncSender, channel, sync_channel};
use std::thread;
use std::time::{Duration, Instant};

use secrecy::{ExposeSecret, SecretString};
use towpath_core::fault::Problem;
use towpath_core::revision::clean_line;

use super::fetch::{self, MAX_PACK_BYTES, Needed};
use super::ls_refs::{self, Asked, Greeting, MAX_LISTING_BYTES, Refs};
use super::packet::{FLUSH, PacketReader, cut_short, garbled};
use super::receive::{self, Decide, MAX_REPORT_BYTES, Sent};
use super::remote::{Credentials, Login, SshAddress};
use super::terms::{Deadline, Refusals, Terms, too_long};

/// Bytes of what `ssh` says in words that are read for a problem.
const MAX_WORDS_BYTES: u64 = 8 << 10;
/// How long `ssh` may take to end after the last byte.
const GRACE: Duration = Duration::from_millis(500);

/// A repository behind ssh, with one login.
pub(super) struct Ssh {
    address: SshAddress,
    private_key: SecretString,
    known_hosts: String,
    /// Holds the folders with the files that `ssh` reads.
    folder: PathBuf,
    terms: Terms,
    reading: Refusals,
    writing: Refusals,
}

/// The program that `ssh` starts on the server.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Service {
    Read,
    Write,
}

impl Ssh {
    /// `folder` holds the key while an operation runs; it need not be there.
    ///
    /// # Errors
    /// `Setup` when there is no key, or no host that is trusted.
    pub(super) fn new(
        address: &SshAddress,
        credentials: &Credentials,
        folder: PathBuf,
        terms: Terms,
    ) -> Result<Ssh, Problem> {
        let Login::SshKey { private_key, known_hosts } = &credentials.login else {
            return Err(Problem::setup(format!("there is no ssh key for {}", address.host))
                .hint("name a Secret with a private key and known_hosts in the Repository"));
        };
        if private_key.expose_secret().trim().is_empty() {
            return Err(Problem::setup(format!("the ssh key for {} is empty", address.host))
                .hint("write a private key without a passphrase into the Secret"));
        }
        if known_hosts.lines().all(|line| line.trim().is_empty() || line.starts_with('#')) {
            return Err(Problem::setup(format!(
                "no key of the host {} is trusted: known_hosts is empty",
                address.host
            ))
            .hint("write the lines of `ssh-keyscan`, after comparing them, into the Secret"));
        }
        Ok(Ssh {
            address: address.clone(),
            private_key: private_key.clone(),
            known_hosts: known_hosts.clone(),
            folder,
            terms,
            reading: Refusals::default(),
            writing: Refusals::default(),
        })
    }

    /// The refs that are asked for.
    pub(super) fn refs(&self, asked: Asked<'_>) -> Result<Refs, Problem> {
        let deadline = Deadline::after(self.terms.whole);
        self.talk(Service::Read, deadline, MAX_LISTING_BYTES, |greeting, packets, to| match greeting {
            Greeting::V0(found) => Ok(found.answer(asked)),
            Greeting::V2(capabilities) => {
                say(to, ls_refs::request(capabilities, asked));
                ls_refs::read_answer(packets, asked)
            }
        })
    }

    /// Writes a pack with what is needed to `pack`.
    pub(super) fn fetch(&self, needed: Needed<'_>, pack: &mut dyn Write) -> Result<(), Problem> {
        let deadline = Deadline::after(if needed.haves.is_empty() { self.terms.first } else { self.terms.whole });
        self.talk(Service::Read, deadline, MAX_PACK_BYTES, |greeting, packets, to| {
            say(to, fetch::request(greeting, needed)?);
            fetch::read_answer(greeting, packets, pack)
        })
    }

    /// Shows what the server has to `decide`, and asks what that says, in one conversation.
    pub(super) fn push(&self, decide: &mut Decide<'_, '_>) -> Result<Sent, Problem> {
        let deadline = Deadline::after(self.terms.whole);
        let mut is_asked = false;
        let limit = MAX_LISTING_BYTES + MAX_REPORT_BYTES;
        let answered = self.talk(Service::Write, deadline, limit, |greeting, packets, to| {
            let Greeting::V0(found) = greeting else { return Err(garbled()) };
            let Some(wanted) = decide(found)? else { return Ok(Sent::Nothing) };
            let request = receive::request(&found.capabilities, &wanted)?;
            is_asked = true;
            say(to, request);
            receive::read_report(&found.capabilities, packets).map(Sent::Report)
        });
        if is_asked { Ok(answered.unwrap_or_else(Sent::Lost)) } else { answered }
    }

    fn talk<T>(
        &self,
        service: Service,
        deadline: Deadline,
        limit: u64,
        talk: impl FnOnce(&Greeting, &mut PacketReader<Pipe>, &Sender<Vec<u8>>) -> Result<T, Problem>,
    ) -> Result<T, Problem> {
        self.refusals(service).check()?;
        let mut session = self.start(service, deadline, limit)?;
        let greeting = ls_refs::read_greeting(&mut session.packets);
        let answer = greeting.and_then(|greeting| talk(&greeting, &mut session.packets, &session.to));
        match answer {
            Ok(answer) => {
                self.refusals(service).clear();
                say(&session.to, FLUSH.to_vec());
                session.end();
                Ok(answer)
            }
            // Where the stream just ended, `ssh` says why.
            Err(problem) if problem == cut_short() => match session.last_words() {
                Some(words) => Err(self.explain(&words, service)),
                None => Err(problem),
            },
            Err(problem) => Err(problem),
        }
    }

    fn refusals(&self, service: Service) -> &Refusals {
        match service {
            Service::Read => &self.reading,
            Service::Write => &self.writing,
        }
    }

    fn start(&self, service: Service, deadline: Deadline, limit: u64) -> Result<Session, Problem> {
        let files =
            Files::write(&self.folder, self.private_key.expose_secret(), &self.known_hosts).map_err(|error| {
                Problem::setup(format!("the files for ssh cannot be written below {}: {error}", self.folder.display()))
                    .hint("the agent must be able to write there")
            })?;
        let mut command = Command::new(&self.terms.ssh);
        command.env_clear().current_dir(&files.folder);
        let program = match service {
            Service::Read => "git-upload-pack",
            // There is no version 2 for writing.
            Service::Write => "git-receive-pack",
        };
        if service == Service::Read {
            command.env("GIT_PROTOCOL", "version=2");
        }
        if let Some(path) = std::env::var_os("PATH") {
            command.env("PATH", path);
        }
        command.args(["-F", "none", "-T", "-x", "-a"]);
        for option in [
            "BatchMode=yes",
            "StrictHostKeyChecking=yes",
            "UserKnownHostsFile=known_hosts",
            "GlobalKnownHostsFile=/dev/null",
            "UpdateHostKeys=no",
            "IdentitiesOnly=yes",
            "IdentityFile=key",
            "IdentityAgent=none",
            "PreferredAuthentications=publickey",
            "ClearAllForwardings=yes",
            "PermitLocalCommand=no",
            "ProxyCommand=none",
            "ControlMaster=no",
            "ControlPath=none",
            "ServerAliveInterval=10",
            "ServerAliveCountMax=2",
            // Version 2 names only the branches that are asked for. A server may ignore it.
            "SendEnv=GIT_PROTOCOL",
        ] {
            command.args(["-o", option]);
        }
        command.args(["-o", &format!("ConnectTimeout={}", self.terms.connect.as_secs().max(1))]);
        if let Some(port) = self.address.port {
            command.args(["-p", &port.to_string()]);
        }
        command.args(["-l", &self.address.user, "--", &self.address.host]);
        command.arg(format!("{program} '{}'", self.address.path));
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let child = command.spawn().map_err(|error| {
            Problem::setup(format!("{} cannot be started: {error}", self.terms.ssh.display()))
                .hint("install an ssh client, or use an https address")
        })?;
        Ok(Session::new(child, files, deadline, limit, self.terms.idle))
    }

    /// What the last words of `ssh` mean.
    fn explain(&self, words: &str, service: Service) -> Problem {
        let host = &self.address.host;
        let has = |part: &str| words.contains(part);
        let last = words.lines().map(str::trim).rfind(|line| !line.is_empty()).unwrap_or_default();
        let last = clean_line(last, 200);
        if has("Host key verification failed") || has("REMOTE HOST IDENTIFICATION HAS CHANGED") {
            Problem::setup(format!("the key of the host {host} is not the trusted one"))
                .hint("if the host has a new key, compare it and write it into known_hosts in the Secret")
        } else if has("Permission denied") {
            let problem = Problem::setup(format!("credentials refused for {host}: {last}"))
                .hint("add the public key to the repository as a deploy key");
            self.refusals(service).note(&problem);
            problem
        } else if service == Service::Write && (has("read only") || has("write access") || has("not allowed to push")) {
            Problem::setup(format!("the ssh key for {host} may not write: {last}"))
                .hint("let the deploy key write to the repository")
        } else if has("invalid format") || has("error in libcrypto") || has("incorrect passphrase") {
            Problem::setup(format!("the ssh key for {host} cannot be read"))
                .hint("write a private key without a passphrase into the Secret")
        } else if has("does not appear to be a git repository") || has("not found") || has("could not be found") {
            Problem::setup(format!("there is no git repository {} on {host}: {last}", self.address.path))
                .hint("check the url, and that the key may read the repository")
        } else if has("No user exists for uid") {
            Problem::setup("ssh does not run under a user id that /etc/passwd does not know")
                .hint("use an https address, or an image that knows the user")
        } else {
            Problem::passing(format!("the git server on {host} cannot be reached: {last}"))
        }
    }
}

fn say(to: &Sender<Vec<u8>>, bytes: Vec<u8>) {
    // Where `ssh` has ended, reading its answer says so.
    let _ = to.send(bytes);
}

/// One run of `ssh`. Its pipes are served by threads, so that nothing here waits for longer than it wants to.
struct Session {
    child: Child,
    to: Sender<Vec<u8>>,
    packets: PacketReader<Pipe>,
    words: Receiver<Vec<u8>>,
    /// Removed when the session ends.
    _files: Files,
}

impl Session {
    fn new(mut child: Child, files: Files, deadline: Deadline, limit: u64, idle: Duration) -> Session {
        let mut stdin = child.stdin.take().expect("stdin was asked to be a pipe");
        let stdout = child.stdout.take().expect("stdout was asked to be a pipe");
        let stderr = child.stderr.take().expect("stderr was asked to be a pipe");
        let (to, requests) = channel::<Vec<u8>>();
        let (chunks, from) = sync_channel(16);
        let (all_words, words) = sync_channel(1);
        thread::spawn(move || requests.into_iter().try_for_each(|request| stdin.write_all(&request)));
        thread::spawn(move || read_chunks(stdout, &chunks));
        thread::spawn(move || {
            let mut words = Vec::new();
            let mut stderr = stderr;
            // What cannot be read is not there to explain a problem; the problem itself shows on stdout.
            let _ = stderr.by_ref().take(MAX_WORDS_BYTES).read_to_end(&mut words);
            let _ = all_words.send(words);
            let _ = io::copy(&mut stderr, &mut io::sink());
        });
        let pipe = Pipe { from, chunk: Vec::new(), at: 0, left: limit, limit, deadline, idle };
        Session { child, to, packets: PacketReader::new(pipe), words, _files: files }
    }

    /// What `ssh` said before it ended, if it said anything.
    fn last_words(&self) -> Option<String> {
        let words = self.words.recv_timeout(GRACE).ok()?;
        let words = String::from_utf8_lossy(&words).into_owned();
        if words.trim().is_empty() { None } else { Some(words) }
    }

    /// Lets `ssh` end by itself.
    fn end(mut self) {
        let Session { to, .. } = &mut self;
        // Dropping the last sender closes its stdin.
        *to = channel().0;
        let until = Instant::now() + GRACE;
        while Instant::now() < until && matches!(self.child.try_wait(), Ok(None)) {
            thread::sleep(Duration::from_millis(2));
        }
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        // Errors mean that it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn read_chunks(mut from: impl Read, to: &SyncSender<Vec<u8>>) {
    loop {
        let mut chunk = vec![0; 32 << 10];
        match from.read(&mut chunk) {
            Ok(0) | Err(_) => return,
            Ok(read) => chunk.truncate(read),
        }
        if to.send(chunk).is_err() {
            return;
        }
    }
}

/// What comes from `ssh`, with an end in time and in bytes.
struct Pipe {
    from: Receiver<Vec<u8>>,
    chunk: Vec<u8>,
    at: usize,
    left: u64,
    limit: u64,
    deadline: Deadline,
    idle: Duration,
}

impl Read for Pipe {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.at == self.chunk.len() {
            self.deadline.check().map_err(io::Error::other)?;
            let patience = self.deadline.left().min(self.idle);
            self.chunk = match self.from.recv_timeout(patience) {
                Ok(chunk) => chunk,
                Err(RecvTimeoutError::Disconnected) => return Ok(0),
                Err(RecvTimeoutError::Timeout) => {
                    return Err(io::Error::other(Problem::passing("the git server does not answer in time")));
                }
            };
            self.at = 0;
            let length = self.chunk.len() as u64;
            self.left = self.left.checked_sub(length).ok_or_else(|| io::Error::other(too_long(self.limit)))?;
        }
        let read = (self.chunk.len() - self.at).min(buffer.len());
        buffer[..read].copy_from_slice(&self.chunk[self.at..self.at + read]);
        self.at += read;
        Ok(read)
    }
}

/// A folder with the files that `ssh` reads, for nobody else's eyes.
struct Files {
    folder: PathBuf,
}

impl Files {
    fn write(below: &Path, private_key: &str, known_hosts: &str) -> io::Result<Files> {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let folder = below.join(COUNT.fetch_add(1, Ordering::Relaxed).to_string());
        DirBuilder::new().recursive(true).mode(0o700).create(&folder)?;
        let files = Files { folder };
        // `ssh` takes no key whose last line has no end.
        for (name, content) in [("key", private_key), ("known_hosts", known_hosts)] {
            let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(files.folder.join(name))?;
            writeln!(file, "{}", content.trim_end())?;
        }
        Ok(files)
    }
}

impl Drop for Files {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.folder) {
            tracing::warn!(folder = %self.folder.display(), %error, "the files for ssh could not be removed");
        }
    }
}

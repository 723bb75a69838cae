//! Child processes that end with us, however we end.
//!
//! On Linux a child can ask for a signal when the thread that started it ends. So all children are started from one
//! thread that lives as long as the process: a panic, a Ctrl-C and a SIGKILL of the test binary end them alike.

use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::sync::{Mutex, OnceLock};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

type Job = (Command, mpsc::Sender<std::io::Result<Child>>);

/// Starts a program whose output goes to a file.
///
/// # Errors
/// When the file cannot be written or the program cannot be started.
pub fn spawn(mut command: Command, log: &Path) -> Result<Running> {
    static STARTER: OnceLock<Mutex<mpsc::Sender<Job>>> = OnceLock::new();
    let starter = STARTER.get_or_init(|| {
        let (sender, jobs) = mpsc::channel::<Job>();
        std::thread::Builder::new()
            .name("starter".into())
            .spawn(move || {
                for (mut command, answer) in jobs {
                    let _ = answer.send(command.spawn());
                }
            })
            .expect("a thread can be started");
        Mutex::new(sender)
    });
    let output = File::options().create(true).append(true).open(log).with_context(|| log.display().to_string())?;
    command.stdin(Stdio::null()).stdout(output.try_clone()?).stderr(output);
    end_with_parent(&mut command);
    let (sender, answer) = mpsc::channel();
    let program = command.get_program().to_owned();
    starter.lock().expect("nothing panics while it holds this lock").send((command, sender))?;
    let child = answer.recv()?.with_context(|| format!("cannot start {}", program.display()))?;
    Ok(Running { child })
}

/// Removes a folder when this process has ended, however it ends: a static is never dropped, and a killed process drops
/// nothing at all.
///
/// # Errors
/// When no shell can be started.
pub fn remove_at_the_end(folder: &Path) -> Result<()> {
    // Its input ends when we do. It waits a moment, for the servers that write there end at the same time.
    let mut command = Command::new("sh");
    command.args(["-c", "read -r _; sleep 0.3; rm -rf \"$FOLDER\""]).env("FOLDER", folder);
    let child = command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null()).spawn()?;
    // Kept open on purpose until we end.
    std::mem::forget(child.stdin);
    Ok(())
}

#[allow(unsafe_code, reason = "the only way to say something between fork and exec")]
fn end_with_parent(command: &mut Command) {
    use std::os::unix::process::CommandExt;
    // SAFETY: prctl and getppid are async-signal-safe and touch no memory of ours.
    unsafe {
        command.pre_exec(|| {
            libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
            Ok(())
        });
    }
}

/// Runs a program to its end and gives what it printed.
///
/// # Errors
/// When it fails; what it said is in the error.
pub fn output(mut command: Command, input: Option<&str>) -> Result<String> {
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().with_context(|| format!("{command:?}"))?;
    child.stdin.take().context("stdin is piped")?.write_all(input.unwrap_or_default().as_bytes())?;
    let output = child.wait_with_output()?;
    anyhow::ensure!(
        output.status.success(),
        "{command:?}: {}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(String::from_utf8(output.stdout)?)
}

/// A process that is killed when it is dropped.
pub struct Running {
    child: Child,
}

impl Running {
    /// Its id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Ends it at once (SIGKILL) and waits until it is gone.
    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Sends a signal.
    #[allow(unsafe_code, reason = "the standard library can only send SIGKILL")]
    pub fn signal(&self, signal: libc::c_int) {
        // SAFETY: kill takes two numbers; the child was not waited for, so its id is still its own.
        unsafe {
            libc::kill(self.child.id() as libc::pid_t, signal);
        }
        if signal == libc::SIGSTOP {
            self.stands_still();
        }
    }

    /// Waits until every thread has stopped: until then it goes on with what it does.
    fn stands_still(&self) {
        let is_stopped = |stat: &str| stat.rsplit_once(')').is_some_and(|(_, rest)| rest.trim_start().starts_with('T'));
        let deadline = Instant::now() + Duration::from_secs(10);
        while Instant::now() < deadline {
            let threads = std::fs::read_dir(format!("/proc/{}/task", self.child.id())).into_iter().flatten();
            let mut stats =
                threads.flatten().filter_map(|thread| std::fs::read_to_string(thread.path().join("stat")).ok());
            if stats.all(|stat| is_stopped(&stat)) {
                return;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// Its exit code, if it has ended.
    pub fn ended(&mut self) -> Option<std::process::ExitStatus> {
        self.child.try_wait().ok().flatten()
    }
}

/// Ends a process at once (SIGKILL). It must be a child that nobody has waited for, so that its id is still its own.
#[allow(unsafe_code, reason = "the standard library can only kill what it holds")]
pub fn kill(process: u32) {
    // SAFETY: kill takes two numbers.
    unsafe {
        libc::kill(process as libc::pid_t, libc::SIGKILL);
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.kill();
    }
}

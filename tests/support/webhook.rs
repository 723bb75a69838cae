//! An admission webhook on loopback: a few lines of HTTP/1.1 over TLS that deny, hang, fail or change what is sent.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use base64::Engine;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ServerConfig, ServerConnection, StreamOwned};
use serde_json::{Value, json};

/// What a webhook does with what it is asked.
#[derive(Clone, Debug)]
pub enum Manner {
    /// Allows everything.
    Allow,
    /// Denies everything, with this message.
    Deny(String),
    /// Never answers.
    Hang,
    /// Answers every second request with an error of its own.
    FailEverySecond,
    /// Adds another annotation to the object each time.
    Add,
    /// Changes the object by a JSON patch, which a function makes of the request.
    Change(fn(&Value) -> Vec<Value>),
}

/// A webhook that ends when it is dropped.
#[derive(Debug)]
pub struct Webhook {
    address: SocketAddr,
    manner: Arc<Mutex<Manner>>,
    asked: Arc<AtomicUsize>,
    is_over: Arc<AtomicBool>,
}

impl Webhook {
    /// Starts a webhook on a free port.
    ///
    /// # Panics
    /// When no port is free.
    pub fn start(manner: Manner) -> Webhook {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
        let webhook = Webhook {
            address: listener.local_addr().expect("it listens"),
            manner: Arc::new(Mutex::new(manner)),
            asked: Arc::default(),
            is_over: Arc::default(),
        };
        let (manner, asked, is_over) = (webhook.manner.clone(), webhook.asked.clone(), webhook.is_over.clone());
        let tls = tls();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                if is_over.load(Ordering::Relaxed) {
                    return;
                }
                let (manner, asked, tls) = (manner.clone(), asked.clone(), tls.clone());
                std::thread::spawn(move || answer(stream, tls, &manner, &asked));
            }
        });
        webhook
    }

    /// Behaves otherwise from here on.
    pub fn set(&self, manner: Manner) {
        *self.manner.lock().expect("nothing panics while it holds this lock") = manner;
    }

    /// How often it was asked.
    pub fn asked(&self) -> usize {
        self.asked.load(Ordering::Relaxed)
    }

    /// The object that has the API server ask it about a resource in a namespace. `kind` is
    /// `ValidatingWebhookConfiguration` or `MutatingWebhookConfiguration`.
    pub fn configuration(&self, kind: &str, name: &str, namespace: &str, resource: &str) -> Value {
        let ca = base64::engine::general_purpose::STANDARD.encode(include_str!("tls/ca.pem"));
        json!({
            "apiVersion": "admissionregistration.k8s.io/v1", "kind": kind, "metadata": {"name": name},
            "webhooks": [{
                "name": name,
                "clientConfig": {"url": format!("https://{}/admit", self.address), "caBundle": ca},
                "rules": [{
                    "apiGroups": ["*"], "apiVersions": ["*"], "operations": ["CREATE", "UPDATE"],
                    "resources": [resource],
                }],
                "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": namespace}},
                // The dry run asks it, too.
                "sideEffects": "None", "admissionReviewVersions": ["v1"], "failurePolicy": "Fail",
                "timeoutSeconds": 2,
            }],
        })
    }
}

impl Drop for Webhook {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::Relaxed);
        let _ = TcpStream::connect(self.address);
    }
}

fn tls() -> Arc<ServerConfig> {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("support/tls");
    let certificates: Vec<CertificateDer> = CertificateDer::pem_file_iter(folder.join("good.pem"))
        .expect("the certificate is there")
        .map(|certificate| certificate.expect("it can be read"))
        .collect();
    let key = PrivateKeyDer::from_pem_file(folder.join("server.key")).expect("the key is there");
    let config = ServerConfig::builder().with_no_client_auth().with_single_cert(certificates, key);
    Arc::new(config.expect("key and certificate belong together"))
}

fn add_patch(response: &mut Value, patch: Vec<Value>) {
    let patch = base64::engine::general_purpose::STANDARD.encode(Value::from(patch).to_string());
    response["patchType"] = "JSONPatch".into();
    response["patch"] = patch.into();
}

/// Answers the one request of a connection.
fn answer(stream: TcpStream, tls: Arc<ServerConfig>, manner: &Mutex<Manner>, asked: &AtomicUsize) -> Option<()> {
    let connection = ServerConnection::new(tls).ok()?;
    let mut stream = BufReader::new(StreamOwned::new(connection, stream));
    let mut length = 0;
    loop {
        let mut line = String::new();
        stream.read_line(&mut line).ok()?;
        let line = line.trim().to_ascii_lowercase();
        if line.is_empty() {
            break;
        }
        length = line.strip_prefix("content-length:").map_or(Some(length), |text| text.trim().parse().ok())?;
    }
    let mut body = vec![0; length];
    stream.read_exact(&mut body).ok()?;
    let review: Value = serde_json::from_slice(&body).ok()?;
    let number = asked.fetch_add(1, Ordering::Relaxed);
    let manner = manner.lock().expect("nothing panics while it holds this lock").clone();
    let mut response = json!({"uid": review["request"]["uid"], "allowed": true});
    let mut status = "200 OK";
    match manner {
        Manner::Allow => {}
        Manner::Deny(message) => {
            response["allowed"] = false.into();
            response["status"] = json!({"message": message});
        }
        Manner::Hang => std::thread::sleep(Duration::from_secs(60)),
        Manner::FailEverySecond if number.is_multiple_of(2) => status = "500 Internal Server Error",
        Manner::FailEverySecond => {}
        Manner::Add => {
            let path = format!("/metadata/annotations/webhook-{number}");
            let mut patch = vec![json!({"op": "add", "path": path, "value": "x"})];
            if review.pointer("/request/object/metadata/annotations").is_none() {
                patch.insert(0, json!({"op": "add", "path": "/metadata/annotations", "value": {}}));
            }
            add_patch(&mut response, patch);
        }
        Manner::Change(change) => add_patch(&mut response, change(&review["request"])),
    }
    let review = json!({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "response": response});
    let review = review.to_string();
    let stream = stream.get_mut();
    let head = format!(
        "HTTP/1.1 {status}\r\ncontent-type: application/json\r\ncontent-length: {}\r\nconnection: close\r\n\r\n",
        review.len()
    );
    stream.write_all(head.as_bytes()).ok()?;
    stream.write_all(review.as_bytes()).ok()?;
    stream.conn.send_close_notify();
    stream.flush().ok()
}

//! The Lease that says which replica leads, and the requests about it.
//!
//! They go over connections of their own: neither the brake nor sixteen large requests before them may delay a renewal.
//! What is asked, and what follows from an answer, [`towpath_core::lease`] says.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::{Lease as LeaseObject, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use kube::api::{Api, PostParams};
use kube::{Client, Config};
use rand::RngExt;
use towpath_core::fault::Problem;
use towpath_core::lease::{Ask, Election, Record, Terms};

use super::fence::{Fence, uptime};
use super::{Manner, gate};

/// Time for giving the lease back at the end.
const RELEASE_DEADLINE: Duration = Duration::from_secs(3);

/// Where the Lease is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// The agent's own namespace.
    pub namespace: String,
    /// The name of the Lease.
    pub name: String,
}

/// The election as this replica takes part in it.
pub struct Lease {
    client: Client,
    api: Api<LeaseObject>,
    place: Place,
    election: Election,
    /// The Lease as it was last read or written, so that fields which are not ours stay.
    kept: Option<LeaseObject>,
    /// Whether the last round failed: it is said once.
    is_in_trouble: bool,
}

impl Lease {
    /// Opens connections for the election. No request is made.
    ///
    /// # Errors
    /// `Setup` when the configuration cannot be used.
    pub fn connect(config: Config, place: Place, identity: &str, terms: Terms) -> Result<Lease, Problem> {
        let manner = Manner { user_agent: Some(super::user_agent(identity)), unbraked: true, ..Manner::default() };
        let (client, _) = gate::open(config, manner)?;
        let api = Api::namespaced(client.clone(), &place.namespace);
        let election = Election::new(identity, terms);
        Ok(Lease { client, api, place, election, kept: None, is_in_trouble: false })
    }

    /// The client of the election. What it writes passes no fence.
    pub(super) fn client(&self) -> Client {
        self.client.clone()
    }

    /// Where the Lease is.
    pub(super) fn place(&self) -> &Place {
        &self.place
    }

    /// The times of the election.
    pub fn terms(&self) -> Terms {
        *self.election.terms()
    }

    /// Which other replica leads as far as this one knows; empty for none, `None` where the Lease was not read yet.
    pub fn leader(&self) -> Option<&str> {
        self.election.leader().map(|leader| if leader == self.election.identity() { "" } else { leader })
    }

    /// Takes part until this replica leads, and gives the fence of its term. `seen` is told who leads after each round.
    /// It may be dropped at any time.
    pub async fn win(&mut self, mut seen: impl FnMut(Option<&str>)) -> Fence {
        loop {
            let sent = self.round().await;
            if let Some(sent) = sent.filter(|_| self.election.leads(uptime())) {
                return Fence::of_term(self.terms(), sent);
            }
            seen(self.leader());
            let pause = self.election.pause(uptime(), rand::rng().random_range(0.0..=1.0));
            tokio::time::sleep(pause).await;
        }
    }

    /// Renews the lease until it is lost, and moves the fence with each renewal. The fence is closed at the end.
    pub async fn hold(&mut self, fence: &Fence) {
        loop {
            let now = uptime();
            if !self.election.leads(now) {
                break;
            }
            let pause = self.election.pause(now, 0.0).min(self.election.leads_for(now));
            tokio::time::sleep(pause).await;
            if !self.election.leads(uptime()) {
                break;
            }
            let limit = self.election.leads_for(uptime());
            // Beyond its time even a renewal that succeeds comes too late.
            if let Ok(Some(sent)) = tokio::time::timeout(limit, self.round()).await
                && self.election.leads(uptime())
            {
                fence.renewed(sent);
            }
        }
        fence.close();
    }

    /// Gives the lease back, if it is ours, so that another replica takes over at its next look.
    pub async fn release(&mut self) {
        let Some(record) = self.election.release(Timestamp::now()) else { return };
        match tokio::time::timeout(RELEASE_DEADLINE, self.give_back(record)).await {
            Ok(Ok(_)) => tracing::info!(lease = %self.place.name, "the lease is given back"),
            Ok(Err(error)) => tracing::warn!(%error, "the lease was not given back; another replica waits for its end"),
            Err(_) => tracing::warn!("the lease was not given back in time; another replica waits for its end"),
        }
    }

    async fn give_back(&mut self, record: Record) -> kube::Result<LeaseObject> {
        match self.update(record.clone()).await {
            // A renewal was on its way when this replica was told to end.
            Err(kube::Error::Api(status)) if status.code == 409 => {
                let lease = self.api.get(&self.place.name).await?;
                if record_of(&lease).holder != self.election.identity() {
                    return Err(kube::Error::Api(status));
                }
                self.kept = Some(lease);
                self.update(record).await
            }
            answer => answer,
        }
    }

    /// One round. Gives when the request was sent by which this replica won or renewed the lease.
    async fn round(&mut self) -> Option<Duration> {
        let mut ask = self.election.begin(uptime(), Timestamp::now());
        let mut may_look_again = matches!(ask, Ask::Update(_));
        let error = loop {
            match self.ask(&mut ask).await {
                Ok(None) if ask != Ask::Nothing => {}
                Ok(sent) => {
                    if std::mem::take(&mut self.is_in_trouble) {
                        tracing::info!(lease = %self.place.name, "the lease can be read and written again");
                    }
                    return sent;
                }
                // Somebody else wrote it: what stands there now says what is next.
                Err(kube::Error::Api(_)) if may_look_again => {
                    may_look_again = false;
                    ask = Ask::Read;
                }
                Err(error) => break error,
            }
        };
        // Of two that write at one time one is late: that is what the version is for, and no trouble.
        let is_late = matches!(&error, kube::Error::Api(status) if status.code == 409);
        if !is_late && !std::mem::replace(&mut self.is_in_trouble, true) {
            let place = format!("{}/{}", self.place.namespace, self.place.name);
            tracing::warn!(%error, lease = place, "no access to the lease; trying again");
        }
        None
    }

    /// Asks, and leaves the next thing to ask in place of it: [`Ask::Nothing`] at the end of a round. Gives when a
    /// write that succeeded was sent.
    async fn ask(&mut self, ask: &mut Ask) -> kube::Result<Option<Duration>> {
        let limit = self.terms().request_deadline();
        let sent = uptime();
        match std::mem::replace(ask, Ask::Nothing) {
            Ask::Nothing => Ok(None),
            Ask::Read => {
                let read = in_time(limit, self.api.get_opt(&self.place.name)).await?;
                *ask = self.election.read(read.as_ref().map(record_of), uptime(), Timestamp::now());
                self.kept = read;
                Ok(None)
            }
            Ask::Create(record) => {
                let metadata = ObjectMeta { name: Some(self.place.name.clone()), ..ObjectMeta::default() };
                let lease = LeaseObject { metadata, spec: Some(spec_of(&record, None)) };
                let written = in_time(limit, self.api.create(&PostParams::default(), &lease)).await?;
                self.election.wrote(record_of(&written), sent, uptime());
                self.kept = Some(written);
                Ok(Some(sent))
            }
            Ask::Update(record) => {
                let written = in_time(limit, self.update(record)).await?;
                self.election.wrote(record_of(&written), sent, uptime());
                self.kept = Some(written);
                Ok(Some(sent))
            }
        }
    }

    /// Writes over the version that is kept.
    async fn update(&self, record: Record) -> kube::Result<LeaseObject> {
        let mut lease = self.kept.clone().unwrap_or_default();
        lease.spec = Some(spec_of(&record, lease.spec.take()));
        self.api.replace(&self.place.name, &PostParams::default(), &lease).await
    }
}

async fn in_time<T>(limit: Duration, call: impl Future<Output = kube::Result<T>>) -> kube::Result<T> {
    let late = || kube::Error::Service("no answer in time".into());
    tokio::time::timeout(limit, call).await.unwrap_or_else(|_| Err(late()))
}

fn record_of(lease: &LeaseObject) -> Record {
    let spec = lease.spec.clone().unwrap_or_default();
    Record {
        holder: spec.holder_identity.unwrap_or_default(),
        duration_s: spec.lease_duration_seconds,
        acquired: spec.acquire_time.map(|time| time.0),
        renewed: spec.renew_time.map(|time| time.0),
        transitions: spec.lease_transitions,
        version: lease.metadata.resource_version.clone().unwrap_or_default(),
    }
}

/// The spec for a record; what the record says nothing of stays as it was.
fn spec_of(record: &Record, before: Option<LeaseSpec>) -> LeaseSpec {
    LeaseSpec {
        holder_identity: Some(record.holder.clone()),
        lease_duration_seconds: record.duration_s,
        acquire_time: record.acquired.map(MicroTime),
        renew_time: record.renewed.map(MicroTime),
        lease_transitions: record.transitions,
        ..before.unwrap_or_default()
    }
}
